// Browsers of three engines behind one small interface: Chromium over playwright, Firefox over WebDriver BiDi, WebKitGTK
// over WebDriver. What a test asks of a page, it asks by expressions that are evaluated there.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { createServer } from "node:net";
import path from "node:path";
import { setTimeout } from "node:timers/promises";

import puppeteer from "puppeteer-core";

import { launch, listen, newPage } from "./browser.js";
import { SCREENSHOTS } from "./page.js";

/**
 * @typedef {object} Tab
 * @property {(address: string) => Promise<unknown>} goto  opens an address
 * @property {(expression: string) => Promise<any>} value  what an expression is in the page, as JSON has it
 * @property {(selector: string) => Promise<unknown>} click  clicks as a person does
 * @property {() => Promise<Buffer>} png  a screenshot of what is seen
 * @property {string[]} complaints  what the page logged as an error or threw, where the browser tells
 * @property {() => Promise<unknown>} close
 */

/** Firefox offers no WebGPU on Linux unless these are set. */
const FIREFOX_WEBGPU = {
  "dom.webgpu.enabled": true,
  "dom.webgpu.workers.enabled": true,
  "gfx.webgpu.ignore-blocklist": true,
};

/** Opens a Chromium with WebGPU. @returns {Promise<Tab>} */
export async function chromium() {
  const browser = await launch();
  const page = await newPage(browser);
  return {
    goto: (address) => page.goto(address),
    value: (expression) => page.evaluate(expression),
    click: (selector) => page.click(selector),
    png: () => page.screenshot(),
    complaints: page.complaints,
    close: () => browser.close(),
  };
}

/**
 * Opens the Firefox that FIREFOX names.
 *
 * @param {object} [options]
 * @param {boolean} [options.webgpu]
 * @returns {Promise<Tab>}
 */
export async function firefox({ webgpu = false } = {}) {
  const browser = await puppeteer.launch({
    browser: "firefox",
    executablePath: process.env.FIREFOX,
    headless: true,
    extraPrefsFirefox: webgpu ? FIREFOX_WEBGPU : { "dom.webgpu.enabled": false },
    protocolTimeout: 120_000,
  });
  const page = await browser.newPage();
  await page.setViewport({ width: 1280, height: 800 });
  // Its events are those of a playwright page.
  const { complaints } = listen(/** @type {any} */ (page));
  return {
    goto: (address) => page.goto(address),
    value: (expression) => page.evaluate(expression),
    click: (selector) => page.click(selector),
    png: async () => Buffer.from(await page.screenshot()),
    complaints,
    close: () => browser.close(),
  };
}

/** Opens WebKitGTK's MiniBrowser by the driver that WEBKIT_DRIVER names, on a display of its own. @returns {Promise<Tab>} */
export async function webkit() {
  const display = await virtualDisplay();
  const port = await freePort();
  const env = { ...process.env, DISPLAY: display.name, WEBKIT_DISABLE_COMPOSITING_MODE: "1", LIBGL_ALWAYS_SOFTWARE: "1" };
  const driver = spawn(process.env.WEBKIT_DRIVER, [`--port=${port}`], { env, stdio: "ignore" });
  const origin = `http://127.0.0.1:${port}`;

  /** Sends a command of https://www.w3.org/TR/webdriver2/ and returns its value. */
  async function command(method, address, parameters) {
    const body = parameters && JSON.stringify(parameters);
    const response = await fetch(origin + address, { method, body });
    const { value } = /** @type {any} */ (await response.json());
    if (!response.ok) throw new Error(`${address}: ${value.error}: ${value.message}`);
    return value;
  }

  const stop = async () => {
    driver.kill();
    await display.stop();
  };
  let session;
  try {
    await ready(() => command("GET", "/status"));
    const binary = process.env.WEBKIT_BROWSER;
    const capabilities = { alwaysMatch: { "webkitgtk:browserOptions": { binary, args: ["--automation"] } } };
    const { sessionId } = await command("POST", "/session", { capabilities });
    session = `/session/${sessionId}`;
    await command("POST", `${session}/timeouts`, { script: 120_000, pageLoad: 120_000 });
    await command("POST", `${session}/window/rect`, { width: 1280, height: 800 });
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    goto: (url) => command("POST", `${session}/url`, { url }),
    value: (expression) => command("POST", `${session}/execute/sync`, { script: `return ${expression}`, args: [] }),
    async click(selector) {
      const found = await command("POST", `${session}/element`, { using: "css selector", value: selector });
      const [element] = Object.values(found);
      await command("POST", `${session}/element/${element}/click`, {});
    },
    png: async () => Buffer.from(await command("GET", `${session}/screenshot`), "base64"),
    complaints: [],
    async close() {
      await command("DELETE", session).catch(() => {});
      await stop();
    },
  };
}

/** Waits until an expression is true in the page. */
export async function waitFor(tab, expression) {
  const timeout = 90_000;
  const end = Date.now() + timeout;
  while (!(await tab.value(expression))) {
    if (Date.now() > end) {
      const seen = await tab.value("document.body.innerText.slice(0, 600)");
      throw new Error(`expected ${expression.slice(0, 200)} within ${timeout} ms; the page says: ${seen}; ${tab.complaints.join("; ")}`);
    }
    await setTimeout(100);
  }
}

/** Keeps a screenshot for a look by eye. */
export async function shoot(tab, name) {
  writeFileSync(path.join(SCREENSHOTS, `${name}.png`), await tab.png());
}

/** An X server without a screen. */
async function virtualDisplay() {
  // It takes a free number and writes it to the third file once it serves.
  const server = spawn("Xvfb", ["-displayfd", "3", "-screen", "0", "1400x1000x24", "-nolisten", "tcp"], {
    stdio: ["ignore", "ignore", "ignore", "pipe"],
  });
  const [number] = await Promise.race([
    once(/** @type {import("node:stream").Readable} */ (server.stdio[3]), "data"),
    once(server, "error").then(([error]) => Promise.reject(error)),
  ]);
  return {
    name: `:${String(number).trim()}`,
    async stop() {
      const ended = once(server, "exit");
      server.kill();
      await ended;
    },
  };
}

async function freePort() {
  const server = createServer();
  await once(server.listen(0, "127.0.0.1"), "listening");
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Waits until an asynchronous function succeeds. */
async function ready(attempt) {
  for (let left = 100; ; left -= 1) {
    try {
      return await attempt();
    } catch (error) {
      if (left === 0) throw error;
      await setTimeout(100);
    }
  }
}
