// Where a model is and which of its files make it up: a folder by URL, a repository of a hub, files of one's own.
//
// Knows no DOM and no cache. A source can be sent to a worker.

import { fetchOptional, fetchText, probe } from "./download.js";
import { ConsistencySamplerError, messageOf } from "./error.js";
import type { LoadOptions, ModelLocation } from "./types.js";

const STEM = "unet/diffusion_pytorch_model";
const FULL = `${STEM}.safetensors`;
/** Where weights may be, in the order of preference: half precision is half the download, 8 bits are for those who ask. */
const CANDIDATES = [
  `${STEM}.fp16.safetensors`,
  `${STEM}.safetensors.index.fp16.json`,
  FULL,
  `${STEM}.safetensors.index.json`,
  `${STEM}.int8.safetensors`,
];
const PICKLES = [`${STEM}.bin`, `${STEM}.fp16.bin`];
const INDEX = "model_index.json";
/** The small files, in the order in which the WebAssembly module takes them. */
const CONFIGS = [INDEX, "unet/config.json", "scheduler/scheduler_config.json"] as const;

type Texts = Record<(typeof CONFIGS)[number], string>;

const HUB = "https://huggingface.co";
/** owner/name, or owner/name@revision; a folder of this site is told apart by a slash before or behind. */
const REPOSITORY = /^([\w-][\w.-]*\/[\w-][\w.-]*)(?:@([\w./-]+))?$/;
const COMMIT = /^[0-9a-f]{40}$/;

interface PlacedFile {
  path: string;
  file: File;
}

interface Repository {
  repository: string;
  revision: string;
  hub: string;
}

/** Where a model is. */
export type Source = { url: string } | Repository | { files: PlacedFile[] };

/** What is known of a file. */
interface FileFacts {
  file?: File;
  size?: number | null;
  sha256?: string | null;
  version?: string | null;
}

/** One file of weights. */
export interface Weights {
  path: string;
  /** Where it is; files of one's own have `file`. */
  url: string;
  file?: File;
  /** Its length in bytes, as far as it is known. */
  size: number | null;
  /** The hash that it must have; null when nobody says. */
  sha256: string | null;
  /** Its ETag, as far as it is known. */
  version: string | null;
}

/** What a model's small files say, and which files of weights it has, in the order in which to load them. */
export interface Description {
  name: string;
  revision: string | null;
  licence: string | null;
  classNames: string[] | null;
  /** The small files. */
  texts: Texts;
  /** Whether one file holds all weights. */
  single: boolean;
  weights: Weights[];
}

/** A folder of a model, wherever it is. */
interface Folder {
  name: string;
  revision?: string;
  licence?: string | null;
  /** What is known of the files by their paths; null when there is no list. */
  list: Map<string, FileFacts> | null;
  text(path: string): Promise<string>;
  /** A file's address, or its name for people. */
  where(path: string): string;
}

/** What a person or a page names as a model, as a source; `base` is the address that a relative one is relative to. */
export function sourceOf(
  model: ModelLocation,
  base: string,
  { hub = HUB, revision }: Pick<LoadOptions, "hub" | "revision"> = {},
): Source {
  if (typeof model !== "string" && !(model instanceof URL)) return { files: placed(Array.from(model)) };
  const [, repository, named] = (typeof model === "string" && REPOSITORY.exec(model)) || [];
  if (repository) return { repository, revision: revision ?? named ?? "main", hub: String(hub).replace(/\/+$/, "") };
  const url = new URL(model, base);
  if (!/^https?:$/.test(url.protocol)) {
    throw new ConsistencySamplerError("input", `${model}: expected an http or https address, a hub id or files`);
  }
  url.hash = url.search = "";
  if (!url.pathname.endsWith("/")) url.pathname += "/";
  return { url: url.href };
}

/** What identifies a source in a cache; null for files, which are there anyway. */
export function keyOf(source: Source): string | null {
  if ("url" in source) return source.url;
  return "repository" in source ? `${source.hub}/${source.repository}@${source.revision}` : null;
}

/** Whether what the source names can never change. */
export const isPinned = (source: Source) => "revision" in source && COMMIT.test(source.revision);

/** Reads a model's small files and decides which weights to load. */
export async function describe(source: Source): Promise<Description> {
  const folder = await open(source);
  const [entries, [single, weights], licence] = await Promise.all([
    Promise.all(CONFIGS.map(async (path) => [path, await json(folder, path)])),
    chooseWeights(folder),
    folder.licence ?? licenceOf(folder),
  ]);
  const { name, revision = null } = folder;
  const texts = Object.fromEntries(entries) as Texts;
  return { name, revision, licence, classNames: classNames(texts[INDEX]), texts, single, weights };
}

async function open(source: Source): Promise<Folder> {
  if ("files" in source) {
    const files = new Map(source.files.map(({ path, file }) => [path, file]));
    const text = async (path: string) => {
      const file = files.get(path);
      if (!file) {
        throw new ConsistencySamplerError(
          "input",
          `${path}: not among the files, expected a folder in the diffusers layout`,
        );
      }
      return file.text();
    };
    const list = new Map(source.files.map(({ path, file }) => [path, { file, size: file.size }]));
    return { name: "files of your own", list, text, where: (path) => path };
  }
  return "url" in source ? openFolder(source.url, source.url) : openRepository(source);
}

async function openFolder(name: string, url: string): Promise<Folder> {
  const where = (path: string) => url + path;
  const sums = await fetchOptional(where("SHA256SUMS"));
  const list = sums === null ? null : parseSums(where("SHA256SUMS"), sums);
  return { name, list, text: (path) => fetchText(where(path)), where };
}

/** What the hub's interface says of a repository, as far as it is used. */
interface HubModel {
  sha?: string;
  siblings?: { rfilename: string; size?: number; lfs?: { sha256: string } }[];
  cardData?: { license?: string };
}

async function openRepository({ repository, revision, hub }: Repository): Promise<Folder> {
  const about = await fetchOptional(
    `${hub}/api/models/${repository}/revision/${encodeURIComponent(revision)}?blobs=true`,
  );
  const files = (commit: string) => `${hub}/${repository}/resolve/${encodeURIComponent(commit)}/`;
  // A mirror may have the files alone.
  if (about === null) return { ...(await openFolder(repository, files(revision))), revision };
  const { sha = revision, siblings = [], cardData } = parse(`${hub}/api/models/${repository}`, about) as HubModel;
  const where = (path: string) => files(sha) + path;
  return {
    name: repository,
    revision: sha,
    licence: cardData?.license ?? null,
    list: new Map(
      siblings.map(({ rfilename, size = null, lfs }) => [rfilename, { size, sha256: lfs?.sha256 ?? null }]),
    ),
    text: (path) => fetchText(where(path)),
    where,
  };
}

/** Whether one file holds all weights, and the files. */
async function chooseWeights(folder: Folder): Promise<[single: boolean, weights: Weights[]]> {
  const look = async (path: string) => (folder.list ? folder.list.get(path) : probe(folder.where(path)));
  const file = (path: string, found?: FileFacts | null): Weights => {
    return { path, url: folder.where(path), size: null, sha256: null, version: null, ...found };
  };
  for (const candidate of CANDIDATES) {
    const found = await look(candidate);
    if (!found) continue;
    if (candidate.endsWith(".safetensors")) return [true, [file(candidate, found)]];
    const index = JSON.parse(await json(folder, candidate)) as { weight_map?: Record<string, string> };
    const names = [...new Set(Object.values(index.weight_map ?? {}))].sort();
    if (!names.length || !names.every((name) => /^[^/\\.][^/\\]*$/.test(name))) {
      throw new ConsistencySamplerError(
        "weights",
        `${folder.where(candidate)}: expected plain file names in "weight_map"`,
      );
    }
    return [false, await Promise.all(names.map(async (name) => file(`unet/${name}`, await look(`unet/${name}`))))];
  }
  for (const pickle of PICKLES) {
    if (!(await look(pickle))) continue;
    throw new ConsistencySamplerError(
      "weights",
      `${folder.where(pickle)}: a pickle, which may run any code, is not read: ` +
        "convert it with tools/convert_checkpoint.py and load the result",
    );
  }
  if (folder.list) {
    throw new ConsistencySamplerError("weights", `${folder.where(FULL)}: not there, expected the model's weights`);
  }
  // The request for it tells what is wrong.
  return [true, [file(FULL)]];
}

/** The text of a file that holds JSON. */
async function json(folder: Folder, path: string): Promise<string> {
  const text = await folder.text(path);
  parse(folder.where(path), text);
  return text;
}

function parse(where: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new ConsistencySamplerError(
      "config",
      `${where}: expected JSON, found ${JSON.stringify(text.slice(0, 40))} (${messageOf(error)})`,
    );
  }
}

/** The lines of `sha256sum`: a hash, a blank or two, perhaps an asterisk, a path. */
function parseSums(where: string, text: string): Map<string, FileFacts> {
  const lines = text.split("\n").map((line) => line.trim());
  return new Map(
    lines
      .filter((line) => line && !line.startsWith("#"))
      .map((line) => {
        const [, sha256, path] = /^([0-9a-f]{64})\s+\*?(?:\.\/)?(.+)$/i.exec(line) ?? [];
        if (!sha256 || !path) {
          throw new ConsistencySamplerError(
            "weights",
            `${where}: expected lines of a SHA-256 and a name, found ${JSON.stringify(line.slice(0, 40))}`,
          );
        }
        return [path, { sha256: sha256.toLowerCase() }];
      }),
  );
}

/** The names of the classes, where the index has them as other pipelines of diffusers do: `id2label`. */
function classNames(index: string): string[] | null {
  const labels = (JSON.parse(index) as { id2label?: Record<string, unknown> } | null)?.id2label;
  return labels ? Object.values(labels).map(String) : null;
}

/** The licence that a model's own page states in its front matter. */
async function licenceOf({ list, text }: Folder): Promise<string | null> {
  if (!list?.has("README.md")) return null;
  return /^---\n(?:.*\n)*?license:\s*(.+)\n/.exec(await text("README.md"))?.[1] ?? null;
}

/** Files with their paths in the model's folder; loose ones go where their names belong. */
function placed(given: (File | PlacedFile)[]): PlacedFile[] {
  const files = given.map((item) =>
    "file" in item ? item : { path: item.webkitRelativePath || item.name, file: item },
  );
  const index = files.find(({ path }) => /(^|\/)model_index\.json$/.test(path));
  const root = index ? index.path.slice(0, -INDEX.length) : "";
  return files
    .filter(({ path }) => path.startsWith(root))
    .map(({ path, file }) => {
      const inside = path.slice(root.length);
      if (inside === "config.json" || /^diffusion_pytorch_model/.test(inside)) return { path: `unet/${inside}`, file };
      return { path: inside === "scheduler_config.json" ? `scheduler/${inside}` : inside, file };
    });
}
