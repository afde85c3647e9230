// The page: it brings the views of this folder together, and says what goes on.
//
// The address names what is on the screen. A link must not make a visitor's browser ask another site, so only a model of
// this one is loaded unasked.

import type { CallProgress, ConsistencySampler } from "../consistency-sampler.js";
import { slowCalls } from "../display.js";
import { codeOf, messageOf } from "../error.js";
import { byId, roving, targetOf } from "./dom.js";
import { EditView } from "./edit-view.js";
import { explain } from "./explain.js";
import { ExploreView } from "./explore-view.js";
import { Gallery } from "./gallery.js";
import type { Loaded } from "./model-files.js";
import * as picker from "./model-picker.js";
import type { Page, TabView } from "./page.js";
import { nameClasses, showPublished } from "./published.js";
import { isAbort, Queue, type Work } from "./queue.js";
import { SampleView } from "./sample-view.js";
import type { Sample } from "./samples.js";
import { TrainTab } from "./train-tab.js";

const DEFAULT_MODEL = "weights/animals/";
const TABS = ["sample", "explore", "edit", "train"] as const;
type Tab = (typeof TABS)[number];

// Without this script the page is static: it says so, and nothing can be pressed.
byId("static").remove();
byId("work").inert = false;

const queue = new Queue();
const gallery = new Gallery({
  choose: (sample) => page.choose(sample),
  kept: () => {
    for (const tab of TABS) viewOf(tab).keptChanged?.();
  },
  added: ([sample]) => sample && explanation.begin(sample),
});

const page: Page = {
  queue,
  gallery,
  foreground,
  choose,
  updateAddress,
  link,
  progress,
  loaded: () => loaded,
  sampleModel,
  say,
  fail,
};
const views = {
  sample: new SampleView(page),
  explore: new ExploreView(page),
  edit: new EditView(page),
  train: new TrainTab(page, new URLSearchParams(location.search).get("device")),
};
const viewOf = (tab: Tab): TabView => views[tab];
let open: Tab = "sample";
let share = slowCalls();
/** How often another model was asked for. */
let changes = 0;
/** The model that is loaded. */
let loaded: Loaded | null = null;
/** What a link asked to be shown, until a model is there for it. */
let wanted: URLSearchParams | null = new URLSearchParams(location.search);

const explanation = explain(page);
queue.onError = fail;
queue.onBusy = setRunning;
const take = (model: picker.Choice) => change(model).catch(fail);
const takePictures = (files: picker.DroppedFile[]) => {
  const [first] = files;
  if (open === "train") views.train.take(files).catch(fail);
  else if (first && files.length === 1 && first.file.type.startsWith("image/")) {
    show("edit");
    views.edit.take(first.file);
  } else return false;
  return true;
};
picker.connect({ take, takePictures, refuse: fail });
picker.listModels("weights/", take).catch(() => {}); // Without the list, the address field is there.
byId("published-models").addEventListener("toggle", () => showPublished(byId("published-list"), take), { once: true });
byId("about-model").addEventListener("toggle", showCard);
connectTabs();
byId("cancel").addEventListener("click", () => queue.cancel());
byId("work").addEventListener("submit", clearError, true);
start().catch(fail);

async function start(): Promise<void> {
  const tab = TABS.find((tab) => tab === wanted?.get("view"));
  if (tab) show(tab);
  // It needs no model.
  if (tab === "train") views.train.opened();
  const model = wanted?.get("model") ?? DEFAULT_MODEL;
  if (!/\/$|^[./]/.test(model) || new URL(model, document.baseURI).origin !== location.origin) {
    byId<HTMLInputElement>("address").value = model;
    say("The model in this page's address is not of this site: press Load to fetch it");
    return;
  }
  await change(model, true);
}

/** Loads another model and draws with it; the one before stays until that is whole. A link may ask no other site. */
async function change(model: picker.Choice, sameOrigin = false): Promise<void> {
  const turn = ++changes;
  clearError();
  say(typeof model === "string" ? `Loading the model ${model}` : "Loading the model");
  let sampler: ConsistencySampler;
  try {
    sampler = await picker.load(model, sameOrigin);
  } catch (error) {
    if (turn !== changes) return; // another model is wanted by now
    if (!isAbort(error)) throw error;
    say("Cancelled");
    return;
  }
  await nameClasses(sampler.info).catch(() => {});
  if (turn !== changes) {
    sampler.dispose();
    return;
  }
  say("");
  queue.use(sampler);
  picker.describe(sampler.info);
  loaded = { info: sampler.info, model, sameOrigin };
  byId("about-model").hidden = false;
  showCard();
  explanation.use(sampler.info);
  for (const tab of TABS) viewOf(tab).use(sampler.info);
  const hash = new URLSearchParams(location.hash.slice(1));
  const refused = wanted ? await viewOf(open).restore(wanted, hash) : [];
  wanted = null;
  if (refused.length) fail(new Error(`ignored in the address: ${refused.join("; ")}`));
  if (open === "sample") await views.sample.generate();
  else await viewOf(open).opened();
}

async function sampleModel(model: picker.Choice): Promise<void> {
  show("sample");
  await change(model);
}

/** Shows what is known of the model, where a person wants to see it. */
async function showCard(): Promise<void> {
  if (!loaded || !byId<HTMLDetailsElement>("about-model").open) return;
  const shown = loaded;
  try {
    const { show } = await import("./model-card.js");
    if (shown === loaded) await show(shown);
  } catch (error) {
    fail(error);
  }
}

// Runs.

async function foreground(work: Work): Promise<void> {
  if (!queue.sampler) {
    if (byId("progress").hidden) say("There is no model yet: load one below");
    else say("The model is still loading; your picture comes as soon as it is there");
    return;
  }
  if (queue.busy) return;
  say(""); // What is said of the run before must not seem to be said of this one.
  try {
    await queue.run(work);
  } catch (error) {
    // Another model took over: there is nothing to say of a run that was its predecessor's.
    if (codeOf(error) === "disposed") return;
    if (isAbort(error)) say("Cancelled");
    else fail(error);
  }
}

/** Shows how far a network call is that takes longer than a second. */
function progress(call: CallProgress): void {
  const done = share(call);
  if (done === null) return;
  const bar = byId<HTMLProgressElement>("call");
  bar.value = done;
  bar.hidden = false;
}

/** While a run is under way the buttons that start one keep the keyboard's focus, so they are not disabled but only inert. */
function setRunning(running: boolean): void {
  const cancel = byId<HTMLButtonElement>("cancel");
  for (const button of document.querySelectorAll("main form:not(#train-form) > button.primary"))
    button.setAttribute("aria-disabled", String(running));
  if (!running && document.activeElement === cancel) {
    byId(`panel-${open}`).querySelector<HTMLElement>("button.primary")?.focus();
  }
  cancel.disabled = !running;
  byId("call").hidden = true;
  share = slowCalls();
}

// Tabs.

function connectTabs(): void {
  const tabs = byId("tabs");
  roving(tabs, "[role=tab]");
  // The tab in focus is the one that is open, as long as it was the keyboard that moved there.
  tabs.addEventListener("keydown", () => select(document.activeElement));
  tabs.addEventListener("click", (event) => select(targetOf(event)));
  const select = (element: Element | null) => {
    const tab = TABS.find((tab) => element?.id === `tab-${tab}`);
    if (!tab || tab === open) return;
    show(tab);
    viewOf(tab).opened();
  };
}

function show(tab: Tab): void {
  open = tab;
  for (const name of TABS) {
    byId(`tab-${name}`).setAttribute("aria-selected", String(name === tab));
    byId(`tab-${name}`).tabIndex = name === tab ? 0 : -1;
    byId(`panel-${name}`).hidden = name !== tab;
  }
}

/** A chosen sample is kept; where it is edited it becomes the picture to edit, elsewhere it is explored. */
function choose(sample: Sample): void {
  clearError();
  gallery.keep(sample);
  const tab = open === "edit" || sample.edit ? "edit" : "explore";
  show(tab);
  views[tab].choose(sample);
  byId("work").scrollIntoView({ block: "nearest" });
}

// The address.

async function link(): Promise<URL> {
  const address = new URL(location.pathname, location.href);
  const name = queue.sampler?.info.name;
  const own = name === new URL(DEFAULT_MODEL, document.baseURI).href;
  const { query, hash = {} } = await viewOf(open).address();
  const parameters = { view: open === "sample" ? undefined : open, model: own ? undefined : name, ...query };
  for (const [key, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== null) address.searchParams.set(key, String(value));
  }
  address.hash = String(new URLSearchParams(hash));
  return address;
}

async function updateAddress(): Promise<void> {
  if (!queue.sampler) return;
  try {
    history.replaceState(null, "", await link());
  } catch (error) {
    // A picture too large for a link: Copy link says so to whoever asks for one. A sandboxed frame keeps its address.
    if (!(error instanceof RangeError || error instanceof DOMException)) throw error;
  }
}

// What the page says.

function say(words: string): void {
  byId("status").textContent = words;
}

function clearError(): void {
  byId("error").hidden = true;
}

/** Shows an error in one line, with a way out where there is one. */
function fail(error: unknown): void {
  const help: Record<string, string> = {
    unsupported: "Try a recent Chrome, Edge or Safari, or Firefox on Windows or macOS.",
    network: "Check the connection and press Retry.",
  };
  const box = byId("error");
  box.textContent = [messageOf(error), help[codeOf(error)]].filter(Boolean).join(" — ");
  box.hidden = false;
  say("");
}
