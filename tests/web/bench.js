// Times the page's own path in a headless Chromium: load and samples by count. Prints one JSON object.
//
//     cargo xtask build && (cd tests/web && CHROME=/usr/bin/chromium node bench.js)
//
// DIST names another assembled site, so that two builds can be timed in turn.

import { launch, newPage } from "./browser.js";
import { startServer } from "./server.js";

const ROUNDS = 5;
const COUNTS = [1, 4, 16];

const server = await startServer();
const browser = await launch();
const page = await newPage(browser);
await page.goto(`${server.origin}/weights/mnist/model_index.json`);
const times = await page.evaluate(
  async ({ rounds, counts }) => {
    const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];
    const { ConsistencySampler } = await import("/consistency-sampler.js");
    const begin = performance.now();
    const model = await ConsistencySampler.load("/weights/mnist/");
    const one = (count) => model.sample({ seed: 1, count, classLabels: Array(count).fill(3), numInferenceSteps: 1 });
    const load_ms = performance.now() - begin;
    await one(1);
    const result = { load_ms, first_image_ms: performance.now() - begin, forward_ms: {} };
    for (const count of counts) {
      await one(count); // makes the plan
      const took = [];
      for (let round = 0; round < rounds; round++) {
        const start = performance.now();
        await one(count);
        took.push(performance.now() - start);
      }
      result.forward_ms[count] = median(took);
    }
    return result;
  },
  { rounds: ROUNDS, counts: COUNTS },
);
console.log(JSON.stringify(times));
await browser.close();
await server.stop();
