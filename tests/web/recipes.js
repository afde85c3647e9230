// Builds each project of examples/embed/ and opens it in Chromium from a sub-folder, until its element has drawn. It installs
// each generator, which takes minutes, so it is no part of `cargo xtask test`:
//
//     cargo xtask package && CHROME=/usr/bin/chromium node tests/web/recipes.js [mkdocs sphinx vitepress docusaurus react]
//
// MkDocs and Sphinx want python3 with venv.

import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import path from "node:path";

import { launch, newPage } from "./browser.js";
import { DIST, startServer } from "./server.js";

const ROOT = path.join(import.meta.dirname, "../..");
const EXAMPLES = path.join(ROOT, "examples/embed");
const WORK = process.env.WORK ?? path.join(ROOT, "target/recipes");
const PACKAGE = process.env.PACKAGE ?? path.join(ROOT, "target/npm");
/** Where the built sites lie. */
const FOLDER = "/project/";

const run = (cwd, program, ...args) => execFileSync(program, args, { cwd, stdio: ["ignore", "inherit", "inherit"], env: { ...process.env, BASE_URL: FOLDER } });

/** The files of dist/ that a page needs. */
function sampler(folder) {
  cpSync(DIST, folder, { recursive: true, filter: (file) => !/\/(page|pkg-train|data|index\.html|embed\.\w+|_headers|animals)$/.test(file) });
}

/** The model alone, for those who have the scripts from the npm package. */
function model(folder) {
  cpSync(path.join(DIST, "weights/mnist"), path.join(folder, "weights/mnist"), { recursive: true });
}

function python(...packages) {
  const venv = path.join(WORK, "venv");
  if (!existsSync(venv)) run(WORK, "python3", "-m", "venv", venv);
  run(WORK, path.join(venv, "bin/pip"), "install", "--quiet", ...packages);
  return path.join(venv, "bin");
}

/** Installs what package.json asks for, and the package as npm packs it. */
function npm(folder) {
  const tarball = readdirSync(PACKAGE).find((name) => name.endsWith(".tgz"));
  run(folder, "npm", "install", "--no-audit", "--no-fund", "--loglevel=error", path.join(PACKAGE, tarball));
}

/** Each builds the copy of its example in a folder and returns the folder of the site. */
const RECIPES = {
  mkdocs(folder) {
    sampler(path.join(folder, "docs/sampler"));
    run(folder, path.join(python("mkdocs"), "mkdocs"), "build", "--quiet");
    return path.join(folder, "site");
  },
  sphinx(folder) {
    sampler(path.join(folder, "_static/sampler"));
    run(folder, path.join(python("sphinx"), "sphinx-build"), "-q", ".", "site");
    return path.join(folder, "site");
  },
  vitepress(folder) {
    npm(folder);
    model(path.join(folder, "public"));
    run(folder, "npx", "vitepress", "build", "--base", FOLDER);
    return path.join(folder, ".vitepress/dist");
  },
  docusaurus(folder) {
    run(folder, "npm", "install", "--no-audit", "--no-fund", "--loglevel=error");
    sampler(path.join(folder, "static/sampler"));
    run(folder, "npx", "docusaurus", "build");
    return path.join(folder, "build");
  },
  react(folder) {
    npm(folder);
    model(path.join(folder, "public"));
    run(folder, "npx", "vite", "build");
    return path.join(folder, "dist");
  },
};

const names = process.argv.slice(2);
const browser = await launch();
mkdirSync(WORK, { recursive: true });
for (const [name, build] of Object.entries(RECIPES).filter(([name]) => !names.length || names.includes(name))) {
  const folder = path.join(WORK, name);
  rmSync(folder, { recursive: true, force: true });
  cpSync(path.join(EXAMPLES, name), folder, { recursive: true });
  const server = await startServer({ folders: { [FOLDER]: build(folder) } });
  // Browsers ask for it unasked.
  server.routes.set("/favicon.ico", { type: "image/x-icon", body: "" });
  const page = await newPage(browser);
  const missing = [];
  page.on("response", (response) => response.status() >= 400 && missing.push(response.url()));
  await page.goto(`${server.origin}${FOLDER}`);
  await page.locator("consistency-sampler [part=status]").filter({ hasText: /^10 images in / }).waitFor({ timeout: 240_000 });
  console.log(`${name}: drawn`, page.complaints, missing);
  await page.screenshot({ path: path.join(WORK, `${name}.png`) });
  await page.context().close();
  await server.stop();
}
await browser.close();
