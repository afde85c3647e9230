// The worker that trains: it owns the module and the network in training, iterates, shows samples and keeps the run.

import { codeOf, failing, messageOf } from "../error.js";
import { breakCurve, addLoss, emptyCurve } from "./train-curve.js";
import type { Data, FromTrainer, Progress, Recipe, Run, ToTrainer } from "./train-messages.js";
import { keep, kept } from "./train-store.js";
import type { Training } from "../pkg-train/consistency_sampler.js";

/** Seconds of training from one kept state to the next. */
const KEEPING = 20;
/** At least so many milliseconds lie between two sheets of samples, and so many times what the last one took. */
const SAMPLING = { least: 3000, times: 4 };
/** Milliseconds between two reports. */
const REPORTING = 250;
/** How often the learning rate is halved before the run is given up. */
const MOST_HALVINGS = 3;
/** The most seconds that an iteration counts for: a computer may have slept meanwhile. */
const LONGEST = 30;
/** The noise of the samples. */
const NOISE = 1;
/** How the samples of a phase are made: network calls, or levels of the denoiser's path. */
const CALLS: Record<Recipe, number> = { edm: 12, ect: 2, trajectories: 2 };
const LOCK = "consistency-sampler-training";

let training: Training;
let run: Run;
let data: Data;
let progress: Progress;
/** The state to go back to, which the browser may have refused to keep. */
let last: { state: Uint8Array<ArrayBuffer>; progress: Progress };
/** Whether iterations follow one another. */
let going = false;
let looping = false;
/** Calls of the module, one at a time. */
let turn: Promise<unknown> = Promise.resolve();
/** When there is something to do again, in milliseconds. */
const due = { samples: 0, report: 0 };
/** Seconds of training since a state was kept. */
let unkept = 0;
/** Whether a step was made since the network was: the first one waits until the GPU's programs are compiled. */
let warm = false;
/** Whether the page was told that the browser keeps nothing. */
let refused = false;
/** Iterations since the last report. */
let speed = { since: 0, iterations: 0, imagesPerSecond: 0 };

self.onmessage = ({ data: message }: MessageEvent<ToTrainer>) => {
  inTurn(() => act(message)).catch(fail);
};

function post(message: FromTrainer, transfer: Transferable[] = []): void {
  self.postMessage(message, { transfer });
}

/** The page is told of an error, and does not count on this worker any more. */
function fail(error: unknown): void {
  going = false;
  post({ type: "failed", message: messageOf(error), again: (error as { final?: boolean }).final !== true });
}

/** An error that another try would meet again. */
const final = (error: unknown) => Object.assign(new Error(messageOf(error)), { final: true });

function inTurn<T>(action: () => T | Promise<T>): Promise<T> {
  const answer = turn.then(action);
  turn = answer.catch(() => {});
  return answer;
}

async function act(message: ToTrainer): Promise<void> {
  switch (message.type) {
    case "begin":
      return begin(message).catch((error) => {
        throw final(error);
      });
    case "weights":
      return training.pushWeights(message.chunk, message.single);
    case "endFile":
      return training.endFile();
    case "finishWeights":
      training.finishWeights();
      return start();
    case "resume":
      return resume(message.begun);
    case "pause":
      going = false;
      report();
      return post({ type: "paused", kept: await store() });
    case "go":
      return go();
    case "keep":
      await store();
      return;
    case "export": {
      const bytes = training.weightsFile() as Uint8Array<ArrayBuffer>;
      return post({ type: "weights", bytes }, [bytes.buffer]);
    }
  }
}

/** Begins a run; where it has initial weights, they follow. */
async function begin(message: Extract<ToTrainer, { type: "begin" }>): Promise<void> {
  ({ run, data } = message);
  progress = { phase: 0, spent: 0, iteration: 0, halvings: 0, curve: emptyCurve(), ended: false };
  await hold();
  await open();
  if (!message.initial) await start();
}

async function start(): Promise<void> {
  const state = training.state() as Uint8Array<ArrayBuffer>;
  last = { state, progress: structuredClone(progress) };
  await trying(() => keep({ run, data, ...last, time: Date.now() }));
  ready();
}

/** Goes on with the run that is kept. */
async function resume(begun: number): Promise<void> {
  await hold();
  const found = await kept();
  if (found?.run.begun !== begun) {
    throw final(new Error(`expected a kept run to go on with, found ${found ? "another one" : "none"}`));
  }
  ({ run, data } = found);
  last = found;
  await open();
  restore();
  ready();
}

function ready(): void {
  post({ type: "ready", run, weightCount: training.weightCount, device: training.device });
  due.samples = 0;
  if (progress.ended) {
    report();
    inTurn(sample).catch(fail);
  } else go();
}

/** Makes the network as it is at the run's beginning, but for initial weights that follow. */
async function open(): Promise<void> {
  const module = await failing("network", "the WebAssembly module that trains", async () => {
    const module = await import("../pkg-train/consistency_sampler.js");
    await module.default();
    return module;
  });
  const [{ recipe, learningRate }] = run.phases;
  const { unet, scheduler, seed, batch, shift } = run;
  const adapter = run.device === "gpu" && (await navigator.gpu?.requestAdapter().catch(() => null));
  const device = adapter ? "gpu" : "cpu";
  training = await module.Training.create(
    JSON.stringify({ device, unet, scheduler, seed, batch, learningRate, recipe, shift }),
  );
  if (data.kind === "images") training.addImages(data.pixels, data.labels);
  else training.useAnimals(data.masks, data.width, data.parts);
}

/** Puts the network back to the last state. */
function restore(): void {
  progress = structuredClone(last.progress);
  training.restore(last.state);
  warm = false;
  training.setLearningRate(rate());
}

function phaseOf() {
  const phase = run.phases[progress.phase];
  if (!phase) throw new Error(`expected one of ${run.phases.length} phases, found number ${progress.phase + 1}`);
  return phase;
}

const rate = () => phaseOf().learningRate / 2 ** progress.halvings;

function go(): void {
  going = !progress.ended;
  speed = { since: performance.now(), iterations: 0, imagesPerSecond: 0 };
  report();
  if (!looping) loop().catch(fail);
}

async function loop(): Promise<void> {
  looping = true;
  try {
    while (going) {
      await inTurn(iterate);
      await breath();
    }
  } finally {
    looping = false;
  }
}

/** Lets messages in. A timer would be slowed down in a hidden tab. */
function breath(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

/** One iteration and what is due after it. */
async function iterate(): Promise<void> {
  if (!going) return;
  const began = performance.now();
  const phase = phaseOf();
  try {
    const loss = await training.step(Math.min(progress.spent / phase.seconds, 1));
    if (warm) spend(began);
    warm = true;
    progress.iteration++;
    speed.iterations++;
    const before = run.phases.slice(0, progress.phase).reduce((sum, { seconds }) => sum + seconds, 0);
    addLoss(progress.curve, { phase: progress.phase, at: before + progress.spent, loss });
  } catch (error) {
    if (codeOf(error) === "lost" || !/finite/.test(messageOf(error))) throw error;
    return backOff(messageOf(error));
  }
  const then = performance.now();
  if (progress.spent >= phase.seconds) await advance();
  else {
    if (then >= due.samples) await sample();
    if (unkept >= KEEPING) await store();
  }
  spend(then);
  if (performance.now() >= due.report) report();
}

/** Counts the time since `began` as the run's. */
function spend(began: number): void {
  const seconds = Math.min((performance.now() - began) / 1000, LONGEST);
  progress.spent += seconds;
  unkept += seconds;
}

/** The phase is over. */
async function advance(): Promise<void> {
  const next = run.phases[progress.phase + 1];
  if (next) {
    progress.phase++;
    Object.assign(progress, { spent: 0, iteration: 0 });
    breakCurve(progress.curve);
    training.nextPhase(next.recipe, rate());
    warm = false;
  } else {
    going = false;
    progress.ended = true;
  }
  report();
  await sample();
  await store();
}

/** The loss is not finite: the last kept state and half the learning rate. */
function backOff(reason: string): void {
  const halvings = progress.halvings + 1;
  if (halvings > MOST_HALVINGS) {
    throw final(
      new Error(`${reason}, with an eighth of the learning rate too: the run is stopped at its last kept state`),
    );
  }
  last.progress.halvings = halvings;
  restore();
  post({ type: "note", text: `${reason}: back to the last kept state, with half the learning rate (${rate()})` });
}

async function sample(): Promise<void> {
  const began = performance.now();
  const { recipe } = phaseOf();
  const calls = CALLS[recipe];
  const pixels = (await training.sample(NOISE, Uint32Array.from(run.shown), calls)) as Uint8ClampedArray<ArrayBuffer>;
  post({ type: "samples", pixels, recipe, calls }, [pixels.buffer]);
  const now = performance.now();
  due.samples = now + Math.max(SAMPLING.least, SAMPLING.times * (now - began));
}

/** Keeps the run as it is now; false where the browser does not. */
async function store(): Promise<boolean> {
  const state = training.state() as Uint8Array<ArrayBuffer>;
  last = { state, progress: structuredClone(progress) };
  unkept = 0;
  return trying(() => keep({ ...last, time: Date.now() }));
}

/** A browser that stores nothing does not end the run. */
async function trying(action: () => Promise<unknown>): Promise<boolean> {
  try {
    await action();
    return true;
  } catch (error) {
    if (!refused) post({ type: "note", text: `This browser does not keep the run: ${messageOf(error)}` });
    refused = true;
    return false;
  }
}

function report(): void {
  const now = performance.now();
  due.report = now + REPORTING;
  const seconds = (now - speed.since) / 1000;
  if (seconds > 0.2 && speed.iterations) {
    speed = { since: now, iterations: 0, imagesPerSecond: (speed.iterations * run.batch) / seconds };
  }
  post({ type: "progress", progress, imagesPerSecond: speed.imagesPerSecond, going });
}

/** Holds the lock of the one run that a browser keeps; a worker that was just ended may hold it for a moment yet. */
async function hold(): Promise<void> {
  // Only a page that is secure has locks.
  if (!navigator.locks) return;
  for (let tries = 0; tries < 20; tries++) {
    const held = await new Promise<boolean>((resolve, reject) => {
      navigator.locks
        .request(LOCK, { ifAvailable: true }, (lock) => {
          resolve(lock !== null);
          return lock && new Promise(() => {});
        })
        .catch(reject);
    });
    if (held) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw final(new Error("expected one page of this site to train at a time, found another one that does"));
}
