import { launch, newPage } from "/work/main/tests/web/browser.js";
import { startServer } from "/work/main/tests/web/server.js";
const server = await startServer();
const browser = await launch();
const page = await newPage(browser);
await page.goto(`${server.origin}/weights/mnist/model_index.json`);
const r = await page.evaluate(async (counts) => {
  const { ConsistencySampler } = await import("/consistency-sampler.js");
  const t0=performance.now();
  const m = await ConsistencySampler.load("/weights/mnist/", {});
  const out=["load "+(performance.now()-t0|0)];
  for (const count of counts) { const t=performance.now(); await m.sample({seed:1,count,classLabels:Array(count).fill(3),numInferenceSteps:1,onStep(){}}); out.push(count+": "+(performance.now()-t|0)); }
  return out.join(", ");
}, JSON.parse(process.argv[2]??"[1,1,1,4,4]"));
console.log(r);
await browser.close(); await server.stop(); process.exit(0);
