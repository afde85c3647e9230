// Registers <consistency-sampler>; importing this file is all that a page needs.

import { ConsistencySamplerElement } from "./element.js";

if (!customElements.get("consistency-sampler")) customElements.define("consistency-sampler", ConsistencySamplerElement);
