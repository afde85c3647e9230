// The page's part that chooses a model: an address or hub id, files picked or dropped, what the browser keeps.
//
// It knows the page's elements; where models come from and how they are kept is behind `consistency-sampler.js`.

import { ConsistencySampler } from "../consistency-sampler.js";
import { byId, element } from "./dom.js";
import { megabytes } from "./words.js";

const address = byId("address");

/** Aborts the load under way; null when there is none. */
let loading = null;
/** What was asked for last, for another try. */
let wanted;

/**
 * Connects the controls; `take(model)` is called with what a person chose: a string or files, `takePicture(file)` with a
 * picture that was dropped on the page.
 */
export function connect(take, takePicture) {
  byId("model-form").addEventListener("submit", (event) => {
    event.preventDefault();
    take(address.value.trim());
  });
  byId("folder").addEventListener("change", ({ target }) => {
    if (target.files.length) take([...target.files]);
    target.value = "";
  });
  byId("stop").addEventListener("click", () => loading?.abort());
  byId("retry").addEventListener("click", () => take(wanted));
  byId("kept").addEventListener("click", async ({ target }) => {
    if (!target.dataset.id) return;
    await ConsistencySampler.forget(target.dataset.id);
    await showKept();
  });
  addEventListener("dragover", (event) => {
    if (event.dataTransfer.types.includes("Files")) event.preventDefault();
  });
  addEventListener("drop", async (event) => {
    const { items, types } = event.dataTransfer;
    if (!types.includes("Files")) return;
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (event.dataTransfer.files.length === 1 && file.type.startsWith("image/")) {
      takePicture(file);
      return;
    }
    // All at once, for what was dropped cannot be read after this event.
    const found = Array.from(items, (item) => {
      const entry = item.webkitGetAsEntry();
      return entry ? filesIn(entry) : [item.getAsFile()];
    });
    take((await Promise.all(found)).flat());
  });
}

/**
 * Lists the models of this site, as buttons.
 *
 * @param {string} folder  that holds them, and `index.json` with what they are
 */
export async function listModels(folder, take) {
  const response = await fetch(`${folder}index.json`);
  if (!response.ok) return; // A site of another make; its models are at their addresses all the same.
  const { models } = await response.json();
  const buttons = models.map(({ path, sampleSize: [height, width], channels, numClassEmbeds }) => {
    const facts = [
      `${width} × ${height}`,
      channels === 1 ? "grey" : "colour",
      numClassEmbeds && `${numClassEmbeds} classes`,
    ];
    const name = element("b", { textContent: path });
    const button = element(
      "button",
      { type: "button", "data-model": `${folder}${path}/` },
      name,
      facts.filter(Boolean).join(" · "),
    );
    button.addEventListener("click", () => take(button.dataset.model));
    return button;
  });
  byId("site-models").replaceChildren(...buttons);
  byId("site-models").hidden = !buttons.length;
  markCurrent();
}

/** Marks the button of the model that was asked for last. */
function markCurrent() {
  for (const button of byId("site-models").children) {
    const href = (address) => new URL(address, document.baseURI).href;
    const current = typeof wanted === "string" && href(wanted) === href(button.dataset.model);
    button.setAttribute("aria-pressed", current);
  }
}

/** Loads a model in view of the person, who may cancel; a load that is under way gives way. */
export async function load(model) {
  loading?.abort();
  const abort = (loading = new AbortController());
  wanted = model;
  if (typeof model === "string") address.value = model;
  markCurrent();
  byId("retry").hidden = true;
  byId("notices").replaceChildren();
  byId("progress").hidden = false;
  byId("bar-text").textContent = "Loading";
  byId("bar").removeAttribute("value");
  try {
    return await ConsistencySampler.load(model, { signal: abort.signal, onProgress, onNotice });
  } catch (error) {
    byId("retry").hidden = abort !== loading;
    throw error;
  } finally {
    if (abort === loading) {
      loading = null;
      byId("progress").hidden = true;
    }
    showKept();
  }
}

/** Says what the model is. */
export function describe({ name, revision, licence, parameters, sampleSize, numClassEmbeds, bytes, processor, device }) {
  const facts = {
    Name: name,
    Revision: revision?.slice(0, 12),
    Licence: licence,
    Parameters: `${(parameters / 1e6).toFixed(2)} million, ${megabytes(bytes)}`,
    Images: `${sampleSize.join(" × ")} pixels`,
    Classes: numClassEmbeds ?? "none",
    "Runs on": processor === "cpu" ? "the CPU" : device || "a GPU that the browser does not name",
  };
  const rows = Object.entries(facts).filter(([, fact]) => fact);
  byId("card").replaceChildren(
    ...rows.flatMap(([term, fact]) => [element("dt", { textContent: term }), element("dd", { textContent: fact })]),
  );
}

function onProgress({ stage, bytes, total, bytesPerSecond, secondsLeft, retry }) {
  const bar = byId("bar");
  if (stage === "shaders" || total === null) bar.removeAttribute("value");
  else Object.assign(bar, { max: total, value: bytes });
  const amount = total === null ? megabytes(bytes) : `${megabytes(bytes)} of ${megabytes(total)}`;
  const left = secondsLeft === null ? "" : `, ${Math.ceil(secondsLeft)} s left`;
  byId("bar-text").textContent = {
    weights: `${amount}, ${megabytes(bytesPerSecond)}/s${left}`,
    waiting: `${amount}, trying again: ${retry?.reason}`,
    shaders: `${megabytes(bytes)} loaded, compiling for this GPU`,
  }[stage];
}

/** Adds a notice to those of this load; a person may dismiss it. */
function onNotice(notice) {
  const line = element("p", { class: "notice" }, element("span", { textContent: notice }));
  const dismiss = element("button", { type: "button", textContent: "Dismiss", onclick: () => line.remove() });
  dismiss.setAttribute("aria-label", `Dismiss: ${notice}`);
  line.append(dismiss);
  byId("notices").append(line);
}

/** Lists what the browser keeps, each with a button that deletes it. */
async function showKept() {
  const models = await ConsistencySampler.kept();
  byId("kept-field").hidden = !models.length;
  byId("kept").replaceChildren(
    ...models.map(({ id, name, bytes, complete }) => {
      const button = element("button", {
        type: "button",
        textContent: "Delete",
        "aria-label": `Delete ${name}`,
        "data-id": id,
      });
      return element("li", {}, `${name}, ${megabytes(bytes)}${complete ? "" : ", in part"}`, button);
    }),
  );
}

/** The files in what was dropped, folders included, each with its path. */
async function filesIn(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ path: entry.fullPath.slice(1), file }];
  }
  const reader = entry.createReader();
  const entries = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    entries.push(...some);
  }
  return (await Promise.all(entries.map(filesIn))).flat();
}
