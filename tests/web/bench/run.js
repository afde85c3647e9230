// `cargo xtask bench` starts this with everything in place: measures, prints tables, and writes the result as JSON.

import { writeFileSync } from "node:fs";
import { cpus, loadavg } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";

import { RUNTIMES, measure, serveBench } from "./measure.js";
import { rememberSizes } from "./sizes.js";
import { tables } from "./tables.js";

const string = /** @type {const} */ ({ type: "string" });
/** @type {Record<string, { type: "string" }>} */
const options = Object.fromEntries(
  ["folder", "onnxruntime", "models", "batches", "runtimes", "graphs", "rounds", "seconds", "cold", "output"].map(
    (name) => [name, string],
  ),
);
const values = /** @type {Record<string, string>} */ (parseArgs({ options }).values);

const FOLDERS = { mnist: "/weights/mnist/", rgb32: "/models/rgb32/" };

const models = values.models.split(",").map((name) => {
  if (!FOLDERS[name]) throw new Error(`--models: expected some of ${Object.keys(FOLDERS)}, found ${name}`);
  return {
    name,
    folder: FOLDERS[name],
    onnx: Object.fromEntries(values.graphs.split(",").map((graph) => [graph, `/models/${name}-${graph}.onnx`])),
  };
});
const runtimes = values.runtimes.split(",");
const unknown = runtimes.find((name) => !RUNTIMES[name]);
if (unknown) throw new Error(`--runtimes: expected some of ${Object.keys(RUNTIMES)}, found ${unknown}`);

rememberSizes(path.join(values.folder, "sizes.json"));
// Of the last minute: other work on the machine makes times long and noisy.
const load_average = loadavg()[0];
const server = await serveBench({
  "/burn/": path.join(values.folder, "burn"),
  "/models/": path.join(values.folder, "models"),
  "/onnxruntime/": values.onnxruntime,
  // In single precision, as all runtimes read them; the site has them in half.
  "/weights/": path.join(import.meta.dirname, "../../../weights"),
});
try {
  const measured = await measure(server, {
    models,
    batches: values.batches.split(",").map(Number),
    runtimes,
    rounds: Number(values.rounds),
    seconds: Number(values.seconds),
    cold: Number(values.cold),
    log: (line) => console.error(line),
  });
  const result = { machine: `${cpus().length} × ${cpus()[0].model.trim()}`, load_average, ...measured };
  writeFileSync(values.output, `${JSON.stringify(result, null, 2)}\n`);
  console.log(tables(result));
} finally {
  await server.stop();
}
