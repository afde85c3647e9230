// The page: it brings the rooms of this folder together, and says what goes on.
//
// The address names what is on the screen. A link must not make a visitor's browser ask another site, so only a model of
// this one is loaded unasked.

import { EditView } from "./edit-view.js";
import { ExploreView } from "./explore-view.js";
import { Gallery } from "./gallery.js";
import { byId, roving } from "./dom.js";
import { explain } from "./explain.js";
import * as picker from "./model-picker.js";
import { Runner } from "./runner.js";
import { SampleView } from "./sample-view.js";

const DEFAULT_MODEL = "weights/mnist/";
const TABS = ["sample", "explore", "edit"];

/**
 * What the rooms share.
 *
 * @typedef {object} Page
 * @property {Runner} runner
 * @property {Gallery} gallery
 * @property {(work: import("./runner.js").Work) => Promise<void>} foreground  runs what a person asked for, and says how it
 *   ended
 * @property {(sample: import("./samples.js").Sample) => void} choose  a person chose a sample
 * @property {() => Promise<void>} note  puts what is on the screen into the address
 * @property {() => Promise<URL>} link  the address that reproduces it
 * @property {(words: string) => void} say
 * @property {(error: Error) => void} fail
 */

const runner = new Runner();
const gallery = new Gallery({
  choose: (sample) => page.choose(sample),
  kept: () => Object.values(views).forEach((view) => view.keptChanged?.()),
  added: ([sample]) => explanation.begin(sample),
});

/** @type {Page} */
const page = { runner, gallery, foreground, choose, note, link, say, fail };
const views = { sample: new SampleView(page), explore: new ExploreView(page), edit: new EditView(page) };
let open = "sample";
/** How often another model was asked for. */
let changes = 0;
/** What a link asked to be shown, until a model is there for it. */
let wanted = new URLSearchParams(location.search);

const explanation = explain(page);
runner.onError = fail;
runner.onBusy = setRunning;
const take = (model) => change(model).catch(fail);
picker.connect(take, (file) => {
  show("edit");
  views.edit.take(file);
});
picker.listModels("weights/", take).catch(() => {}); // Without the list, the address field is there.
connectTabs();
byId("cancel").addEventListener("click", () => runner.cancel());
byId("work").addEventListener("submit", clearError, true);
start().catch(fail);

async function start() {
  if (TABS.includes(wanted.get("view"))) show(wanted.get("view"));
  const model = wanted.get("model") ?? DEFAULT_MODEL;
  if (!/\/$|^[./]/.test(model) || new URL(model, document.baseURI).origin !== location.origin) {
    byId("address").value = model;
    say("The model in this page's address is not of this site: press Load to fetch it");
    return;
  }
  await change(model);
}

/** Loads another model and draws with it. */
async function change(model) {
  const turn = ++changes;
  runner.use(null);
  clearError();
  say(typeof model === "string" ? `Loading the model ${model}` : "Loading the model");
  let sampler;
  try {
    sampler = await picker.load(model);
  } catch (error) {
    if (turn !== changes) return; // another model is wanted by now
    if (error.name !== "AbortError") throw error;
    say("Cancelled");
    return;
  }
  say("");
  runner.use(sampler);
  picker.describe(sampler.info);
  explanation.use(sampler.info);
  for (const view of Object.values(views)) view.use(sampler.info);
  const hash = new URLSearchParams(location.hash.slice(1));
  const refused = wanted ? await views[open].restore(wanted, hash) : [];
  wanted = null;
  if (refused.length) fail(new Error(`ignored in the address: ${refused.join("; ")}`));
  if (open === "sample") await views.sample.generate();
  else await views[open].opened();
}

// Runs.

async function foreground(work) {
  if (!runner.sampler) {
    if (byId("progress").hidden) say("There is no model yet: load one below");
    else say("The model is still loading; your picture comes as soon as it is there");
    return;
  }
  if (runner.busy) return;
  say(""); // What is said of the run before must not seem to be said of this one.
  try {
    await runner.run(work);
  } catch (error) {
    // Another model took over: there is nothing to say of a run that was its predecessor's.
    if (error.code === "disposed") return;
    if (error.name === "AbortError") say("Cancelled");
    else fail(error);
  }
}

/** While a run is under way the buttons that start one keep the keyboard's focus, so they are not disabled but only inert. */
function setRunning(running) {
  const cancel = byId("cancel");
  for (const button of document.querySelectorAll("main button.primary")) button.setAttribute("aria-disabled", running);
  if (!running && document.activeElement === cancel) byId(`panel-${open}`).querySelector("button.primary").focus();
  cancel.disabled = !running;
}

// Tabs.

function connectTabs() {
  const tabs = byId("tabs");
  roving(tabs, "[role=tab]");
  // The tab in focus is the one that is open, as long as it was the keyboard that moved there.
  tabs.addEventListener(
    "keydown",
    () => document.activeElement.matches("[role=tab]") && select(document.activeElement),
  );
  tabs.addEventListener("click", ({ target }) => target.matches("[role=tab]") && select(target));
  const select = ({ id }) => {
    const tab = id.slice("tab-".length);
    if (tab === open) return;
    show(tab);
    views[tab].opened?.();
  };
}

function show(tab) {
  open = tab;
  for (const name of TABS) {
    byId(`tab-${name}`).setAttribute("aria-selected", name === tab);
    byId(`tab-${name}`).tabIndex = name === tab ? 0 : -1;
    byId(`panel-${name}`).hidden = name !== tab;
  }
}

/** A chosen sample is kept; where it is edited it becomes the picture to edit, elsewhere it is explored. */
function choose(sample) {
  clearError();
  gallery.keep(sample);
  const tab = open === "edit" || sample.edit ? "edit" : "explore";
  show(tab);
  views[tab].choose(sample);
  byId("work").scrollIntoView({ block: "nearest" });
}

// The address.

async function link() {
  const address = new URL(location.pathname, location.href);
  const { name } = runner.sampler.info;
  const own = name === new URL(DEFAULT_MODEL, document.baseURI).href;
  const { hash = {}, ...values } = await views[open].address();
  const parameters = { view: open === "sample" ? undefined : open, model: own ? undefined : name, ...values };
  for (const [key, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== null) address.searchParams.set(key, value);
  }
  address.hash = new URLSearchParams(hash);
  return address;
}

async function note() {
  if (!runner.sampler) return;
  try {
    history.replaceState(null, "", await link());
  } catch (error) {
    // A picture too large for a link: Copy link says so to whoever asks for one.
    if (!(error instanceof RangeError)) throw error;
  }
}

// What the page says.

function say(words) {
  byId("status").textContent = words;
}

function clearError() {
  byId("error").hidden = true;
}

/** Shows an error in one line, with a way out where there is one. */
function fail(error) {
  const help = {
    unsupported: "Try a recent Chrome, Edge or Safari, or Firefox on Windows or macOS.",
    network: "Check the connection and press Retry.",
  };
  const box = byId("error");
  box.textContent = [error.message, help[error.code]].filter(Boolean).join(" — ");
  box.hidden = false;
  say("");
}
