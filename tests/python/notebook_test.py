#!/usr/bin/env python
"""Executes examples/notebook/train_and_show.ipynb with a few iterations and looks at what it shows.

Run on demand; continuous integration does not. It takes about a minute.

    pip install torch diffusers safetensors pillow nbconvert ipykernel
    cargo xtask build
    CHROME=/usr/bin/chromium python tests/python/notebook_test.py

With CHROME (and Node, and `npm ci` in tests/web) the notebook is exported to HTML and opened as a file, and the element
in it must draw the pictures that diffusers draws of the saved model. DIST names another folder than dist/, ITERATIONS another
number than 20; with KEEP=FILE the exported page is kept.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from checks import ROOT, Report, diffusers_samples

LABELS = [0, 0, 0, 0, 1, 1, 1, 1]

BROWSER = """
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";
const [page, executable] = process.argv.slice(1);
const browser = await chromium.launch({ executablePath: executable, args: ["--no-sandbox", "--enable-unsafe-webgpu"] });
const results = {};
// As a file, and as Jupyter shows it, from this machine.
for (const address of [`file://${page}`, "http://localhost/notebook.html"]) {
  const tab = await browser.newPage();
  tab.on("pageerror", (error) => console.error(error.message));
  // No other address may be asked; the exported page asks for scripts that its formulas would need.
  await tab.route(/^https?:/, (route) => {
    if (route.request().url() === address) return route.fulfill({ body: readFileSync(page, "utf8"), contentType: "text/html" });
    return route.abort();
  });
  await tab.goto(address, { waitUntil: "commit" });
  const handle = await tab.waitForSelector("iframe[srcdoc]", { timeout: 60000 });
  const frame = await handle.contentFrame();
  await frame.waitForFunction(() => customElements.get("consistency-sampler"), null, { timeout: 60000 });
  results[new URL(address).protocol] = await frame.evaluate(async () => {
    const element = document.querySelector("consistency-sampler");
    const { device, processor, classNames } = await element.ready;
    const { images } = await element.sample();
    const notices = Array.from(element.shadowRoot.querySelectorAll("[part~=notice]"), (e) => e.textContent);
    return { device, processor, classNames, notices, images: images.map(({ data }) => Array.from(data)) };
  });
  await tab.close();
}
console.log(JSON.stringify({ version: browser.version(), results }));
await browser.close();
"""


def in_browser(page):
    node = ["node", "--input-type=module", "-e", BROWSER, page, os.environ["CHROME"]]
    done = subprocess.run(node, cwd=ROOT / "tests/web", capture_output=True, text=True, timeout=300)
    print(done.stderr, end="")
    if done.returncode:
        sys.exit(f"error: the browser's script ended with status {done.returncode}")
    return json.loads(done.stdout)


def main():
    import nbformat
    import numpy as np
    from diffusers import ConsistencyModelPipeline
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import ExecutePreprocessor

    report = Report("torch", "diffusers", "nbconvert", "ipykernel", "nbformat")
    notebook = nbformat.read(ROOT / "examples/notebook/train_and_show.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells), "the notebook is kept without outputs"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DIST"] = str(Path(os.environ.get("DIST", ROOT / "dist")).resolve())
        os.environ.setdefault("ITERATIONS", "20")
        ExecutePreprocessor(timeout=1800).preprocess(notebook, {"metadata": {"path": folder}})
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        errors = [output for output in outputs if output.get("name") == "stderr" and "Error" in output.text]
        assert not errors, errors
        shown = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
        pictures = [output for output in outputs if "image/png" in output.get("data", {})]
        assert len(shown) == 1 and len(pictures) == 1, [list(output.get("data", {})) for output in outputs]
        assert re.search('<iframe [^>]*srcdoc="', shown[0])
        print(f"executed with {os.environ['ITERATIONS']} iterations; the element's output has {len(shown[0])} characters")

        pipeline = ConsistencyModelPipeline.from_pretrained(Path(folder) / "model")
        expected = np.round(255 * diffusers_samples(pipeline, LABELS, seed=6, batch=8)).transpose(0, 2, 3, 1)
        page = Path(folder) / "notebook.html"
        page.write_text(HTMLExporter().from_notebook_node(notebook)[0])
        if "KEEP" in os.environ:
            shutil.copyfile(page, os.environ["KEEP"])
        if "CHROME" not in os.environ:
            print("CHROME is not set: the element was not opened in a browser")
        else:
            browser = in_browser(page)
            print(f"Chromium {browser['version']}")
            for protocol, result in browser["results"].items():
                found = np.array(result.pop("images")).reshape(8, 16, 16, 4)[..., :3]
                error = abs(found - expected).max()
                print(f"{protocol} {json.dumps(result)}: largest difference from diffusers {error:.0f}/255")
                assert error <= 1 and result["classNames"] == ["disc", "square"]
    report.end()


if __name__ == "__main__":
    main()
