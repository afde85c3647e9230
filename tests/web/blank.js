// The beginning of tests that drive the modules and not the page: a server, a browser, and a page to import them on.

import { launch, newPage } from "./browser.js";
import { startServer } from "./server.js";

/** Opens a page of the server's origin that is empty and has no policy, so that a test imports there what it likes. */
export async function openBlank() {
  const server = await startServer();
  let browser;
  try {
    browser = await launch();
    const page = await newPage(browser);
    server.routes.set("/blank", { type: "text/html", body: "<!doctype html><title>blank</title>" });
    await page.goto(`${server.origin}/blank`);
    return { server, browser, page };
  } catch (error) {
    await browser?.close();
    await server.stop();
    throw error;
  }
}
