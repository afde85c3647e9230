// A headless Chromium with WebGPU, which falls to SwiftShader where there is no GPU.

import { chromium } from "playwright-core";

const ARGS = [
  "--no-sandbox",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--disable-quic",
];

/** Without it Chromium gives out no adapter here. */
const WEBGPU = "--enable-unsafe-webgpu";

/** Launches the browser that CHROME names, with its usual switches and `more`. */
export async function launch(more = []) {
  return launchWithoutWebGpu([WEBGPU, ...more]);
}

/** Launches it as one that has no adapter for WebGPU to offer. */
export async function launchWithoutWebGpu(more = []) {
  return chromium.launch({ executablePath: executable(), args: [...ARGS, ...more], headless: true });
}

/** Launches it with a profile on the disk, and returns that profile's context. */
export async function launchProfile(folder) {
  return chromium.launchPersistentContext(folder, { executablePath: executable(), args: [...ARGS, WEBGPU], headless: true });
}

function executable() {
  const { CHROME } = process.env;
  if (!CHROME)
    throw new Error("CHROME is not set: expected the path of a Chromium; `cargo xtask test --only web` sets it");
  return CHROME;
}

/** A new page in a context of its own; what it logs as an error or throws ends up in `page.complaints`. */
export async function newPage(browser) {
  const context = await browser.newContext();
  return listen(await context.newPage());
}

/**
 * Collects what a page logs as an error or throws in `page.complaints`.
 *
 * @param {import("playwright-core").Page} page
 */
export function listen(page) {
  /** @type {string[]} */
  const complaints = [];
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(error.message));
  return Object.assign(page, { complaints });
}
