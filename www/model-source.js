// Where a model is and which of its files make it up: a folder by URL, a repository of a hub, files of one's own.
//
// Knows no DOM and no cache. A source is described as { url }, { repository, revision, hub } or { files }, which
// can be sent to a worker.

import { Failure, fetchOptional, fetchText, probe } from "./download.js";

const STEM = "unet/diffusion_pytorch_model";
/** Where weights may be, in the order of preference: half precision is half the download, 8 bits are for those who ask. */
const CANDIDATES = [
  `${STEM}.fp16.safetensors`,
  `${STEM}.safetensors.index.fp16.json`,
  `${STEM}.safetensors`,
  `${STEM}.safetensors.index.json`,
  `${STEM}.int8.safetensors`,
];
const FULL = `${STEM}.safetensors`;
const PICKLES = [`${STEM}.bin`, `${STEM}.fp16.bin`];
/** The small files, in the order in which the WebAssembly module takes them. */
export const CONFIGS = ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"];

const HUB = "https://huggingface.co";
/** owner/name, or owner/name@revision; a folder of this site is told apart by a slash before or behind. */
const REPOSITORY = /^([\w-][\w.-]*\/[\w-][\w.-]*)(?:@([\w./-]+))?$/;
const COMMIT = /^[0-9a-f]{40}$/;

/**
 * What a person or a page names as a model, as a source.
 *
 * @param {string | URL | Iterable<File | { path: string, file: File }>} model
 * @param {string} base  the address that a relative one is relative to
 * @param {{ hub?: string, revision?: string }} [options]
 */
export function sourceOf(model, base, { hub = HUB, revision } = {}) {
  if (typeof model !== "string" && !(model instanceof URL)) return { files: placed(Array.from(model)) };
  const found = typeof model === "string" && REPOSITORY.exec(model);
  if (found) {
    return { repository: found[1], revision: revision ?? found[2] ?? "main", hub: String(hub).replace(/\/+$/, "") };
  }
  const url = new URL(model, base);
  if (!/^https?:$/.test(url.protocol)) {
    throw new Failure("input", `${model}: expected an http or https address, a hub id or files`);
  }
  url.hash = url.search = "";
  if (!url.pathname.endsWith("/")) url.pathname += "/";
  return { url: url.href };
}

/** What identifies a source in a cache; null for files, which are there anyway. */
export function keyOf({ url, repository, revision, hub }) {
  return url ?? (repository ? `${hub}/${repository}@${revision}` : null);
}

/** Whether what the source names can never change. */
export const isPinned = ({ revision }) => COMMIT.test(revision ?? "");

/**
 * @typedef {object} Weights  one file of weights
 * @property {string} path
 * @property {string} [url]  where it is; files of one's own have `file`
 * @property {File} [file]
 * @property {?number} size  its length in bytes, as far as it is known
 * @property {?string} sha256  the hash that it must have; null when nobody says
 * @property {?string} version  its ETag, as far as it is known
 */

/**
 * Reads a model's small files and decides which weights to load.
 *
 * @returns {Promise<{ name: string, revision: ?string, licence: ?string, classNames: ?string[],
 *   texts: Record<string, string>, single: boolean, weights: Weights[] }>}
 */
export async function describe(source) {
  const folder = await open(source);
  const [texts, [single, weights], licence] = await Promise.all([
    Promise.all(CONFIGS.map(async (path) => [path, await json(folder, path)])).then(Object.fromEntries),
    chooseWeights(folder),
    folder.licence ?? licenceOf(folder),
  ]);
  const { name, revision = null } = folder;
  return { name, revision, licence, classNames: classNames(texts["model_index.json"]), texts, single, weights };
}

/**
 * A folder: `list` maps paths to what is known of the files, null when there is no list; `look(path)` asks for one;
 * `where(path)` names it for people.
 */
async function open(source) {
  if (source.files) {
    const list = new Map(source.files.map(({ path, file }) => [path, { file, size: file.size }]));
    const text = async (path) => {
      if (!list.has(path)) throw new Failure("input", `${path}: not among the files, expected a folder in the diffusers layout`);
      return list.get(path).file.text();
    };
    return { name: source.name ?? "files of your own", list, text, where: (path) => path };
  }
  return source.url ? openFolder(source.url, source.url) : openRepository(source);
}

async function openFolder(name, url) {
  const where = (path) => url + path;
  const sums = await fetchOptional(where("SHA256SUMS"));
  return { name, list: sums === null ? null : parseSums(where("SHA256SUMS"), sums), text: (path) => fetchText(where(path)), where };
}

async function openRepository({ repository, revision, hub }) {
  const about = await fetchOptional(`${hub}/api/models/${repository}/revision/${encodeURIComponent(revision)}?blobs=true`);
  const files = (commit) => `${hub}/${repository}/resolve/${encodeURIComponent(commit)}/`;
  // A mirror may have the files alone.
  if (about === null) return { ...(await openFolder(repository, files(revision))), revision };
  const { sha, siblings = [], cardData } = parse(`${hub}/api/models/${repository}`, about);
  const list = new Map(siblings.map(({ rfilename, size = null, lfs }) => [rfilename, { size, sha256: lfs?.sha256 ?? null }]));
  const where = (path) => files(sha ?? revision) + path;
  const licence = cardData?.license ?? null;
  return { name: repository, revision: sha ?? revision, licence, list, text: (path) => fetchText(where(path)), where };
}

/** `[single, weights]`: whether one file holds everything, and the files in the order in which to load them. */
async function chooseWeights(folder) {
  const look = async (path) => (folder.list ? folder.list.get(path) : probe(folder.where(path)));
  const file = async (path, found) => ({ path, url: folder.where(path), size: null, sha256: null, version: null, ...found });
  let chosen, found;
  for (chosen of CANDIDATES) if ((found = await look(chosen))) break;
  if (!found) {
    for (const pickle of PICKLES) {
      if (!(await look(pickle))) continue;
      throw new Failure(
        "weights",
        `${folder.where(pickle)}: a pickle, which may run any code, is not read: ` +
          "convert it with tools/convert_checkpoint.py and load the result",
      );
    }
    if (folder.list) throw new Failure("weights", `${folder.where(FULL)}: not there, expected the model's weights`);
    // The request for it tells what is wrong.
    return [true, [await file(FULL)]];
  }
  if (chosen.endsWith(".safetensors")) return [true, [await file(chosen, found)]];
  const index = await json(folder, chosen);
  const names = [...new Set(Object.values(JSON.parse(index).weight_map ?? {}))].sort();
  if (!names.length || !names.every((name) => /^[^/\\.][^/\\]*$/.test(name))) {
    throw new Failure("weights", `${folder.where(chosen)}: expected plain file names in "weight_map"`);
  }
  return [false, await Promise.all(names.map(async (name) => file(`unet/${name}`, await look(`unet/${name}`))))];
}

/** The text of a file that holds a JSON object. */
async function json(folder, path) {
  const text = await folder.text(path);
  parse(folder.where(path), text);
  return text;
}

function parse(where, text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Failure("config", `${where}: expected JSON, found ${JSON.stringify(text.slice(0, 40))} (${error.message})`);
  }
}

/** The lines of `sha256sum`: a hash, a blank or two, perhaps an asterisk, a path. */
function parseSums(where, text) {
  const lines = text.split("\n").map((line) => line.trim()).filter((line) => line && !line.startsWith("#"));
  return new Map(
    lines.map((line) => {
      const [, sha256, path] = /^([0-9a-f]{64})\s+\*?(?:\.\/)?(.+)$/i.exec(line) ?? [];
      if (!path) throw new Failure("weights", `${where}: expected lines of a SHA-256 and a name, found ${JSON.stringify(line.slice(0, 40))}`);
      return [path, { sha256: sha256.toLowerCase() }];
    }),
  );
}

/** The names of the classes, where the index has them as other pipelines of diffusers do: `id2label`. */
function classNames(index) {
  const labels = JSON.parse(index)?.id2label;
  return labels ? Object.keys(labels).map((label) => String(labels[label])) : null;
}

/** The licence that a model's own page states in its front matter. */
async function licenceOf({ list, text }) {
  if (!list?.has("README.md")) return null;
  return /^---\n(?:.*\n)*?license:\s*(.+)\n/.exec(await text("README.md"))?.[1] ?? null;
}

/** Files with their paths in the model's folder; loose ones go where their names belong. */
function placed(given) {
  const files = given.map((item) => (item.file ? item : { path: item.webkitRelativePath || item.name, file: item }));
  const index = files.find(({ path }) => /(^|\/)model_index\.json$/.test(path));
  const root = index ? index.path.slice(0, -"model_index.json".length) : "";
  return files
    .filter(({ path }) => path.startsWith(root))
    .map(({ path, file }) => {
      const inside = path.slice(root.length);
      if (inside === "config.json" || /^diffusion_pytorch_model/.test(inside)) return { path: `unet/${inside}`, file };
      return { path: inside === "scheduler_config.json" ? `scheduler/${inside}` : inside, file };
    });
}
