// The loss of a run over time, on a logarithmic scale, and the same in words.

import { svg } from "./dom.js";
import { smoothed } from "./train-curve.js";
import type { Curve, Point } from "./train-messages.js";

const HEIGHT = 190;
/** Room for the numbers at the left and below, and above. */
const [LEFT, BELOW, ABOVE] = [52, 26, 18];

/** About how wide a letter is. */
const LETTER = 7.4;

/** Draws the curve; `names` are those of the phases. */
export function drawCurve(place: HTMLElement, { points }: Curve, names: string[]): void {
  const lines = names.map((_, phase) => smoothed(points, phase));
  const drawn = lines.flat();
  const width = Math.max(place.clientWidth, 240);
  const image = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img" });
  image.setAttribute("aria-label", `Loss on a logarithmic scale. ${curveWords({ points }, names)}`);
  place.replaceChildren(image);
  if (drawn.length < 2) return;
  const last = Math.max(...points.map(({ at }) => at));
  // Single losses scatter; what lies far out is cut off.
  const losses = drawn.map(({ loss }) => loss).filter((loss) => loss > 0);
  const [low, high] = [Math.log10(Math.min(...losses)) - 0.1, Math.log10(Math.max(...losses)) + 0.1];
  const x = (at: number) => LEFT + (at / last) * (width - LEFT - 8);
  const y = (loss: number) => {
    const share = (Math.log10(Math.max(loss, 1e-30)) - low) / (high - low);
    return HEIGHT - BELOW - Math.min(Math.max(share, 0), 1) * (HEIGHT - BELOW - ABOVE);
  };
  const text = (at: [number, number], anchor: string, words: string) =>
    svg("text", { x: at[0], y: at[1], "text-anchor": anchor }, words);
  for (const tick of ticks(low, high)) {
    image.append(svg("path", { class: "rule", d: `M${LEFT} ${y(tick)}H${width - 8}` }));
    image.append(text([LEFT - 8, y(tick) + 4], "end", String(tick)));
  }
  image.append(text([LEFT, HEIGHT - 6], "start", "0:00"), text([width - 8, HEIGHT - 6], "end", clock(last)));
  const path = (line: Point[]) =>
    line.map(({ at, loss }, i) => `${i ? "L" : "M"}${x(at).toFixed(1)} ${y(loss).toFixed(1)}`);
  lines.forEach((line, phase) => {
    const [first] = line;
    if (!first) return;
    if (phase) image.append(svg("path", { class: "rule border", d: `M${x(first.at)} ${ABOVE}V${HEIGHT - BELOW}` }));
    const own = points.filter((point) => point.phase === phase);
    image.append(svg("path", { class: "single", d: path(own).join("") }));
    image.append(svg("path", { class: "curve", d: path(line).join("") }));
    const name = names[phase] ?? "";
    const fits = x(first.at) + 4 + name.length * LETTER < width - 8;
    image.append(text([fits ? x(first.at) + 4 : width - 8, ABOVE - 5], fits ? "start" : "end", name));
  });
}

/** How the losses went, in words. */
export function curveWords({ points }: Pick<Curve, "points">, names: string[]): string {
  return names
    .flatMap((name, phase) => {
      const own = points.filter((point) => point.phase === phase);
      const some = Math.ceil(own.length / 10);
      const mean = (of: Point[]) => of.reduce((sum, { loss }) => sum + loss, 0) / of.length;
      const number = (value: number) => String(Number(value.toPrecision(2)));
      if (own.length < 10) return [];
      return [`${name}: ${number(mean(own.slice(0, some)))} at first, ${number(mean(own.slice(-some)))} now.`];
    })
    .join(" ");
}

/** Powers of ten, and where they are few twice and five times these. */
function ticks(low: number, high: number): number[] {
  const factors = high - low > 2 ? [1] : [1, 2, 5];
  const found = [];
  for (let power = Math.floor(low); power <= high; power++) {
    for (const factor of factors) {
      const value = Number(`${factor}e${power}`);
      if (Math.log10(value) >= low && Math.log10(value) <= high) found.push(value);
    }
  }
  return found;
}

/** Minutes and seconds. */
export function clock(seconds: number): string {
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
