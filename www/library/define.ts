// Registers <consistency-sampler>; importing this file is all that a page needs.

import { ConsistencySamplerElement } from "./element.js";

// So that the tag's type, too, comes with this file.
export { ConsistencySamplerElement };

if (!customElements.get("consistency-sampler")) customElements.define("consistency-sampler", ConsistencySamplerElement);
