// The element alone, for an iframe on another page. The address's query says what the element's attributes say.
//
// A link must not make a visitor's browser ask another site, so the model, like everything, is of this one.

import "./define.js";
import { ConsistencySamplerElement } from "./element.js";

const DEFAULT_MODEL = "weights/mnist/";
const refused: string[] = [];
const own = (address: string) => new URL(address, document.baseURI).origin === location.origin;

const element = document.createElement("consistency-sampler");
const query = new URLSearchParams(location.search);
if (!query.has("model")) query.set("model", DEFAULT_MODEL);
for (const [name, value] of query) {
  const known = ConsistencySamplerElement.observedAttributes.includes(name) && !["hub", "revision"].includes(name);
  if (!known) refused.push(`${name}, which is no option here`);
  else if (name === "poster" && !own(value)) refused.push("poster, which is not of this site");
  // Without a slash at an end it would be a hub id.
  else if (name === "model" && !(/\/$|^[./]/.test(value) && own(value)))
    refused.push("model, which is not a folder of this site");
  else element.setAttribute(name, value);
}
document.body.append(element);
if (refused.length) {
  const note = document.getElementById("refused");
  if (note) Object.assign(note, { textContent: `Ignored in the address: ${refused.join("; ")}`, hidden: false });
}
