// The measurements of `cargo xtask bench`: steady forwards side by side in one page, and first images from cold pages.

import path from "node:path";

import { launch, newPage } from "../browser.js";
import { startServer } from "../server.js";
import { cpuOfChildren } from "./cpu.js";
import { packedSizes } from "./sizes.js";

/** Each runtime's worker in `page/`, by its key in the result. */
export const RUNTIMES = {
  ours: "ours",
  onnxruntime_web: "onnx",
  burn_wgpu: "burn",
  ours_cpu: "cpu",
  onnxruntime_wasm: "onnx-wasm",
};

/** How far apart two runtimes' outputs may be, in units of the largest value (at least 1), to be timed at all. */
const TOLERANCE = 1e-3;

const MOST_ROUNDS = 15;

// So that memory that nobody can reach is not counted, and the page's memory is told at once.
const SWITCHES = ["--js-flags=--expose-gc", "--enable-blink-features=ForceEagerMeasureMemory"];

/** A page tells its memory only when it is isolated from others. */
const HEADERS = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

const PAGE = path.join(import.meta.dirname, "page");

/** Serves the site, the workers of `page/` under /bench/, and more folders. */
export function serveBench(folders = {}) {
  return startServer({ folders: { "/bench/": `${PAGE}/`, ...folders }, headers: HEADERS });
}

/**
 * Measures every model at every batch size; returns `{ browser, adapter, cases }`.
 *
 * `models` are `{ name, folder, onnx: { [graph]: address } }`, the folder an address of the server; `runtimes` are keys of
 * RUNTIMES. Beside every time stands the CPU time of the browser's processes, which other work on the machine leaves alone.
 * A case is timed for at least `rounds` rounds and on until `seconds` have passed. `cold` is how many cold pages
 * are opened for each runtime; each makes one image, so a model's cases share those figures. `log` is told what goes on. A
 * runtime other than ours that fails or computes something else has `error` in place of its figures.
 */
export async function measure(server, { models, batches, runtimes, rounds, seconds, cold, log }) {
  const browser = await launch(SWITCHES);
  const result = { browser: `Chromium ${browser.version()}`, adapter: null, cases: [] };
  try {
    for (const model of models) {
      const described = await describe(server, model);
      let contenders = runtimes.flatMap((runtime) =>
        runtime.startsWith("onnxruntime")
          ? Object.keys(model.onnx).map((graph) => ({ runtime, graph, onnx: model.onnx[graph] }))
          : [{ runtime }],
      );
      const cases = [];
      for (const batch of batches) {
        const steady = await steadyForwards(browser, server, described, batch, contenders, { rounds, seconds, log });
        result.adapter ??= steady.adapter;
        // The better graph counts, and goes on alone: both were timed at the first batch size.
        const graphs = steady.contenders.filter(({ graph, forward_ms }) => graph && forward_ms);
        const better = graphs.toSorted((a, b) => a.forward_ms - b.forward_ms)[0];
      /** @param {Record<string, any>} contender */
      const counts = ({ graph }) =>
          !graph || graph === (better ?? steady.contenders.find(({ graph }) => graph)).graph;
        const entry = { model: model.name, batch };
        for (const { runtime, ...figures } of steady.contenders.filter(counts)) {
          entry[runtime] = figures;
          if (figures.graph && graphs.length > 1) {
            entry[runtime].graphs = Object.fromEntries(graphs.map(({ graph, forward_ms }) => [graph, forward_ms]));
          }
        }
        contenders = contenders.filter(counts);
        cases.push(entry);
      }
      const working = contenders.filter(({ runtime }) => cases.some((entry) => entry[runtime].forward_ms));
      const first = await coldPages(server, described, working, { cold, log });
      for (const entry of cases) {
        for (const { runtime } of working) Object.assign(entry[runtime], first[runtime]);
        result.cases.push(entry);
      }
    }
  } finally {
    await browser.close();
  }
  return result;
}

/** Adds what the model's configuration says. */
async function describe(server, model) {
  const response = await fetch(`${server.origin}${model.folder}unet/config.json`);
  if (!response.ok) throw new Error(`${model.folder}unet/config.json: the server answered ${response.status}`);
  const config = await response.json();
  const [height, width] = [config.sample_size].flat().concat(config.sample_size);
  return { ...model, shape: [config.in_channels, height, width], classes: config.num_class_embeds ?? null };
}

/** Times first images, each in a browser of its own that has never run anything; returns figures by runtime. */
async function coldPages(server, { folder, shape, classes, name }, contenders, { cold, log }) {
  const samples = Object.fromEntries(contenders.map(({ runtime }) => [runtime, []]));
  const code = {};
  for (let round = 0; round < cold; round++) {
    for (const { runtime, onnx } of contenders) {
      const wanted = {
        runtime: RUNTIMES[runtime],
        folder,
        onnx,
        shape,
        labels: classes && [3 % classes],
      };
      const browser = await launch(SWITCHES);
      try {
        const page = await newPage(browser);
        server.served.length = 0;
        const cpu = cpuOfChildren();
        await page.goto(`${server.origin}/bench/cold.html?case=${encodeURIComponent(JSON.stringify(wanted))}`);
        const { pixels, ...times } = await page.evaluate(() => window.done);
        times.first_image_cpu_ms = cpuOfChildren() - cpu;
        const plain = new Set(pixels).size < 3;
        if (plain) throw new Error(`${runtime}, ${name}: expected a picture, found one of a single shade`);
        code[runtime] = server.served.filter((file) => /\.(js|mjs|wasm)$/.test(file) && !file.startsWith(PAGE));
        const heap = await page.evaluate(async () => (await performance.measureUserAgentSpecificMemory()).bytes);
        samples[runtime].push({ ...times, heap_bytes: heap });
        log(`${name}, cold page ${round + 1}, ${runtime}: first image after ${times.first_image_ms.toFixed(0)} ms`);
      } finally {
        await browser.close();
      }
    }
  }
  if (cold === 0) return {};
  return Object.fromEntries(
    contenders.map(({ runtime }) => {
      const figure = (key) => median(samples[runtime].map((sample) => sample[key]));
      const times = Object.fromEntries(
        ["ready_ms", "first_image_ms", "first_image_cpu_ms"].map((key) => [key, figure(key)]),
      );
      const range = spread(samples[runtime].map(({ first_image_ms }) => first_image_ms));
      return [
        runtime,
        { ...times, first_image_spread_ms: range, heap_bytes: figure("heap_bytes"), ...packedSizes(code[runtime]) },
      ];
    }),
  );
}

/** Runs every contender in a worker of one page: compares their outputs, then times them in turn. */
async function steadyForwards(browser, server, model, batch, contenders, { rounds, seconds, log }) {
  const page = await newPage(browser);
  await page.goto(`${server.origin}/bench/blank.html`);
  try {
    const input = inputs(model, batch);
    await page.evaluate(async (input) => {
      const { Runtime } = await import("/bench/client.js");
      const labels = input.labels && Uint32Array.from(input.labels);
      const [sample, timestep] = [Float32Array.from(input.sample), Float32Array.from(input.timestep)];
      window.workers = [];
      window.start = (name) => window.workers.push(new Runtime(name)) - 1;
      window.call = (i, method, params) => window.workers[i].call(method, params);
      window.forward = (i) => window.call(i, "forward", { sample, shape: input.shape, timestep, labels });
    }, input);

    /** @type {Record<string, any>[]} */
    const figures = [];
    let reference = null;
    for (const { runtime, graph, onnx } of contenders) {
      const what = `${model.name}, batch ${batch}, ${runtime}${graph ? ` (${graph})` : ""}`;
      /** @type {Record<string, any>} */
      const entry = { runtime, ...(graph && { graph }) };
      figures.push(entry);
      try {
        entry.worker = await page.evaluate((name) => window.start(name), RUNTIMES[runtime]);
        const load = { folder: model.folder, onnx, batch };
        const loaded = await page.evaluate(([i, load]) => window.call(i, "load", load), [entry.worker, load]);
        const first = await page.evaluate(async (i) => {
          const { output, ...rest } = await window.forward(i);
          return { output: Array.from(output), ...rest };
        }, entry.worker);
        Object.assign(entry, { load_ms: loaded.ms, first_forward_ms: first.ms });
        entry.pipelines = loaded.pipelines + first.pipelines;
        reference ??= first.output;
        entry.difference = difference(first.output, reference);
        log(
          `${what}: first forward ${first.ms.toFixed(0)} ms in ${first.dispatches} dispatches and ${first.submits} submits, ` +
            `differs by ${entry.difference.toExponential(1)}`,
        );
        if (!(entry.difference <= TOLERANCE)) {
          throw new Error(
            `${what}: expected the output of ${contenders[0].runtime}, found one that differs by ${entry.difference}`,
          );
        }
        entry.times = [];
        entry.cpu = [];
      } catch (error) {
        if (runtime.startsWith("ours")) throw error;
        log(`${what}: ${error.message}`);
        entry.error = error.message.split("\n")[0];
        if (entry.worker !== undefined) await page.evaluate((i) => window.workers[i].stop(), entry.worker);
        delete entry.worker;
      }
    }

    const timed = figures.filter(({ times }) => times);
    const begin = performance.now();
    for (
      let round = 0;
      round < rounds || (round < MOST_ROUNDS && performance.now() - begin < 1000 * seconds);
      round++
    ) {
      for (const entry of timed) {
        const cpu = cpuOfChildren();
        const { ms, dispatches, submits } = await page.evaluate(async (i) => {
          const { output, ...rest } = await window.forward(i);
          return rest;
        }, entry.worker);
        entry.times.push(ms);
        entry.cpu.push(cpuOfChildren() - cpu);
        Object.assign(entry, { dispatches, submits });
      }
    }
    let adapter = null;
    for (const { times, cpu, worker, ...entry } of timed) {
      const state = await page.evaluate((i) => window.call(i, "state"), worker);
      if (adapter !== null && adapter !== state.adapter) {
        throw new Error(`expected one adapter, found "${adapter}" and "${state.adapter}"`);
      }
      adapter = state.adapter;
      figures[figures.findIndex((other) => other.worker === worker)] = {
        ...entry,
        forward_ms: median(times),
        forward_spread_ms: spread(times),
        forward_cpu_ms: median(cpu),
        rounds: times.length,
        gpu_bytes: state.gpu.bytes,
        gpu_peak_bytes: state.gpu.peak,
      };
      log(
        `${model.name}, batch ${batch}, ${entry.runtime}${entry.graph ? ` (${entry.graph})` : ""}: ${median(times).toFixed(0)} ms`,
      );
    }
    return { adapter, contenders: figures };
  } finally {
    await page.context().close();
  }
}

/** A batch of noise, timesteps over the sampler's range and classes, the same in every run. */
function inputs({ shape, classes }, batch) {
  let state = 1;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  const each = (value) => Array.from({ length: batch }, (_, i) => value(i));
  return {
    shape,
    sample: Array.from({ length: batch * shape.reduce((a, b) => a * b) }, normal),
    timestep: each((i) => [1095.5067, 314.5939, 80.9495, -1553.65][i % 4]),
    labels: classes && each((i) => i % classes),
  };
}

/** The largest difference of two outputs, in units of the largest expected value (at least 1); NaN shows. */
function difference(found, expected) {
  if (found.length !== expected.length) return Infinity;
  const scale = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 1);
  return found.reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i])), 0) / scale;
}

export function median(values) {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** The least and the greatest. */
function spread(values) {
  return [Math.min(...values), Math.max(...values)];
}
