// The paper's picture (Song et al. 2023, figures 1 and 2), drawn live: a path from a picture to noise, and the network's
// answer to points of it.

import type { ConsistencySampler, ModelInfo } from "../consistency-sampler.js";
import { byId, element, paint, pixelScale, resize, svg } from "./dom.js";
import { sigma as words } from "./format.js";
import type { Page } from "./page.js";
import { pixelsOf, type Sample } from "./samples.js";

/** How many points of the path have their pictures. */
const POINTS = 7;

/** The seed of the noise along the path. */
const SEED = 3;

/** Height of the drawing between the two rows, in CSS pixels. */
const HEIGHT = 150;

/** Connects the figure; it is computed once it comes into view and there is a sample to begin with. */
export function explain({ queue }: Page) {
  const place = byId("path-drawing");
  const slider = byId<HTMLInputElement>("path-sigma");
  const drawing = svg("svg", { "aria-hidden": "true" });
  const figure = (name: string) => {
    const canvas = element("canvas", { width: 28, height: 28, role: "img", "aria-label": `${name}: not computed yet` });
    return { name, canvas, figure: element("figure", {}, canvas, element("figcaption", { textContent: name })) };
  };
  const [seen, answer] = [figure("What the network sees"), figure("Its answer")];
  let info: ModelInfo | null = null;
  let sample: Sample | null = null;
  let visible = false;
  /** Which points are computed. */
  let done = new Set<number>();

  const row = () => Array.from({ length: POINTS }, () => element("canvas", { width: 28, height: 28 }));
  const [noisy, answers] = [row(), row()];
  const shown = (row: HTMLElement[]) => element("div", { class: "path-row", "aria-hidden": "true" }, ...row);
  const arrow = element("span", { class: "path-arrow", "aria-hidden": "true", textContent: "f →" });
  const pairOf = element("div", { class: "path-pair" }, seen.figure, arrow, answer.figure);
  place.append(shown(noisy), drawing, shown(answers), pairOf);

  /** σ at a share of the way from the picture to noise; the steps are even in ln σ. */
  const level = (share: number) => {
    const { sigmaMin, sigmaMax } = info ?? { sigmaMin: 0.002, sigmaMax: 80 };
    return Math.min(Math.max(sigmaMin * (sigmaMax / sigmaMin) ** share, sigmaMin), sigmaMax);
  };
  const denoise = (sampler: ConsistencySampler, signal: AbortSignal, sample: Sample, share: number) => {
    const { pixels, width, height } = pixelsOf(sample);
    const { label } = sample.recipe;
    const image = new ImageData(pixels.slice(), width, height);
    return sampler.denoise({
      image,
      sigma: level(share),
      seed: SEED,
      classLabels: label === null ? undefined : [label],
      signal,
    });
  };

  function compute(): void {
    if (!visible || !sample) return;
    slider.disabled = false;
    pair();
    computeNext();
  }

  /** One point at a time, so that what a person waits for comes in between. */
  function computeNext(): void {
    const of = sample;
    const point = noisy.findIndex((_, i) => !done.has(i));
    const [before, after] = [noisy[point], answers[point]];
    if (!of || !before || !after) return;
    queue.latest("path", async (sampler, signal) => {
      if (of !== sample) return;
      const { width, height } = of;
      const result = await denoise(sampler, signal, of, point / (POINTS - 1));
      if (of !== sample) return;
      paint(before, { pixels: result.noisy, width, height });
      paint(after, { pixels: result.denoised, width, height });
      done.add(point);
      fit();
      computeNext();
    });
  }

  /** The pair at the slider's σ. */
  function pair(): void {
    show();
    if (!sample) return;
    const share = Number(slider.value);
    queue.latest("pair", async (sampler, signal) => {
      if (!sample) return;
      const { width, height } = sample;
      const { noisy: x, denoised } = await denoise(sampler, signal, sample, share);
      const show = ({ canvas, name }: ReturnType<typeof figure>, pixels: typeof x) => {
        paint(canvas, { pixels, width, height });
        canvas.setAttribute("aria-label", `${name} at σ ${words(level(share))}`);
      };
      show(seen, x);
      show(answer, denoised);
      fit();
    });
  }

  function show(): void {
    const text = words(level(Number(slider.value)));
    byId("path-value").textContent = text;
    slider.setAttribute("aria-valuetext", `σ ${text}`);
    drawPath();
  }

  function fit(): void {
    const room = place.clientWidth;
    if (!room) return;
    const { width } = seen.canvas;
    const scale = (canvases: HTMLCanvasElement[], room: number) => {
      const side = `${width * pixelScale(room, width)}px`;
      for (const canvas of canvases) Object.assign(canvas.style, { width: side, height: side });
    };
    scale([...noisy, ...answers], Math.min(room / POINTS - 4, 84));
    scale([seen.canvas, answer.canvas], Math.min((room - 72) / 2, 196));
  }

  /** The path, a dot for each point, an arc from each to the path's beginning, and where the slider is. */
  function drawPath(): void {
    const width = place.clientWidth;
    if (!width) return;
    // A point lies in the middle of its column.
    const x = (share: number) => (width / POINTS) * (0.5 + share * (POINTS - 1));
    const y = (share: number) => 46 - 30 * Math.sin(share * 4.2) * (0.25 + 0.75 * share);
    const along = Array.from({ length: 81 }, (_, i) => `${x(i / 80).toFixed(1)},${y(i / 80).toFixed(1)}`);
    const arc = (share: number) =>
      `M${x(share)},${y(share)} Q${(x(share) + x(0)) / 2},${HEIGHT + 26} ${x(0) + 3},${y(0) + 9}`;
    const shares = Array.from({ length: POINTS }, (_, i) => i / (POINTS - 1));
    const now = Number(slider.value);
    drawing.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    drawing.replaceChildren(
      ...shares.slice(1).map((share) => svg("path", { class: "jump", d: arc(share) })),
      svg("path", { class: "jump now", d: arc(now) }),
      svg("polyline", { class: "way", points: along.join(" ") }),
      ...shares.map((share) => svg("circle", { class: "point", cx: x(share), cy: y(share), r: 4 })),
      svg("circle", { class: "here", cx: x(now), cy: y(now), r: 8 }),
      svg("text", { x: x(0) - 8, y: HEIGHT - 6 }, "x₀"),
      svg("text", { x: x(1), y: HEIGHT - 6, "text-anchor": "end" }, "noise"),
    );
  }

  slider.addEventListener("input", pair);
  new ResizeObserver(() => {
    fit();
    show();
  }).observe(place);
  new IntersectionObserver(([entry]) => {
    if (!entry?.isIntersecting || visible) return;
    visible = true;
    compute();
  }).observe(byId("path"));
  show();

  return {
    /** Another model is there. */
    use(next: ModelInfo): void {
      info = next;
      sample = null;
      done = new Set();
      slider.disabled = true;
      show();
    },
    /** A sample to begin with; the first one of a model is taken. */
    begin(first: Sample): void {
      if (sample || !info || first.model !== info.name) return;
      sample = first;
      for (const canvas of [...noisy, ...answers, seen.canvas, answer.canvas]) resize(canvas, first);
      fit();
      compute();
    },
  };
}
