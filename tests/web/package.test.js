// The npm package: what it holds, what its types say, and a page that Vite builds from it.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";

import { launch, newPage } from "./browser.js";
import { startServer } from "./server.js";

const HERE = import.meta.dirname;
const PACKAGE = path.join(HERE, "../../target/npm");
const MODULES = path.join(HERE, "node_modules");

let folder, installed, listed;

/** A project with the packed package in its node_modules, unpacked as npm would. */
before(() => {
  folder = mkdtempSync(path.join(tmpdir(), "consistency-sampler-"));
  const [packed] = JSON.parse(
    execFileSync("npm", ["pack", "--json", "--loglevel=error", "--pack-destination", folder], { cwd: PACKAGE, encoding: "utf8" }),
  );
  listed = packed.files.map(({ path }) => path);
  installed = path.join(folder, "node_modules/consistency-sampler");
  mkdirSync(installed, { recursive: true });
  execFileSync("tar", ["-xzf", path.join(folder, packed.filename), "-C", installed, "--strip-components=1"]);
});
after(() => rmSync(folder, { recursive: true, force: true }));

const read = (file) => readFileSync(path.join(installed, file), "utf8");

test("the tarball holds what the package needs, and nothing else", () => {
  const manifest = JSON.parse(read("package.json"));
  assert.deepEqual(listed.toSorted(), [...manifest.files, "package.json"].toSorted());
  for (const entry of Object.values(manifest.exports)) {
    for (const file of typeof entry === "string" ? [entry] : Object.values(entry)) {
      assert.ok(existsSync(path.join(installed, file)), file);
    }
  }
  // From what is exported one comes, import by import, to every script and to nothing that is missing.
  const reached = new Set();
  const visit = (file) => {
    if (reached.has(file)) return;
    reached.add(file);
    if (!file.endsWith(".js")) return;
    const source = read(file).replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, "");
    const named = [...source.matchAll(/(?:from|import\(?|URL\()\s*["']([^"']+)["']/g)].map(([, name]) => name);
    for (const name of named.filter((name) => /\.(js|wasm)$/.test(name))) visit(path.join(path.dirname(file), name));
  };
  visit("consistency-sampler.js");
  visit("define.js");
  assert.deepEqual([...reached].toSorted(), listed.filter((file) => /\.(js|wasm)$/.test(file)).toSorted());
  // And from the types of what is exported to all declarations.
  const declared = new Set();
  const declare = (file) => {
    if (declared.has(file)) return;
    declared.add(file);
    const named = [...read(file).matchAll(/(?:from|import\(?)\s*["']\.\/([^"']+)\.js["']/g)];
    for (const [, name] of named) declare(`${name}.d.ts`);
  };
  for (const { types } of Object.values(manifest.exports)) if (types) declare(path.normalize(types));
  assert.deepEqual([...declared].toSorted(), listed.filter((file) => file.endsWith(".d.ts")).toSorted());
  assert.match(read("LICENSE-MIT"), /MIT/);
  assert.match(read("LICENSE-APACHE"), /Apache License/);
});

test("the class can be imported where there is no DOM, and does nothing there", () => {
  const script = `
    import { ConsistencySamplerElement } from "consistency-sampler/element";
    import { ConsistencySampler } from "consistency-sampler";
    console.log(typeof ConsistencySamplerElement, typeof ConsistencySampler.load);`;
  writeFileSync(path.join(folder, "import.mjs"), script);
  const said = execFileSync("node", ["import.mjs"], { cwd: folder, encoding: "utf8" });
  assert.equal(said.trim(), "function function");
});

test("the types are right TypeScript, and mistakes are seen", () => {
  const good = `
    import { ConsistencySampler, ConsistencySamplerError, type Step } from "consistency-sampler";
    import { ConsistencySamplerElement } from "consistency-sampler/element";
    import "consistency-sampler/define";

    const element = document.createElement("consistency-sampler");
    element.seed = 2n ** 60n;
    element.classLabel = [1, 2];
    element.columns = null;
    element.addEventListener("sample", ({ detail }) => detail.images[0].width.toFixed());
    element.addEventListener("error", ({ detail }) => detail.code === "input");
    element.addEventListener("progress", ({ detail }) => detail.bytes + (detail.total ?? 0));
    element.addEventListener("click", () => {});
    const other: ConsistencySamplerElement = element;
    const sampler = await ConsistencySampler.load("weights/mnist/", { onProgress: ({ stage }) => stage === "shaders" });
    const steps: Step[] = [];
    await sampler.sample({ seed: 1, blend: { seed: 2n, amount: 0.5 }, onStep: (step) => steps.push(step) });
    const picture = new ImageData(steps[0].pixels, 28, 28);
    await sampler.edit({ kind: "inpaint", image: picture, mask: new ImageData(28, 28) });
    const { noisy } = await sampler.denoise({ image: picture, sigma: 1 });
    const { images } = await other.edit({ kind: "super-resolution", image: picture, patch: 4 });
    console.log(noisy.length, images.length, other.info?.parameters, (await other.ready).sampleSize[0]);
    try { sampler.dispose(); } catch (error) { if (error instanceof ConsistencySamplerError) console.log(error.code); }`;
  const bad = `
    import { ConsistencySampler } from "consistency-sampler";
    const sampler = await ConsistencySampler.load("weights/mnist/");
    await sampler.edit({ kind: "sharpen", image: new ImageData(1, 1) });
    await sampler.sample({ count: "3" });
    sampler.info.nothing;`;
  const alone = `
    import "consistency-sampler/define";
    document.createElement("consistency-sampler").addEventListener("sample", ({ detail }) => detail.networkCalls.toFixed());`;
  writeFileSync(path.join(folder, "good.ts"), good);
  writeFileSync(path.join(folder, "alone.ts"), alone);
  writeFileSync(path.join(folder, "bad.ts"), bad);
  const check = (file) => {
    const tsc = path.join(MODULES, "typescript/bin/tsc");
    const compilerOptions = {
      noEmit: true, strict: true, target: "es2022", module: "esnext", moduleResolution: "bundler", lib: ["es2023", "dom", "dom.iterable"], types: [],
    };
    writeFileSync(path.join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions, files: [file] }));
    try {
      execFileSync("node", [tsc], { cwd: folder, encoding: "utf8" });
      return [];
    } catch ({ stdout }) {
      return stdout.trim().split("\n").filter((line) => /error TS/.test(line));
    }
  };
  assert.deepEqual(check("good.ts"), []);
  assert.deepEqual(check("alone.ts"), []);
  const complaints = check("bad.ts");
  assert.equal(complaints.length, 3, complaints.join("\n"));
});

test("the types name what the classes have", () => {
  const types = read("element.d.ts") + read("consistency-sampler.d.ts");
  const classes = { "element.js": "ConsistencySamplerElement", "consistency-sampler.js": "ConsistencySampler" };
  for (const [file, name] of Object.entries(classes)) {
    const script = `
      import { ${name} as C } from "consistency-sampler${file === "element.js" ? "/element" : ""}";
      const own = (object) => Object.getOwnPropertyNames(object);
      console.log(JSON.stringify([...own(C.prototype), ...own(C)]));`;
    writeFileSync(path.join(folder, "names.mjs"), script);
    const names = JSON.parse(execFileSync("node", ["names.mjs"], { cwd: folder, encoding: "utf8" }));
    const inherited = ["length", "name", "prototype", "constructor", "connectedCallback", "disconnectedCallback", "attributeChangedCallback"];
    for (const member of names.filter((name) => !inherited.includes(name))) {
      assert.match(types, new RegExp(`\\b${member}\\b`), `${name}.${member}`);
    }
  }
});

test("Vite builds a page from it that draws", async () => {
  const write = (file, text) => writeFileSync(path.join(folder, file), text);
  write(
    "index.html",
    `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Vite</title><link rel="icon" href="data:,"></head><body>
     <consistency-sampler model="/weights/mnist/" seed="6" class-label="3" loading="eager"></consistency-sampler>
     <script type="module" src="/main.js"></script></body></html>`,
  );
  write("main.js", `import "consistency-sampler/define";
    addEventListener("sample", ({ detail }) => { document.title = "drawn " + detail.images.length; });
    addEventListener("error", ({ detail }) => { document.title = "error: " + detail?.message; });`);
  // As the package's README says; a worker of one file, Vite's default, cannot leave the CPU's module for later.
  write("vite.config.js", `export default { worker: { format: "es" } };`);
  symlinkSync(path.join(MODULES, "vite"), path.join(folder, "node_modules/vite"));
  const vite = path.join(MODULES, "vite/bin/vite.js");
  execFileSync("node", [vite, "build", "--logLevel", "warn"], { cwd: folder, stdio: ["ignore", "pipe", "pipe"] });
  const assets = readdirSync(path.join(folder, "dist/assets"));
  assert.ok(assets.some((name) => name.endsWith(".wasm")), assets.join(" "));
  const built = {};
  for (const file of ["index.html", ...assets.map((name) => `assets/${name}`)]) built[`/${file}`] = path.join(folder, "dist", file);

  const server = await startServer();
  const types = { ".html": "text/html", ".js": "text/javascript", ".wasm": "application/wasm" };
  for (const [address, file] of Object.entries(built)) {
    server.routes.set(address, { type: types[path.extname(file)], body: readFileSync(file) });
  }
  const browser = await launch();
  try {
    const page = await newPage(browser);
    await page.goto(`${server.origin}/index.html`);
    await page.waitForFunction(() => document.title !== "Vite", null, { timeout: 240_000 });
    assert.equal(await page.title(), "drawn 1");
    assert.deepEqual(page.complaints, []);
  } finally {
    await browser.close();
    await server.stop();
  }
});
