// Times the page's own path in a headless Chromium: load, first image, samples by count. Prints one JSON object.
//
//     cargo xtask build && (cd tests/web && CHROME=/usr/bin/chromium node bench.js)
//
// BEFORE names the folder of another assembled site: both builds are then timed in turn, and `ratio` is the median of the
// pairs, this build divided by the other one.

import { launch, newPage } from "./browser.js";
import { startServer } from "./server.js";

const COLD_PAGES = 5;
const ROUNDS = { 1: 15, 4: 9, 16: 5 };

const { BEFORE } = process.env;
const server = await startServer(BEFORE ? { folders: { "/before/": `${BEFORE}/` } } : {});
const builds = BEFORE ? ["/before/", "/"] : ["/"];

/** A page with the model of one build, and the times that it took. */
async function open(browser, build) {
  const page = await newPage(browser);
  await page.goto(`${server.origin}/weights/mnist/model_index.json`);
  const times = await page.evaluate(async (build) => {
    const { ConsistencySampler } = await import(`${build}consistency-sampler.js`);
    const begin = performance.now();
    const model = await ConsistencySampler.load("/weights/mnist/", { cache: false });
    const load_ms = performance.now() - begin;
    window.draw = async (count) => {
      const begin = performance.now();
      await model.sample({ seed: 1, count, classLabels: Array(count).fill(3), numInferenceSteps: 1 });
      return performance.now() - begin;
    };
    await window.draw(1);
    return { load_ms, first_image_ms: performance.now() - begin };
  }, build);
  return { page, times };
}

/** Calls `time` for each build in turn, in an order that alternates; returns the times of each build. */
async function inTurn(rounds, time) {
  const times = builds.map(() => []);
  for (let round = 0; round < rounds; round++) {
    const order = builds.map((_, i) => (round % 2 ? builds.length - 1 - i : i));
    for (const i of order) times[i].push(await time(i));
  }
  return times;
}

const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];

/** What is printed of one figure. */
function summary(times) {
  const [before, now] = times.length > 1 ? times : [null, times[0]];
  const ratio = before && median(now.map((time, i) => time / before[i]));
  return { ms: median(now), ...(before && { before_ms: median(before), ratio }) };
}

const cold = await inTurn(COLD_PAGES, async (i) => {
  const browser = await launch();
  const { times } = await open(browser, builds[i]);
  await browser.close();
  return times;
});
const result = {
  load: summary(cold.map((times) => times.map((t) => t.load_ms))),
  first_image: summary(cold.map((times) => times.map((t) => t.first_image_ms))),
  samples: {},
};
const browser = await launch();
const pages = [];
for (const build of builds) pages.push((await open(browser, build)).page);
for (const [count, rounds] of Object.entries(ROUNDS)) {
  const draw = async (i) => {
    await pages[i].bringToFront();
    return pages[i].evaluate((count) => window.draw(count), Number(count));
  };
  for (const i of builds.keys()) await draw(i); // makes the plan
  result.samples[count] = summary(await inTurn(rounds, draw));
}
console.log(JSON.stringify(result, null, 1));
await browser.close();
await server.stop();
