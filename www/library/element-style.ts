// How the element looks: its colours are made of the page's own text colour, so that it fits light and dark pages alike.

const CSS = `
:host {
  --ink: var(--consistency-sampler-ink, currentcolor);
  --muted: var(--consistency-sampler-muted, color-mix(in srgb, var(--ink) 82%, transparent));
  --line: var(--consistency-sampler-line, color-mix(in srgb, var(--ink) 55%, transparent));
  --tile: var(--consistency-sampler-tile, color-mix(in srgb, var(--ink) 12%, transparent));
  --radius: var(--consistency-sampler-radius, 6px);
  display: block;
  color: var(--ink);
  text-align: center;
}
:host([hidden]), [hidden] { display: none !important; }
* { box-sizing: border-box; }
[part~="stage"] { display: grid; place-items: center; max-height: var(--consistency-sampler-max-height, 30rem); min-height: 3rem; }
[part~="canvas"], [part~="poster"] { image-rendering: pixelated; border-radius: var(--radius); background: var(--tile); }
[part~="progress"] { width: min(100%, 24rem); margin: 0.5rem auto 0; }
[part~="bar"] { display: block; width: 100%; height: 0.5rem; accent-color: var(--consistency-sampler-accent, auto); }
[part~="status"], [part~="amount"], [part~="error"], [part~="notice"] { margin: 0.5rem 0 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
[part~="status"], [part~="amount"], [part~="notices"] { color: var(--muted); font-size: 0.875em; }
[part~="status"] { min-height: 1.5em; }
[part~="error"] { padding: 0.5rem 0.75rem; border: 1px solid var(--line); border-inline-start: 4px solid var(--consistency-sampler-bad, #c4303a); border-radius: var(--radius); text-align: start; }
[part~="controls"] { display: flex; flex-wrap: wrap; gap: 0.5rem; justify-content: center; margin-top: 0.5rem; }
button {
  min-height: 2.75rem;
  padding: 0.4rem 1rem;
  font: inherit;
  color: inherit;
  background: transparent;
  border: 1px solid var(--line);
  border-radius: var(--radius);
  cursor: pointer;
}
[part~="notice"] { display: flex; align-items: center; justify-content: center; gap: 0.5rem; }
[part~="dismiss"] { min-height: 1.75rem; min-width: 1.75rem; padding: 0; flex: none; }
button[aria-disabled="true"] { opacity: 0.6; cursor: default; }
[part~="generate"] { color: var(--consistency-sampler-on-accent, inherit); background: var(--consistency-sampler-accent, transparent); font-weight: 600; }
:focus-visible { outline: 3px solid var(--consistency-sampler-accent, currentcolor); outline-offset: 2px; }
`;

/** A sheet belongs to a document, whose elements share it. */
const sheets = new WeakMap<Document, CSSStyleSheet>();

/** Gives an element its style; to be called each time that it comes into a document, perhaps another one. */
export function style(root: ShadowRoot): void {
  const { ownerDocument } = root;
  const { CSSStyleSheet } = ownerDocument.defaultView ?? {};
  // Where there is no window nothing is shown.
  if (!CSSStyleSheet) return;
  let sheet = sheets.get(ownerDocument);
  if (!sheet) {
    sheet = new CSSStyleSheet();
    sheet.replaceSync(CSS);
    sheets.set(ownerDocument, sheet);
  }
  root.adoptedStyleSheets = [...new Set([sheet, ...root.adoptedStyleSheets])];
}
