import "consistency-sampler/define";
import { createElement, useState } from "react";
import { createRoot } from "react-dom/client";

function Samples() {
  const [seed, setSeed] = useState(6);
  const [calls, setCalls] = useState(0);
  // The model is below public/weights/mnist/.
  return (
    <main>
      <consistency-sampler model="weights/mnist/" seed={seed} steps={2} count={10} onsample={({ detail }) => setCalls(detail.networkCalls)} />
      <p>
        <button onClick={() => setSeed(seed + 1)}>Another seed</button> {calls} network calls
      </p>
    </main>
  );
}

createRoot(document.querySelector("#root")).render(createElement(Samples));
