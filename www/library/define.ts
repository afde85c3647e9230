// Registers <consistency-sampler>; importing this file is all that a page needs.

import { ConsistencySamplerElement } from "./element.js";

// So that the tag's type, too, comes with this file, and with it those for templates of frameworks.
export type * from "./frameworks.js";
export { ConsistencySamplerElement };

// Where there is no DOM, as on a server that renders pages, there is nothing to register.
const { customElements } = globalThis;
if (!customElements?.get("consistency-sampler")) {
  customElements?.define("consistency-sampler", ConsistencySamplerElement);
}
