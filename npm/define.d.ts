/** Registers <consistency-sampler>. */
import "./element.js";
