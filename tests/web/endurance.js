// Samples for a long time and loads again and again, in one page; prints how much memory is held meanwhile.
//
//     CHROME=… node tests/web/endurance.js [SAMPLES [CYCLES]]
//
// `endurance.test.js` runs a short version. The page's heap and listeners are the browser's own figures, after a garbage
// collection; the GPU's buffers are counted in the worker, and one counts until it is destroyed.

import { launch, newPage } from "./browser.js";
import { startServer } from "./server.js";
import { openBlank } from "./setup.js";
import { COUNT, hookAll } from "./worker-hooks.js";

/**
 * @returns {Promise<{ samples: Memory[], cycles: Memory[], end: Memory, complaints: string[] }>}  readings at even intervals of the samples and
 *   of the load–dispose cycles, and after everything is disposed of
 * @typedef {{ heap: number, listeners: number, nodes: number, workers: number, gpu: ?{ bytes: number, buffers: number,
 *   devices: number }, gpuProcess: number }} Memory  bytes; `gpuProcess` is the resident memory of the browser's GPU process
 */
export async function endure({ samples, cycles, readings = 10, model = "/weights/mnist/" }) {
  const server = await startServer();
  const browser = await launch();
  try {
    hookAll(server, COUNT);
    const page = await newPage(browser);
    await openBlank(page, server);
    await page.evaluate(async (model) => {
      const { ConsistencySampler } = await import("/consistency-sampler.js");
      const channel = new BroadcastChannel("memory");
      const gpu = () =>
        new Promise((resolve) => {
          const timer = setTimeout(() => resolve(null), 2000);
          channel.onmessage = ({ data }) => {
            clearTimeout(timer);
            resolve(data);
          };
          channel.postMessage("how much");
        });
      const load = (address) => ConsistencySampler.load(address, { cache: false });
      Object.assign(window, { ConsistencySampler, gpu, load, first: await load(model) });
    }, model);
    const client = await page.context().newCDPSession(page);
    const root = await browser.newBrowserCDPSession();
    await client.send("Performance.enable");

    async function read() {
      await client.send("HeapProfiler.collectGarbage");
      const { metrics } = await client.send("Performance.getMetrics");
      const metric = (name) => metrics.find((entry) => entry.name === name).value;
      const { processInfo } = await root.send("SystemInfo.getProcessInfo");
      const gpuProcess = await residentBytes(processInfo.find(({ type }) => type === "GPU")?.id);
      const gpu = await page.evaluate(() => window.gpu());
      const [heap, listeners, nodes] = ["JSHeapUsedSize", "JSEventListeners", "Nodes"].map(metric);
      return { heap, listeners, nodes, workers: page.workers().length, gpu, gpuProcess };
    }
    async function rounds(count, action) {
      const found = [];
      for (let at = 0; at < count; at++) {
        await action(at);
        if ((at + 1) % Math.ceil(count / readings) === 0) found.push(await read());
      }
      return found;
    }
    // The first reading leaves a listener of its own.
    await read();
    const sampled = await rounds(samples, (seed) =>
      page.evaluate(async (seed) => {
        let pixels;
        await window.first.sample({ seed, count: 1, numInferenceSteps: 1, onStep: (step) => (pixels = step.pixels) });
        if (new Set(pixels).size < 3) throw new Error(`seed ${seed} gave no picture`);
      }, seed),
    );
    // Another model comes and goes beside the first one.
    const cycled = await rounds(cycles, () =>
      page.evaluate(async () => {
        const sampler = await window.load("/goldens/no-mid/");
        await sampler.sample({ seed: 1, count: 2, numInferenceSteps: 1 });
        sampler.dispose();
      }),
    );
    await page.evaluate(() => window.first.dispose());
    return { samples: sampled, cycles: cycled, end: await read(), complaints: page.complaints };
  } finally {
    await browser.close();
    await server.stop();
  }
}

async function residentBytes(pid) {
  if (!pid) return NaN;
  const { readFile } = await import("node:fs/promises");
  const status = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "");
  return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) * 1024;
}

if (process.argv[1] === import.meta.filename) {
  const [samples = 1000, cycles = 50] = process.argv.slice(2).map(Number);
  const { end, complaints, ...readings } = await endure({ samples, cycles });
  const mb = (bytes) => (bytes / 1e6).toFixed(2);
  console.log("what      heap MB  listeners  nodes  workers  GPU MB  buffers  devices  GPU process MB");
  const line = (what, { heap, listeners, nodes, workers, gpu, gpuProcess }) =>
    console.log(
      [what.padEnd(9), mb(heap), listeners, nodes, workers, gpu ? mb(gpu.bytes) : "-", gpu?.buffers ?? "-"]
        .concat(gpu?.devices ?? "-", mb(gpuProcess))
        .join("  "),
    );
  for (const [what, list] of Object.entries(readings)) for (const reading of list) line(what, reading);
  line("end", end);
  console.log(`complaints: ${JSON.stringify(complaints)}`);
}
