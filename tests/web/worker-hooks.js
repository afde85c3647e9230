// Faults and counters that tests put into the page's worker, in front of its script, so that nothing of them ships.

import { readFileSync } from "node:fs";
import path from "node:path";

import { DIST } from "./server.js";

const worker = () => readFileSync(path.join(DIST, "worker.js"), "utf8");

/**
 * Serves the worker with `codes` in front of its script: the first worker that starts gets the first of them, and so on;
 * those after the last get none. Returns a function that tells how many workers were started.
 */
export function hook(server, ...codes) {
  let starts = 0;
  server.routes.set("/worker.js", (_request, response) => {
    const body = `${codes[starts++] ?? ""}\n${worker()}`;
    response.writeHead(200, { "Content-Type": "text/javascript", "Cache-Control": "no-store" }).end(body);
  });
  return () => starts;
}

/** The same code in front of every worker. */
export function hookAll(server, code) {
  server.routes.set("/worker.js", { type: "text/javascript", body: `${code}\n${worker()}` });
}

/** Keeps the devices, and answers the page's `new BroadcastChannel("faults")` with what `message` names. */
const CHANNEL = `{
  const devices = [];
  const { requestDevice } = GPUAdapter.prototype;
  GPUAdapter.prototype.requestDevice = async function (...args) {
    devices.push(await requestDevice.apply(this, args));
    return devices.at(-1);
  };
  globalThis.lose = () => devices.at(-1).destroy();
  new BroadcastChannel("faults").onmessage = ({ data }) => (data === "lose" ? lose() : self.close());
}`;

/** Destroys the device when the page says "lose", and closes the worker when it says anything else. */
export const ON_DEMAND = CHANNEL;

/** Destroys the device at the nth call of a WebGPU method, such as ("GPUQueue", "writeBuffer", 3). */
export const loseAt = (type, method, nth) => `${CHANNEL}
{
  const original = ${type}.prototype.${method};
  let calls = 0;
  ${type}.prototype.${method} = function (...args) {
    if (++calls === ${nth}) lose();
    return original.apply(this, args);
  };
}`;

/** So many buffers, of at least \`bytes\` and at most \`most\`, cannot be had: they are invalid, and the device reports it. */
export const noMemory = (bytes, times = Infinity, most = Infinity) => `{
  const { createBuffer } = GPUDevice.prototype;
  let left = ${times === Infinity ? "Infinity" : times};
  GPUDevice.prototype.createBuffer = function (descriptor) {
    if (descriptor.size < ${bytes} || descriptor.size > ${most} || left-- <= 0) return createBuffer.call(this, descriptor);
    return createBuffer.call(this, { ...descriptor, size: this.limits.maxBufferSize + 4 });
  };
}`;

/** Counts the GPU's buffers and the devices, and tells the page's \`new BroadcastChannel("memory")\` when it asks. */
export const COUNT = `{
  const live = new Map();
  let devices = 0;
  const { createBuffer } = GPUDevice.prototype;
  GPUDevice.prototype.createBuffer = function (descriptor) {
    const buffer = createBuffer.call(this, descriptor);
    live.set(buffer, descriptor.size);
    return buffer;
  };
  const { destroy } = GPUBuffer.prototype;
  GPUBuffer.prototype.destroy = function () {
    live.delete(this);
    return destroy.call(this);
  };
  const { requestDevice } = GPUAdapter.prototype;
  GPUAdapter.prototype.requestDevice = function (...args) {
    devices++;
    return requestDevice.apply(this, args);
  };
  const channel = new BroadcastChannel("memory");
  channel.onmessage = ({ data }) => {
    if (data !== "how much") return;
    let bytes = 0;
    for (const size of live.values()) bytes += size;
    channel.postMessage({ bytes, buffers: live.size, devices });
  };
}`;
