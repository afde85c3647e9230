// What is known of the loaded model: its configuration, the text of its README, and a way to save it with fewer bits.
//
// This script and the README are fetched when the card is opened.

import { messageOf } from "../error.js";
import type { Description } from "../model-source.js";
import { convert, type Precision } from "./convert.js";
import { byId, element, type Facts, factRows } from "./dom.js";
import { many, megabytes } from "./format.js";
import { parseReadme, render } from "./markdown.js";
import { type Dtype, type Loaded, ModelFiles } from "./model-files.js";
import { archive, choosesFolders, chooseFolder } from "./output-folder.js";
import { aboutPublished } from "./published.js";
import { isAbort } from "./queue.js";

const STORED: Record<Dtype, string> = {
  F32: "32-bit floats (F32)",
  BF16: "16-bit floats (BF16)",
  F16: "16-bit floats (F16)",
  I8: "8-bit whole numbers with a scale for each output channel (I8)",
};
/** What weights can be stored as with fewer bits, or as other 16-bit floats. */
const NARROWER: Record<Dtype, Precision[]> = { F32: ["f16", "int8"], BF16: ["f16", "int8"], F16: ["int8"], I8: [] };
const BITS = { f16: ["Save as F16", 2], int8: ["Save as 8 bits", 1] } as const;
/** How many classes are named. */
const MOST_NAMES = 40;

/** Ends what the card of the model before does. */
let abort = new AbortController();

/** Fills the card. */
export async function show(loaded: Loaded): Promise<void> {
  abort.abort();
  abort = new AbortController();
  const { signal } = abort;
  const files = new ModelFiles(loaded, signal);
  const place = byId("about");
  const [known, save, text] = [element("dl", { class: "facts" }), element("div"), element("div", { class: "readme" })];
  place.replaceChildren(known, save, text);
  const facts = factsOf(loaded, files);
  known.replaceChildren(...factRows(facts));
  const say = (place: HTMLElement, words: string) => place.replaceChildren(element("p", { class: "hint" }, words));
  const refused = (place: HTMLElement, what: string) => (error: unknown) => {
    if (!signal.aborted) say(place, `${what}: ${messageOf(error)}`);
  };
  const configuration = async () => {
    const about = await files.describe();
    const dtype = await files.dtype(about);
    if (signal.aborted) return;
    Object.assign(facts, configured(about, dtype, loaded));
    known.replaceChildren(...factRows(facts));
    offer(save, { files, about, dtype, loaded, signal });
  };
  const readme = async () => {
    const found = await files.readme();
    if (signal.aborted) return;
    if (found === null) return say(text, "This model has no README.md.");
    const { facts: stated, text: rest } = parseReadme(found);
    const of = (key: string) => stated.get(key)?.join(", ") || undefined;
    facts.Licence ??= of("license_name") ?? of("license");
    facts.Data ??= of("datasets");
    Object.assign(facts, { Library: of("library_name"), Tags: of("tags"), "Made from": of("base_model") });
    known.replaceChildren(...factRows(facts));
    text.replaceChildren(element("h3", {}, "README.md"), ...render(rest, 4));
  };
  await Promise.all([
    configuration().catch(refused(save, "The model's files cannot be read again")),
    readme().catch(refused(text, "Its README.md cannot be read")),
  ]);
}

/** What is known without a look at the model's files; the rows that come later have their places. */
function factsOf({ info }: Loaded, files: ModelFiles): Facts {
  const { name, licence, revision, parameters, bytes, sampleSize, channels, sigmaMin, sigmaMax } = info;
  const { page } = files;
  const published = aboutPublished(name);
  const address = page ?? (/^https?:/.test(name) ? name : null);
  const source = address && element("a", { href: address, rel: "noopener noreferrer", textContent: address });
  const { numClassEmbeds, classNames, numTrainTimesteps } = info;
  const names = classNames?.slice(0, MOST_NAMES).join(", ");
  const more = (classNames?.length ?? 0) - MOST_NAMES;
  return {
    Source: source || name,
    Revision: revision,
    Licence: licence,
    Data: published?.data,
    Made: published?.made,
    Pipeline: undefined,
    Images: `${sampleSize.join(" × ")} pixels, ${channels === 1 ? "grey" : "colour"}`,
    Network: `${parameters.toLocaleString("en")} parameters`,
    Classes: numClassEmbeds
      ? [String(numClassEmbeds), names && `: ${names}`, more > 0 && ` and ${more} more`].filter(Boolean).join("")
      : "none",
    Noise: `σ from ${sigmaMin} to ${sigmaMax}, ${many(numTrainTimesteps, "level")}`,
    Weights: megabytes(bytes),
  };
}

/** What the configuration and the weights' header say. */
function configured(about: Description, dtype: Dtype, { info }: Loaded): Facts {
  const object = (text: string) => (JSON.parse(text) ?? {}) as Record<string, unknown>;
  const unet = object(about.texts["unet/config.json"]);
  const index = object(about.texts["model_index.json"]);
  const widths = [unet.block_out_channels].flat().map(String);
  const types = [unet.down_block_types].flat().map(String);
  const [height] = info.sampleSize;
  const attention = types.flatMap((type, level) => (/^Attn/.test(type) ? [Math.ceil(height / 2 ** level)] : []));
  const layers = Number(unet.layers_per_block ?? 2);
  return {
    Pipeline: [index._class_name, index._diffusers_version && `diffusers ${index._diffusers_version}`]
      .filter(Boolean)
      .join(", "),
    Network: [
      `${info.parameters.toLocaleString("en")} parameters`,
      `U-Net with ${widths.join(", ")} channels`,
      `${many(layers, "layer")} a level`,
      attention.length
        ? `attention at ${attention.map((size) => `${size} × ${size}`).join(", ")}`
        : "no attention on levels",
    ].join("; "),
    Weights: `${STORED[dtype]}, ${megabytes(info.bytes)} in ${about.weights.map(({ path }) => path).join(", ")}`,
  };
}

interface Offer {
  files: ModelFiles;
  about: Description;
  dtype: Dtype;
  loaded: Loaded;
  signal: AbortSignal;
}

/** Shows the buttons that save the model, and how far that is. */
function offer(place: HTMLElement, { files, about, dtype, loaded, signal }: Offer): void {
  const { info } = loaded;
  const bar = element("progress", { max: 1, "aria-label": "Converted" });
  const stop = element("button", { type: "button", textContent: "Cancel" });
  const amount = element("p");
  const row = element("div", { class: "progress", hidden: true }, bar, amount, stop);
  const words = element("p", { class: "hint", role: "status" });
  let conversion = new AbortController();
  let running = false;
  stop.addEventListener("click", () => conversion.abort());
  signal.addEventListener("abort", () => conversion.abort());
  const buttons = NARROWER[dtype].map((precision) => {
    const [label, size] = BITS[precision];
    const facts = ` (about ${megabytes(info.parameters * size)})`;
    const button = element("button", { type: "button" }, label, element("span", { class: "hint" }, facts));
    button.addEventListener("click", () => run(precision, button));
    return button;
  });
  const where = choosesFolders() ? "a folder that you choose" : "a .zip file";
  const others = NARROWER[dtype].includes("f16") ? "diffusers loads that in F16" : "diffusers does not";
  words.textContent = buttons.length
    ? `Writes a copy with fewer bits to ${where}. This page and the command line load it, ${others}.`
    : "Its weights have 8 bits already, the fewest that they can have.";
  const run = async (precision: Precision, button: HTMLElement) => {
    if (running) return;
    running = true;
    const name = `${fileName(info.name)}-${precision === "f16" ? "fp16" : precision}`;
    conversion = new AbortController();
    try {
      // At once, while the browser knows that the person has just clicked.
      const output = choosesFolders() ? await chooseFolder(name) : await archive(name);
      row.hidden = false;
      words.textContent = "Converting";
      stop.focus();
      const total = info.bytes;
      const onProgress = (bytes: number) => {
        bar.value = bytes / total;
        amount.textContent = `${megabytes(bytes)} of ${megabytes(total)}`;
      };
      const bytes = await convert({ files, about, precision, output, signal: conversion.signal, onProgress });
      words.textContent = `Saved ${name}${choosesFolders() ? "" : ".zip"}, weights of ${megabytes(bytes)}`;
    } catch (error) {
      words.textContent = isAbort(error) ? "Cancelled" : `Not saved: ${messageOf(error)}`;
    } finally {
      if (row.contains(document.activeElement)) button.focus();
      row.hidden = true;
      running = false;
      bar.removeAttribute("value");
      amount.textContent = "";
    }
  };
  place.replaceChildren(element("div", { class: "actions" }, ...buttons), row, words);
}

/** The end of a model's name, as a file's name. */
function fileName(name: string): string {
  const last =
    /^https?:/.test(name) || /^[\w-][\w.-]*\/[\w-][\w.-]*$/.test(name)
      ? name.split("/").filter(Boolean).at(-1)
      : "model";
  return (last ?? "model").replace(/[^\w.-]+/g, "-").replace(/^\.+/, "") || "model";
}
