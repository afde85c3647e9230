// The npm package: what it holds, what its types say, and pages that bundlers build from it.

import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import {
  cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync, symlinkSync, writeFileSync,
} from "node:fs";
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

test("everything can be imported where there is no DOM, and does nothing there", () => {
  const script = `
    const before = Reflect.ownKeys(globalThis);
    for (const name of ["HTMLElement", "customElements", "Worker", "document", "location", "self", "window"]) {
      if (name in globalThis) throw new Error(name + " is there");
    }
    // Node has a navigator; other servers have none.
    delete globalThis.navigator;
    const { ConsistencySamplerElement } = await import("consistency-sampler/element");
    const defined = await import("consistency-sampler/define");
    const { ConsistencySampler, ConsistencySamplerError } = await import("consistency-sampler");
    if (defined.ConsistencySamplerElement !== ConsistencySamplerElement) throw new Error("two classes");
    const added = Reflect.ownKeys(globalThis).filter((name) => !before.includes(name));
    for (const model of ["/weights/mnist/", "https://example.com/model/"]) {
      const error = await ConsistencySampler.load(model).catch((error) => error);
      console.log(error instanceof ConsistencySamplerError, error.code);
    }
    console.log(typeof ConsistencySamplerElement, typeof ConsistencySampler.load, added.length);`;
  writeFileSync(path.join(folder, "import.mjs"), script);
  const said = execFileSync("node", ["import.mjs"], { cwd: folder, encoding: "utf8" });
  assert.equal(said.trim(), "true unsupported\ntrue unsupported\nfunction function 0");
});

/** What the compiler says of a file. */
function check(file, /** @type {Record<string, string>} */ { compiler = "typescript/bin/tsc", ...options } = {}) {
  const compilerOptions = {
    noEmit: true, strict: true, target: "es2022", module: "esnext", moduleResolution: "bundler", lib: ["es2023", "dom", "dom.iterable"], types: [], ...options,
  };
  writeFileSync(path.join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions, files: [file] }));
  try {
    execFileSync("node", [path.join(MODULES, compiler)], { cwd: folder, encoding: "utf8" });
    return [];
  } catch ({ stdout }) {
    return stdout.trim().split("\n").filter((line) => /error TS/.test(line));
  }
}

/** Installs packages of the tests for the project, as links. */
function install(...names) {
  for (const name of names) {
    const link = path.join(folder, "node_modules", name);
    if (existsSync(link)) continue;
    mkdirSync(path.dirname(link), { recursive: true });
    symlinkSync(path.join(MODULES, name), link);
  }
}

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

/** What a template says of the tag rightly, and in three ways wrongly. */
const templates = {
  react: {
    file: "react.tsx",
    options: { jsx: "react-jsx" },
    packages: ["@types/react"],
    good: `
      import { useRef } from "react";
      import "consistency-sampler/define";
      import type { ConsistencySamplerElement } from "consistency-sampler/element";
      export function App() {
        const element = useRef<ConsistencySamplerElement>(null);
        return (
          <consistency-sampler ref={element} key="a" className="x" model="/weights/mnist/" seed={2n ** 60n} steps="2" count={2} class-label="1,2"
            timesteps={[22, 0]} loading="eager" controls onClick={() => element.current?.sample()}
            onsample={({ detail }) => detail.images[0].width.toFixed()} onerror={({ detail }) => detail.code === "input"}>
            <p slot="caption">Digits</p>
          </consistency-sampler>
        );
      }`,
    bad: `
      import "consistency-sampler/define";
      export const a = <consistency-sampler model={3} />;
      export const b = <consistency-sampler loading="soon" />;
      export const c = <consistency-sampler onsample={({ detail }) => detail.nothing} />;`,
  },
  preact: {
    file: "preact.tsx",
    options: { jsx: "react-jsx", jsxImportSource: "preact" },
    packages: ["preact"],
    good: `
      import "consistency-sampler/define";
      export const a = <consistency-sampler key="a" class="x" model="/weights/mnist/" seed={6} class-label="1" onClick={() => {}}
        onsample={({ detail }) => detail.images[0].width.toFixed()} />;`,
    bad: `
      import "consistency-sampler/define";
      export const a = <consistency-sampler model={3} />;
      export const b = <consistency-sampler loading="soon" />;
      export const c = <consistency-sampler onsample={({ detail }) => detail.nothing} />;`,
  },
  vue: {
    file: "App.vue",
    options: { compiler: "vue-tsc/bin/vue-tsc.js" },
    packages: ["vue"],
    good: `<script setup lang="ts">
      import { ref } from "vue";
      import "consistency-sampler/define";
      import type { ConsistencySamplerElement } from "consistency-sampler/element";
      const element = ref<ConsistencySamplerElement>();
      const seed = ref(2n ** 60n);
      </script>
      <template>
        <consistency-sampler ref="element" class="x" model="/weights/mnist/" :seed="seed" steps="2" :count="2" class-label="1,2" controls
          @sample="(event) => event.detail.images[0].width.toFixed()" @click="element?.sample()"><p slot="caption">Digits</p></consistency-sampler>
      </template>`,
    bad: `<script setup lang="ts">
      import "consistency-sampler/define";
      </script>
      <template>
        <consistency-sampler :model="3" />
        <consistency-sampler loading="soon" />
        <consistency-sampler @sample="(event) => event.detail.nothing" />
      </template>`,
  },
};
for (const [name, { file, options, packages, good, bad }] of Object.entries(templates)) {
  test(`templates of ${name} know the tag, and mistakes are seen`, () => {
    install(...packages);
    for (const [text, mistakes] of /** @type {const} */ ([[good, 0], [bad, 3]])) {
      writeFileSync(path.join(folder, file), text);
      const complaints = check(file, options);
      assert.equal(complaints.length, mistakes, complaints.join("\n"));
    }
  });
}

/** Writes a page's project in a folder of its own in the project. */
function project(name, main = `import "consistency-sampler/define";`, src = "/main.js") {
  const root = path.join(folder, name);
  mkdirSync(root);
  const write = (file, text) => writeFileSync(path.join(root, file), text);
  write(
    "index.html",
    `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Built</title><link rel="icon" href="data:,"></head><body>
     <consistency-sampler model="/weights/mnist/" seed="6" class-label="3" loading="eager"></consistency-sampler>
     <script type="module" src="${src}"></script></body></html>`,
  );
  write("main.js", `${main}
    addEventListener("sample", ({ detail }) => { document.title = "drawn " + detail.images.length; });
    addEventListener("error", ({ detail }) => { document.title = "error: " + detail?.message; });`);
  return root;
}

/** Opens what was built, in a folder, and waits for what its page comes to: a title. */
async function titleOf(built) {
  const server = await startServer({ folders: { "/built/": built } });
  const types = { ".html": "text/html", ".js": "text/javascript", ".wasm": "application/wasm" };
  // At the root of its site, as bundlers expect it.
  for (const file of readdirSync(built, { recursive: true, encoding: "utf8" }).filter((file) => path.extname(file))) {
    server.routes.set(`/${file}`, { type: types[path.extname(file)], body: readFileSync(path.join(built, file)) });
  }
  // The site's own must not take the place of what a build leaves out.
  for (const file of ["worker.js", "pkg/consistency_sampler_bg.wasm", "pkg-cpu/consistency_sampler_bg.wasm"]) {
    if (!server.routes.has(`/${file}`)) server.routes.set(`/${file}`, { type: "text/html", status: 404, body: "not here" });
  }
  const browser = await launch();
  try {
    const page = await newPage(browser);
    await page.goto(`${server.origin}/index.html`);
    await page.waitForFunction(() => document.title !== "Built", null, { timeout: 240_000 });
    const title = await page.title();
    if (!title.startsWith("error")) assert.deepEqual(page.complaints, []);
    return title.replace(`from ${server.origin}`, "from ");
  } finally {
    await browser.close();
    await server.stop();
  }
}

/** Runs a program of the tests' packages in a folder; returns what it says. */
const runs = (root, program, ...args) => {
  const { status, stdout, stderr } = spawnSync("node", [path.resolve(MODULES, program), ...args], { cwd: root, encoding: "utf8" });
  assert.equal(status, 0, stdout + stderr);
  return stdout + stderr;
};

for (const [name, args] of Object.entries({ "with its defaults": [], "at a relative base": ["--base", "./"] })) {
  test(`Vite, ${name}, builds a page from it that draws`, async () => {
    const root = project(`vite${args.length}`);
    const said = runs(root, "vite/bin/vite.js", "build", "--logLevel", "warn", ...args);
    assert.equal(said.trim(), "");
    assert.equal(await titleOf(path.join(root, "dist")), "drawn 1");
  });
}

test("Vite renders a page with it on a server", async () => {
  const root = project("server");
  writeFileSync(path.join(root, "entry.js"), `
    import "consistency-sampler/define";
    import { ConsistencySampler } from "consistency-sampler";
    export const render = () => "<consistency-sampler></consistency-sampler>" + typeof ConsistencySampler.load;`);
  // Once left outside of the bundle, as is usual, and once within.
  for (const config of ["", `export default { ssr: { noExternal: true } };`]) {
    writeFileSync(path.join(root, "vite.config.js"), config || "export default {};");
    runs(root, "vite/bin/vite.js", "build", "--ssr", "entry.js", "--logLevel", "warn");
    const [entry] = readdirSync(path.join(root, "dist"));
    const script = `import { render } from "./dist/${entry}"; console.log(render());`;
    const said = execFileSync("node", ["--input-type=module", "--eval", script], { cwd: root, encoding: "utf8" });
    assert.equal(said.trim(), "<consistency-sampler></consistency-sampler>function");
  }
});

const bundlers = {
  esbuild: (root, format = "esm") => {
    install("esbuild");
    const script = `import { build } from "esbuild";
      await build({ entryPoints: ["main.js"], bundle: true, format: "${format}", logLevel: "warning", outfile: "dist/app/main.js" });`;
    writeFileSync(path.join(root, "build.mjs"), script);
    return runs(root, path.join(root, "build.mjs"));
  },
  // Without a plug-in it finds files alone.
  rollup: (root) => {
    const main = readFileSync(path.join(root, "main.js"), "utf8").replace(`"consistency-sampler/define"`, `"../node_modules/consistency-sampler/define.js"`);
    writeFileSync(path.join(root, "main.js"), main);
    return runs(root, "rollup/dist/bin/rollup", "main.js", "--format", "es", "--silent", "--file", "dist/app/main.js");
  },
};
for (const [name, bundle] of Object.entries(bundlers)) {
  test(`${name} builds a page from it that says which file it lacks and draws once that is there`, async () => {
    const root = project(name, undefined, "/app/main.js");
    assert.equal(bundle(root).trim(), "");
    const dist = path.join(root, "dist");
    cpSync(path.join(root, "index.html"), path.join(dist, "index.html"));
    assert.match(await titleOf(dist), /^error: no worker starts from \/app\/worker\.js: its script did not load \(copy worker\.js, pkg\/ and pkg-cpu\/ beside the bundle or set ConsistencySampler\.workerUrl/);
    // As the package's README says: `cp -r node_modules/consistency-sampler/{worker.js,pkg,pkg-cpu} dist/app/`.
    const copy = (file) => cpSync(path.join(installed, file), path.join(dist, "app", file), { recursive: true });
    copy("worker.js");
    assert.match(await titleOf(dist), /^error: the WebAssembly module: http\S+\/app\/pkg\/consistency_sampler_bg\.wasm: /);
    ["pkg", "pkg-cpu"].forEach(copy);
    assert.equal(await titleOf(dist), "drawn 1");
    // Or elsewhere, where the page says so.
    mkdirSync(path.join(dist, "static"));
    for (const file of ["worker.js", "pkg", "pkg-cpu"]) renameSync(path.join(dist, "app", file), path.join(dist, "static", file));
    const source = readFileSync(path.join(root, "main.js"), "utf8");
    const api = name === "rollup" ? "../node_modules/consistency-sampler/consistency-sampler.js" : "consistency-sampler";
    const setting = `import { ConsistencySampler } from "${api}"; ConsistencySampler.workerUrl = "/static/worker.js";`;
    writeFileSync(path.join(root, "main.js"), `${setting}\n${source}`);
    bundle(root);
    assert.equal(await titleOf(dist), "drawn 1");
  });
}

test("a bundle that does not know its own address says so, and draws once it is told", async () => {
  const root = project("iife", undefined, "/app/main.js");
  bundlers.esbuild(root, "iife");
  const dist = path.join(root, "dist");
  cpSync(path.join(root, "index.html"), path.join(dist, "index.html"));
  assert.match(await titleOf(dist), /^error: no worker starts from worker\.js: .*Invalid URL \(copy worker\.js, .* or set ConsistencySampler\.workerUrl/);
  for (const file of ["worker.js", "pkg", "pkg-cpu"]) cpSync(path.join(installed, file), path.join(dist, file), { recursive: true });
  const source = readFileSync(path.join(root, "main.js"), "utf8");
  const setting = `import { ConsistencySampler } from "consistency-sampler"; ConsistencySampler.workerUrl = "worker.js";`;
  writeFileSync(path.join(root, "main.js"), `${setting}\n${source}`);
  bundlers.esbuild(root, "iife");
  assert.equal(await titleOf(dist), "drawn 1");
});
