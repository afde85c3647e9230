// Where a model is and which of its files make it up: a folder by URL, a repository of a hub, files of one's own.
//
// Knows no DOM and no cache. A source can be sent to a worker.

import type { Bytes } from "./bytes.js";
import { ConsistencySamplerError, messageOf } from "./error.js";
import { type HttpClient, StatusError } from "./http-client.js";
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
  `${STEM}.bf16.safetensors`,
];
/** Weights of other names, which are taken where a list shows them and there is one of them alone. */
const VARIANT = /^unet\/diffusion_pytorch_model\.[\w-]+\.safetensors$/;
const PICKLES = [`${STEM}.bin`, `${STEM}.fp16.bin`];
const INDEX = "model_index.json";
const SUMS = "SHA256SUMS";
const CARD = "README.md";
/** The small files, in the order in which the WebAssembly module takes them. */
const CONFIGS = [INDEX, "unet/config.json", "scheduler/scheduler_config.json"] as const;

type Texts = Record<(typeof CONFIGS)[number], string>;

const HUB = "https://huggingface.co";
/** The rest of a hub's address for the page of a repository, or of one of the model's files: name and revision. */
const HUB_PAGE =
  /^\/([\w-][\w.-]*\/[\w-][\w.-]*)(?:\/(?:tree|blob|resolve|raw)\/([^/]+)(?:\/(?:unet|scheduler))?(?:\/[^/]+\.\w+)?)?\/?$/;
/** A file of a model at the end of an address, or of another form that people have models in. */
const OWN_FILE = /(?:model_index\.json|(?:unet|scheduler)\/[^/]+\.(?:json|safetensors))$/;
const OTHER_FILE = /\.(?:safetensors|ckpt|pt|pth|bin|onnx|gguf|json|zip)$/i;
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

/** Where a model is; `query` goes with the address of each file of the folder. */
export type Source = { url: string; query?: string } | Repository | { files: PlacedFile[] };

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
  /** Whether a file that is not in the list is not there. */
  whole: boolean;
  /** A file's content; `hasty` where it can be done without. */
  bytes(path: string, hasty?: boolean): Promise<Bytes>;
  /** A file's address, or its name for people. */
  where(path: string): string;
}

/** What a source is described with. */
export interface Tools {
  client: HttpClient;
  /** SHA-256 in hexadecimal. */
  sha256: (bytes: Bytes) => Promise<string>;
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
  const refuse = (reason: string) => new ConsistencySamplerError("input", `${model}: ${reason}`);
  const url = new URL(model, base);
  if (!/^https?:$/.test(url.protocol)) throw refuse("expected an http or https address, a hub id or files");
  const query = url.search;
  url.hash = url.search = "";
  const address = String(hub).replace(/\/+$/, "");
  if (String(model).startsWith(`${address}/`)) {
    const [, repository, named = "main"] = HUB_PAGE.exec(url.href.slice(address.length)) ?? [];
    if (!repository) throw refuse("expected the address of a model's page, which ends with owner/name");
    return { repository, revision: revision ?? decodeURIComponent(named), hub: address };
  }
  url.pathname = url.pathname.replace(OWN_FILE, "");
  if (OTHER_FILE.test(url.pathname)) {
    throw refuse("expected the address of a folder in the diffusers layout, found that of a file");
  }
  if (!url.pathname.endsWith("/")) url.pathname += "/";
  return { url: url.href, query };
}

/** What identifies a source in a cache; null for files, which are there anyway. */
export function keyOf(source: Source): string | null {
  if ("url" in source) return source.url + (source.query ?? "");
  return "repository" in source ? `${source.hub}/${source.repository}@${source.revision}` : null;
}

/** The address of a source's file, by its path; of a repository at a revision. */
export const addressOf = (source: Exclude<Source, { files: PlacedFile[] }>, path: string, revision?: string | null) =>
  "url" in source
    ? source.url + path + (source.query ?? "")
    : `${source.hub}/${source.repository}/resolve/${encodeURIComponent(revision ?? source.revision)}/${path}`;

/** Whether what the source names can never change. */
export const isPinned = (source: Source) => "revision" in source && COMMIT.test(source.revision);

/** Reads a model's small files and decides which weights to load. */
export async function describe(source: Source, tools: Tools): Promise<Description> {
  const folder = await open(source, tools);
  const [entries, [single, weights], licence] = await Promise.all([
    Promise.all(CONFIGS.map(async (path) => [path, await configuration(folder, path, tools)])),
    chooseWeights(folder, tools),
    folder.licence ?? licenceOf(folder),
  ]);
  const { name, revision = null } = folder;
  const texts = Object.fromEntries(entries) as Texts;
  return { name, revision, licence, classNames: classNames(texts[INDEX]), texts, single, weights };
}

async function open(source: Source, { client }: Tools): Promise<Folder> {
  if ("files" in source) {
    const files = new Map(source.files.map(({ path, file }) => [path, file]));
    const bytes = async (path: string) => {
      const file = files.get(path);
      if (!file) {
        throw new ConsistencySamplerError(
          "input",
          `${path}: not among the files, expected a folder in the diffusers layout`,
        );
      }
      return new Uint8Array(await file.arrayBuffer());
    };
    const list = new Map<string, FileFacts>(source.files.map(({ path, file }) => [path, { file, size: file.size }]));
    const sums = files.get(SUMS);
    for (const [path, facts] of sums ? parseSums(SUMS, await sums.text()) : []) {
      const found = list.get(path);
      if (found) Object.assign(found, facts);
    }
    return { name: "files of your own", list, whole: true, bytes, where: (path) => path };
  }
  if ("repository" in source) return openRepository(source, client);
  return openFolder(source.url, (path) => addressOf(source, path), client);
}

async function openFolder(name: string, where: Folder["where"], client: HttpClient): Promise<Folder> {
  const sums = await client.optionalFile(where(SUMS));
  const list = sums && parseSums(where(SUMS), textOf(sums));
  return { name, list, whole: false, bytes: readerOf(where, client), where };
}

const readerOf = (where: Folder["where"], client: HttpClient) => (path: string, hasty?: boolean) =>
  (hasty ? client.hasty() : client).file(where(path));

/** What the hub's interface says of a repository, as far as it is used. */
interface HubModel {
  sha?: string;
  siblings?: { rfilename: string; size?: number; lfs?: { sha256: string } }[];
  cardData?: { license?: string };
}

async function openRepository(source: Repository, client: HttpClient): Promise<Folder> {
  const { repository, revision, hub } = source;
  const page = `${hub}/api/models/${repository}`;
  const about = await client
    .optionalFile(`${page}/revision/${encodeURIComponent(revision)}?blobs=true`)
    .catch((error: unknown) => {
      // So a hub answers for a repository that it does not have, too.
      if (!(error instanceof StatusError && [401, 403].includes(error.status))) throw error;
      const reason = "the hub has no such model, or it is private or gated, which a page cannot load";
      throw new ConsistencySamplerError("http", `${repository}: ${reason} (${error.message})`);
    });
  const filesOf = (commit: string) => (path: string) => addressOf(source, path, commit);
  // A mirror may have the files alone.
  if (about === null) return { ...(await openFolder(repository, filesOf(revision), client)), revision };
  const { sha = revision, siblings = [], cardData } = parse(page, textOf(about)) as HubModel;
  const where = filesOf(sha);
  return {
    name: repository,
    revision: sha,
    licence: cardData?.license ?? null,
    list: new Map(
      siblings.map(({ rfilename, size = null, lfs }) => [rfilename, { size, sha256: lfs?.sha256 ?? null }]),
    ),
    whole: true,
    bytes: readerOf(where, client),
    where,
  };
}

/** Whether one file holds all weights, and the files. */
async function chooseWeights(folder: Folder, tools: Tools): Promise<[single: boolean, weights: Weights[]]> {
  const { list, whole } = folder;
  const look = async (path: string) => list?.get(path) ?? (whole ? null : tools.client.probe(folder.where(path)));
  const file = (path: string, found?: FileFacts | null): Weights => {
    return { path, url: folder.where(path), size: null, sha256: null, version: null, ...found };
  };
  const others = whole
    ? [...(list?.keys() ?? [])].filter((path) => VARIANT.test(path) && !CANDIDATES.includes(path))
    : [];
  for (const candidate of others.length === 1 ? [...CANDIDATES, ...others] : CANDIDATES) {
    const found = await look(candidate);
    if (!found) continue;
    if (candidate.endsWith(".safetensors")) return [true, [file(candidate, found)]];
    const index = JSON.parse(await configuration(folder, candidate, tools)) as { weight_map?: Record<string, string> };
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
  if (whole) {
    const found = others.length ? `, found ${others.join(", ")}: which of them is not clear` : "";
    throw new ConsistencySamplerError(
      "weights",
      `${folder.where(FULL)}: not there, expected the model's weights${found}`,
    );
  }
  // The request for it tells what is wrong.
  return [true, [file(FULL)]];
}

/** The text of a file that holds JSON and, where its hash is known, has it. */
async function configuration(folder: Folder, path: string, { sha256 }: Tools): Promise<string> {
  const bytes = await folder.bytes(path);
  const expected = folder.list?.get(path)?.sha256;
  const found = expected && (await sha256(bytes));
  if (found !== expected) {
    throw new ConsistencySamplerError("weights", `${folder.where(path)}: expected SHA-256 ${expected}, found ${found}`);
  }
  const text = textOf(bytes);
  parse(folder.where(path), text);
  return text;
}

/** The text of a file in UTF-8; a byte order mark is no part of it. */
const textOf = (bytes: Bytes) => new TextDecoder().decode(bytes);

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

/**
 * The lines of `sha256sum` (a hash, a blank or two, perhaps an asterisk, a path) or of `shasum --tag`; what they do not name
 * may be there all the same.
 */
function parseSums(where: string, text: string): Map<string, FileFacts> {
  const sums = new Map<string, FileFacts>();
  for (const line of text.split(/\r?\n/).map((line) => line.trim())) {
    if (!line || line.startsWith("#")) continue;
    const [, hash, path, tagged, tag] =
      /^([0-9a-f]{64})\s+\*?(.+)$|^SHA256 ?\((.+)\) ?= ?([0-9a-f]{64})$/i.exec(line) ?? [];
    const [name, sha256] = [path ?? tagged, hash ?? tag];
    if (!name || !sha256) {
      throw new ConsistencySamplerError(
        "weights",
        `${where}: expected lines of a SHA-256 and a name, found ${JSON.stringify(line.slice(0, 40))}`,
      );
    }
    sums.set(name.replaceAll("\\", "/").replace(/^\.\//, ""), { sha256: sha256.toLowerCase() });
  }
  return sums;
}

/** The names of the classes, where the index has them as other pipelines of diffusers do: `id2label`. */
function classNames(index: string): string[] | null {
  const labels = (JSON.parse(index) as { id2label?: Record<string, unknown> } | null)?.id2label;
  return labels ? Object.values(labels).map(String) : null;
}

/** The licence that a model's own page states in its front matter. The page decides nothing, so it may be missing. */
async function licenceOf({ list, bytes }: Folder): Promise<string | null> {
  if (!list?.has(CARD)) return null;
  const text = await bytes(CARD, true).then(textOf, () => "");
  return /^---\r?\n(?:.*\n)*?license:\s*(.+?)\r?\n/.exec(text)?.[1] ?? null;
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
