// Taking pictures along: copy, save as PNG, a link.

import { element } from "./dom.js";
import { withText } from "./png-metadata.js";
import { grid, noiseText } from "./samples.js";
import { sigma } from "./words.js";

/** How large a saved picture is at least, in pixels along its longer side: whole multiples, so that it stays crisp. */
const SAVED = 256;

/**
 * Puts the buttons Copy, Save PNG and Copy link into `place`.
 *
 * @param {Element} place
 * @param {object} of
 * @param {() => import("./samples.js").Sample[]} of.samples  what is on the screen; empty when there is nothing
 * @param {() => URL} of.link  the address that reproduces it
 * @param {(words: string) => void} of.say
 * @param {(error: Error) => void} of.fail
 */
export function offer(place, { samples, link, say, fail }) {
  const button = (textContent, work) => {
    const made = element("button", { type: "button", textContent });
    made.addEventListener("click", () => work().catch((error) => fail(new Error(`${textContent}: ${error.message}`))));
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
      if (!navigator.clipboard?.write) throw new Error("this page cannot copy pictures: use Save PNG");
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

/** Copies a text; pages that are not secure have no `navigator.clipboard`. */
async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = element("textarea", { value: text, readOnly: true });
  Object.assign(field.style, { position: "fixed", opacity: 0 });
  document.body.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  if (!copied) throw new Error(`this page cannot copy: the link is ${text}`);
}

/** The samples as a PNG, in a grid if there are several, with their recipe in its text. */
async function png(samples) {
  const { pixels, width, height } = grid(samples);
  const scale = Math.max(1, Math.ceil(SAVED / Math.max(width, height)));
  const small = new OffscreenCanvas(width, height);
  small.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
  const large = new OffscreenCanvas(width * scale, height * scale);
  const context = large.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, large.width, large.height);
  const plain = await large.convertToBlob({ type: "image/png" });
  const bytes = withText(new Uint8Array(await plain.arrayBuffer()), { ...textsOf(samples), Scale: String(scale) });
  return new Blob([bytes], { type: "image/png" });
}

/** What made the samples. */
function textsOf(samples) {
  const [first] = samples;
  const all = (value) => {
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

function nameOf([{ model, edit, recipe }, ...more]) {
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
