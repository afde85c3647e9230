// What test files begin with: a server and a browser, and for those that drive the modules and not the page, an empty page
// to import them on.

import { after, before } from "node:test";

import { launch, newPage } from "./browser.js";
import { startServer } from "./server.js";

/**
 * @typedef {object} Site
 * @property {Awaited<ReturnType<typeof startServer>>} server
 * @property {import("playwright-core").Browser} browser
 * @property {Awaited<ReturnType<typeof newPage>>} page
 */

/**
 * Starts a server and a browser before the file's tests, hands them over and stops them after the tests.
 *
 * @param {(site: Site) => unknown} receive  may be asynchronous
 * @param {object} [options]
 * @param {boolean} [options.blank]  whether the page that is handed over is one of the server's origin that is empty and has
 *   no policy, so that a test imports there what it likes; `window.ConsistencySampler` is there already
 * @param {() => Promise<import("playwright-core").Browser>} [options.start]  starts the browser
 */
export function useSite(receive, { blank = false, start = launch } = {}) {
  let server, browser;
  before(async () => {
    server = await startServer();
    browser = await start();
    const page = await newPage(browser);
    if (blank) {
      await openBlank(page, server);
      await page.evaluate(async () => {
        const { ConsistencySampler } = await import("/consistency-sampler.js");
        window.ConsistencySampler = ConsistencySampler;
      });
    }
    await receive({ server, browser, page });
  });
  after(async () => {
    await browser?.close();
    await server?.stop();
  });
}

/** Makes a page an empty one of the server's origin, without a policy. */
export async function openBlank(page, server) {
  server.routes.set("/blank", { type: "text/html", body: "<!doctype html><title>blank</title>" });
  await page.goto(`${server.origin}/blank`);
}
