// The result as tables in Markdown.

import { RUNTIMES } from "./measure.js";

const COLUMNS = {
  "forward, ms (range)": (r) => `${digits(r.forward_ms)} (${r.forward_spread_ms.map(digits).join("–")})`,
  "forward, CPU ms": (r) => digits(r.forward_cpu_ms),
  "first image, ms": (r) => digits(r.first_image_ms),
  "first image, CPU ms": (r) => digits(r.first_image_cpu_ms),
  "ready, ms": (r) => digits(r.ready_ms),
  dispatches: (r) => r.dispatches,
  submits: (r) => r.submits,
  pipelines: (r) => r.pipelines,
  "GPU memory, MB": (r) => megabytes(r.gpu_bytes),
  "page heap, MB": (r) => megabytes(r.heap_bytes),
};

/** What is divided by the others'. */
const RATIOS = ["forward_ms", "forward_cpu_ms", "first_image_ms", "first_image_cpu_ms"];

/** One table of the cases, one of the ratios to ours, and one of the code's sizes. */
export function tables({ machine, load_average, browser, adapter, cases }) {
  const runtimes = Object.keys(RUNTIMES).filter((name) => cases.some((entry) => entry[name]));
  const named = (name, r) => (r.graph ? `${name} (${r.graph})` : name);
  const rows = cases.flatMap((entry) =>
    runtimes
      .filter((name) => entry[name])
      .map((name) => {
        const r = entry[name];
        const cells = r.error
          ? [r.error, ...Array(Object.keys(COLUMNS).length - 1).fill("")]
          : Object.values(COLUMNS).map((cell) => cell(r));
        return [entry.model, entry.batch, named(name, r), ...cells];
      }),
  );
  const others = runtimes.filter((name) => !name.startsWith("ours"));
  const ratios = cases.map((entry) => [
    entry.model,
    entry.batch,
    ...others.flatMap((name) =>
      RATIOS.map((key) => {
        const ratio = (entry.ours ?? entry.ours_cpu)?.[key] / entry[name]?.[key];
        return Number.isFinite(ratio) ? ratio.toFixed(3) : "";
      }),
    ),
  ]);
  const sizes = runtimes.map((name) => {
    const r = cases.map((entry) => entry[name]).find((found) => found?.bytes_raw);
    return [name, r?.bytes_raw, r?.bytes_gzip, r?.bytes_brotli];
  });
  return [
    `${machine} at load ${load_average.toFixed(1)}, ${browser}, adapter "${adapter}"`,
    table(["model", "batch", "runtime", ...Object.keys(COLUMNS)], rows),
    table(["model", "batch", ...others.flatMap((name) => RATIOS.map((key) => `${key.replaceAll("_", " ")} / ${name}`))], ratios),
    table(["code", "bytes", "gzip", "brotli"], sizes),
  ].join("\n\n");
}

function digits(ms) {
  if (!Number.isFinite(ms)) return "";
  return ms >= 100 ? ms.toFixed(0) : ms.toPrecision(3);
}

function megabytes(bytes) {
  return bytes === undefined ? "" : (bytes / 1e6).toFixed(1);
}

function table(head, rows) {
  const line = (cells) => `| ${cells.map((cell) => cell ?? "").join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n");
}
