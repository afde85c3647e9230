// The page's part that chooses a model: an address or hub id, files picked or dropped, what the browser keeps.
//
// It knows the page's elements; where models come from and how they are kept is behind `consistency-sampler.js`.

import { ConsistencySampler, type LoadProgress, type ModelInfo } from "../consistency-sampler.js";
import { Notices } from "../display.js";
import { byId, element, factRows, targetOf } from "./dom.js";
import { megabytes } from "./format.js";

export interface DroppedFile {
  path: string;
  file: File;
}

/** What a person can choose as a model: an address, a hub id, or files. */
export type Choice = string | (File | DroppedFile)[];

const address = byId<HTMLInputElement>("address");
const notices = new Notices(byId("notices"), byId("work"));
const onNotice = (notice: string) => notices.add(notice);

/** Aborts the load under way; null when there is none. */
let loading: AbortController | null = null;
/** What was asked for last, for another try. */
let wanted: { model: Choice; sameOrigin: boolean } = { model: "", sameOrigin: false };
/** What is loaded. */
let current: Choice = "";

/** Who is told of what a person chose: a model, pictures that were dropped on the page, or what is neither. */
interface Takers {
  take: (model: Choice) => void;
  /** False where nothing is done with such files. */
  takePictures: (files: DroppedFile[]) => boolean;
  refuse: (error: Error) => void;
}

/** Connects the controls. */
export function connect({ take, takePictures, refuse }: Takers): void {
  byId("model-form").addEventListener("submit", (event) => {
    event.preventDefault();
    take(address.value.trim());
  });
  const folder = byId<HTMLInputElement>("folder");
  folder.addEventListener("change", () => {
    if (folder.files?.length) take([...folder.files]);
    folder.value = "";
  });
  byId("stop").addEventListener("click", () => loading?.abort());
  byId("retry").addEventListener("click", () => take(wanted.model));
  byId("kept").addEventListener("click", async (event) => {
    const { id } = targetOf(event).dataset;
    if (!id) return;
    await ConsistencySampler.forget(id);
    await showKept();
  });
  addEventListener("dragover", (event) => {
    if (event.dataTransfer?.types.includes("Files")) event.preventDefault();
  });
  addEventListener("drop", async (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    const { items } = event.dataTransfer;
    event.preventDefault();
    // All at once, for what was dropped cannot be read after this event.
    const found = Array.from(items, (item): Promise<DroppedFile[]> | DroppedFile[] => {
      const entry = item.webkitGetAsEntry();
      const file = item.getAsFile();
      return entry ? filesIn(entry) : file ? [{ path: file.name, file }] : [];
    });
    const dropped = (await Promise.all(found)).flat();
    if (dropped.some((item) => /(^|\/)(model_index\.json|[^/]+\.safetensors)$/.test(item.path))) take(dropped);
    else if (!takePictures(dropped))
      refuse(new Error(`expected a model's folder or one picture, found ${namesOf(dropped)}`));
  });
}

/** What was dropped, in words. */
function namesOf(items: DroppedFile[]): string {
  const names = items.slice(0, 3).map(({ path }) => path);
  if (items.length > names.length) names.push(`${items.length - names.length} more`);
  return names.join(", ") || "nothing";
}

/** An entry of `weights/index.json`, which `cargo xtask build` writes. */
type SiteModel = Pick<ModelInfo, "sampleSize" | "channels" | "numClassEmbeds"> & { path: string };

/** Lists the models of this site, as buttons; `folder` holds them, and `index.json` with what they are. */
export async function listModels(folder: string, take: (model: Choice) => void): Promise<void> {
  const response = await fetch(`${folder}index.json`);
  if (!response.ok) return; // A site of another make; its models are at their addresses all the same.
  const { models } = (await response.json()) as { models: SiteModel[] };
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
    button.addEventListener("click", () => take(`${folder}${path}/`));
    return button;
  });
  byId("site-models").replaceChildren(...buttons);
  byId("site-models").hidden = !buttons.length;
  markCurrent();
}

/** Marks the button of the model that is loaded, or on its way. */
function markCurrent(): void {
  for (const button of byId("site-models").querySelectorAll("button")) {
    const href = (address = "") => new URL(address, document.baseURI).href;
    const model = loading ? wanted.model : current;
    const pressed = typeof model === "string" && href(model) === href(button.dataset.model);
    button.setAttribute("aria-pressed", String(pressed));
  }
}

/**
 * Loads a model in view of the person, who may cancel; a load that is under way gives way.
 *
 * @param sameOrigin whether no other site may be asked
 */
export async function load(model: Choice, sameOrigin: boolean): Promise<ConsistencySampler> {
  loading?.abort();
  const abort = new AbortController();
  loading = abort;
  wanted = { model, sameOrigin };
  if (typeof model === "string") address.value = model;
  markCurrent();
  notices.clear();
  byId("retry").hidden = true;
  byId("progress").hidden = false;
  byId("bar-text").textContent = "Loading";
  byId("bar").removeAttribute("value");
  try {
    const sampler = await ConsistencySampler.load(model, { sameOrigin, signal: abort.signal, onProgress, onNotice });
    current = model;
    return sampler;
  } catch (error) {
    byId("retry").hidden = abort !== loading;
    throw error;
  } finally {
    if (abort === loading) {
      loading = null;
      byId("progress").hidden = true;
      markCurrent();
    }
    showKept();
  }
}

/** Says what the model is. */
export function describe(info: ModelInfo): void {
  const { name, revision, licence, parameters, sampleSize, numClassEmbeds, bytes, processor, device } = info;
  const facts = {
    Name: element("span", { title: name, textContent: shortName(name) }),
    Revision: revision?.slice(0, 12),
    Licence: licence,
    Parameters: `${(parameters / 1e6).toFixed(2)} million, ${megabytes(bytes)}`,
    Images: `${sampleSize.join(" × ")} pixels`,
    Classes: numClassEmbeds ?? "none",
    "Runs on": processor === "cpu" ? "the CPU" : device || "a GPU that the browser does not name",
  };
  byId("card").replaceChildren(...factRows(facts));
}

/** A model's name without what leads to it: the last folder of an address, a hub id as it is. */
export const shortName = (name: string) => (/^https?:/.test(name) && name.split("/").at(-2)) || name;

function onProgress({ stage, bytes, total, bytesPerSecond, secondsLeft, retry }: LoadProgress): void {
  const bar = byId<HTMLProgressElement>("bar");
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

/** Lists what the browser keeps, each with a button that deletes it. */
async function showKept(): Promise<void> {
  // A browser that gives no storage keeps nothing.
  const models = await ConsistencySampler.kept().catch(() => []);
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
async function filesIn(entry: FileSystemEntry): Promise<DroppedFile[]> {
  if (entry.isFile) {
    const file = await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject));
    return [{ path: entry.fullPath.slice(1), file }];
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  const entries = [];
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    entries.push(...some);
  }
  return (await Promise.all(entries.map(filesIn))).flat();
}
