// The page's part that chooses a model: an address or hub id, files picked or dropped, what the browser keeps.
//
// It knows the page's elements; where models come from and how they are kept is behind `consistency-sampler.js`.

import { ConsistencySampler } from "./consistency-sampler.js";

const byId = (id) => document.getElementById(id);
const address = byId("address");

/** Aborts the load under way; null when there is none. */
let loading = null;
/** What was asked for last, for another try. */
let wanted;

/**
 * Connects the controls; `take(model)` is called with what a person chose: a string or files.
 */
export function connect(take) {
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
    // All at once, for what was dropped cannot be read after this event.
    const found = Array.from(items, (item) => {
      const entry = item.webkitGetAsEntry();
      return entry ? filesIn(entry) : [item.getAsFile()];
    });
    take((await Promise.all(found)).flat());
  });
}

/** Loads a model in view of the person, who may cancel; a load that is under way gives way. */
export async function load(model) {
  loading?.abort();
  const abort = (loading = new AbortController());
  wanted = model;
  if (typeof model === "string") address.value = model;
  byId("retry").hidden = byId("notice").hidden = true;
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
export function describe({ name, revision, licence, parameters, sampleSize, numClassEmbeds, bytes, device }) {
  const facts = {
    Name: name,
    Revision: revision?.slice(0, 12),
    Licence: licence,
    Parameters: `${(parameters / 1e6).toFixed(2)} million, ${megabytes(bytes)}`,
    Images: `${sampleSize.join(" × ")} pixels`,
    Classes: numClassEmbeds ?? "none",
    GPU: device || "not named by the browser",
  };
  const rows = Object.entries(facts).filter(([, fact]) => fact);
  byId("card").replaceChildren(...rows.flatMap(([term, fact]) => [element("dt", term), element("dd", fact)]));
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

function onNotice(notice) {
  byId("notice").textContent = notice;
  byId("notice").hidden = false;
}

/** Lists what the browser keeps, each with a button that deletes it. */
async function showKept() {
  const models = await ConsistencySampler.kept();
  byId("kept-field").hidden = !models.length;
  byId("kept").replaceChildren(
    ...models.map(({ id, name, bytes, complete }) => {
      const button = Object.assign(element("button", "Delete"), { type: "button", ariaLabel: `Delete ${name}` });
      button.dataset.id = id;
      const item = element("li", `${name}, ${megabytes(bytes)}${complete ? "" : ", in part"}`);
      item.append(button);
      return item;
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

const element = (tag, textContent) => Object.assign(document.createElement(tag), { textContent });
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
