// Taking pictures along: copy, save as PNG, a link.

import { messageOf } from "../error.js";
import { context2d, element, offscreen } from "./dom.js";
import { sigma } from "./format.js";
import { withText } from "./png-metadata.js";
import { grid, noiseText, type Sample } from "./samples.js";

/** How large a saved picture is at least, in pixels along its longer side: whole multiples, so that it stays crisp. */
const SAVED = 256;

/** What the buttons take from the page. */
interface Sharing {
  /** What is on the screen; empty when there is nothing. */
  samples: () => Sample[];
  /** The address that reproduces it. */
  link: () => Promise<URL>;
  say: (words: string) => void;
  fail: (error: unknown) => void;
}

/** Puts the buttons Copy, Save PNG and Copy link into `place`. */
export function addShareButtons(place: HTMLElement, { samples, link, say, fail }: Sharing): void {
  const button = (textContent: string, work: () => Promise<void>) => {
    const made = element("button", { type: "button", textContent });
    const failed = (error: unknown) => fail(new Error(`${textContent}: ${messageOf(error)}`));
    made.addEventListener("click", () => work().catch(failed));
    return made;
  };
  const needed = () => {
    const found = samples().filter(({ steps }) => steps.length);
    if (!found.length) throw new Error("there is no picture yet");
    return found;
  };
  place.append(
    button("Copy", async () => {
      const found = needed();
      if (!navigator.clipboard?.write) {
        throw new Error(
          "this browser lets only pages that came over https copy pictures; Save PNG takes this one along",
        );
      }
      // A promise, so that the browser still knows that the person has just clicked.
      await navigator.clipboard.write([new ClipboardItem({ "image/png": png(found) })]);
      say("The picture is copied");
    }),
    button("Save PNG", async () => {
      const found = needed();
      const url = URL.createObjectURL(await png(found));
      element("a", { href: url, download: nameOf(found) }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    }),
    button("Copy link", async () => {
      needed();
      await copyText((await link()).href);
      say("The link is copied");
    }),
  );
}

/** Copies a text, also where the clipboard's own interface is missing or refused: over plain http, in a sandboxed frame. */
async function copyText(text: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const focused = document.activeElement as HTMLElement | null;
    const field = element("textarea", { value: text, class: "unseen" });
    document.body.append(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    focused?.focus();
    if (!copied) throw new Error("this browser does not allow it; the address of this page is the same link");
  }
}

/** The samples as a PNG, in a grid if there are several, with their recipe in its text. */
async function png(samples: Sample[]): Promise<Blob> {
  const picture = grid(samples);
  const { width, height } = picture;
  const scale = Math.max(1, Math.ceil(SAVED / Math.max(width, height)));
  const large = new OffscreenCanvas(width * scale, height * scale);
  const context = context2d(large);
  context.imageSmoothingEnabled = false;
  context.drawImage(offscreen(picture), 0, 0, large.width, large.height);
  const plain = await large.convertToBlob({ type: "image/png" });
  const bytes = withText(new Uint8Array(await plain.arrayBuffer()), { ...textsOf(samples), Scale: String(scale) });
  return new Blob([bytes], { type: "image/png" });
}

/** What made the samples. */
function textsOf(samples: Sample[]): Record<string, string> {
  const [first] = samples;
  if (!first) return {};
  const all = (value: (sample: Sample) => unknown) => {
    const values = samples.map(value);
    return values.every((v) => v === values[0]) ? String(values[0]) : values.join(" ");
  };
  return {
    Software: "consistency-sampler",
    Model: first.model,
    ...(first.edit && { Edit: first.edit }),
    Seed: all(({ recipe }) => noiseText(recipe.noise)),
    Steps: first.recipe.steps,
    Sigmas: first.steps.map((step) => sigma(step.sigma)).join(" "),
    ...(first.recipe.label !== null && { Class: all(({ recipe }) => recipe.label) }),
    ...(first.className && { "Class name": all(({ className }) => className) }),
  };
}

function nameOf([first, ...more]: Sample[]): string {
  if (!first) return "";
  const { model, edit, recipe } = first;
  const name = model.split("/").filter(Boolean).at(-1);
  const seed =
    typeof recipe.noise === "number"
      ? recipe.noise
      : noiseText(recipe.noise)
          .replace(/[^\d.]+/g, "-")
          .replace(/^-|-$/g, "");
  return (
    [name, edit, seed, more.length ? `and-${more.length}-more` : ""].filter((part) => part || part === 0).join("-") +
    ".png"
  );
}
