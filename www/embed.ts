// The element alone, for an iframe on another page. The address's query says what the element's attributes say.
//
// A link must not make a visitor's browser ask another site, so the model, like everything, is of this one.

import "./define.js";
import { ConsistencySamplerElement } from "./element.js";

const DEFAULT_MODEL = "weights/animals/";
const refused: string[] = [];

const element = document.createElement("consistency-sampler");
const query = new URLSearchParams(location.search);
if (!query.has("model")) query.set("model", DEFAULT_MODEL);
for (const [name, value] of query) {
  if (!ConsistencySamplerElement.observedAttributes.includes(name)) {
    // Sites and messengers add their own to links, which are no visitor's concern.
    console.warn(`${name} is no option here`);
  } else if (["hub", "revision"].includes(name)) refused.push(`${name}, which is no option here`);
  else if (["model", "poster"].includes(name)) {
    // Of what is no address, this origin is empty. In full, a folder without a slash is no hub id.
    const { origin, href } = Object.assign(document.createElement("a"), { href: value });
    if (origin === location.origin) element.setAttribute(name, value && href);
    else refused.push(`${name}, which is not ${name === "model" ? "a folder " : ""}of this site`);
  } else element.setAttribute(name, value);
}
element.setAttribute("same-origin", "");
document.body.append(element);
if (refused.length) {
  const note = document.getElementById("refused");
  if (note) Object.assign(note, { textContent: `Ignored in the address: ${refused.join("; ")}`, hidden: false });
}
