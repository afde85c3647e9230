// The models that are shipped, and the command line to compare the page with.

import { existsSync, readdirSync } from "node:fs";
import path from "node:path";

const ROOT = path.join(import.meta.dirname, "../..");
export const MODELS = path.join(ROOT, "weights");

/** Their names: folders in `weights/`. */
export const shipped = readdirSync(MODELS).filter((name) => existsSync(path.join(MODELS, name, "model_index.json")));

/** The native tests leave it there; `COMMAND` names another one. */
export const COMMAND = process.env.COMMAND ?? path.join(ROOT, "target/release/consistency-sampler");

/** Why a test that needs it is skipped; false when it is there. */
export const missing = !existsSync(COMMAND) && "the command line is not built: `cargo xtask test` builds it before this";
