// Short ways to say what the page does with its document.

export const byId = (id) => document.getElementById(id);

/** Makes an element: its properties (`aria-*`, `role` and `class` as attributes), then what is in it. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (/^(aria-|data-|role$|class$|for$)/.test(name)) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** An element of SVG, with attributes. */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Draws RGBA pixels on a canvas, one canvas pixel each. */
export function paint(canvas, { pixels, width, height }) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
}

/**
 * One stop for Tab in a group of buttons, and the arrow keys, Home and End within it; `selector` says which elements
 * belong to it. Works for buttons that come and go.
 */
export function roving(container, selector) {
  const items = () => [...container.querySelectorAll(selector)];
  const settle = (chosen) => {
    for (const item of items()) item.tabIndex = item === chosen ? 0 : -1;
  };
  const keepOne = () => {
    const all = items();
    const stops = all.filter(({ tabIndex }) => tabIndex === 0);
    if (all.length && stops.length !== 1)
      settle(all.includes(document.activeElement) ? document.activeElement : all[0]);
  };
  new MutationObserver(keepOne).observe(container, { childList: true, subtree: true });
  container.addEventListener("focusin", ({ target }) => target.matches(selector) && settle(target));
  container.addEventListener("keydown", (event) => {
    const all = items();
    const at = all.indexOf(document.activeElement);
    if (at < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
    const to =
      { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: all.length - 1 }[event.key] ?? rows(event.key, all, at);
    if (to === undefined) return;
    event.preventDefault();
    all[Math.min(Math.max(to, 0), all.length - 1)].focus();
  });
}

/** Where the arrow up or down leads in a grid of elements: to the one above or below, if there is one. */
function rows(key, all, at) {
  const down = { ArrowUp: -1, ArrowDown: 1 }[key];
  if (!down) return undefined;
  const left = ({ offsetLeft }) => offsetLeft;
  for (let to = at + down; to >= 0 && to < all.length; to += down) if (left(all[to]) === left(all[at])) return to;
  return at;
}
