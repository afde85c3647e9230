// The README of a model as elements. Anyone may have written it: every piece of it becomes text of an element, and only links
// to http and https addresses are links. HTML and pictures are shown as text.

import { element } from "./dom.js";

/** A README in two parts. */
export interface Readme {
  /** The keys of the front matter, YAML between two lines of ---, with one value or several. */
  facts: Map<string, string[]>;
  text: string;
}

/** The longest README that is shown, in characters. */
const LONGEST = 200_000;

/** Reads the front matter as far as it has keys with a text, or a list of texts; what else it has is left out. */
export function parseReadme(readme: string): Readme {
  const lines = readme.slice(0, LONGEST).replace(/\r\n?/g, "\n").split("\n");
  const facts = new Map<string, string[]>();
  const end = lines[0]?.trim() === "---" ? lines.findIndex((line, i) => i && line.trim() === "---") : -1;
  if (end < 0) return { facts, text: lines.join("\n") };
  let values: string[] = [];
  for (const line of lines.slice(1, end)) {
    const [, key, rest = ""] = /^([\w-]+):(?:\s(.*))?$/.exec(line) ?? [];
    const item = /^\s*-\s(.*)$/.exec(line)?.[1];
    if (key) {
      const list = /^\[(.*)\]$/.exec(rest.trim())?.[1];
      values = (list?.split(",") ?? [rest]).map(scalar).filter(Boolean);
      facts.set(key, values);
    } else if (item && !/^[\w-]+:\s/.test(item)) values.push(scalar(item));
  }
  return { facts, text: lines.slice(end + 1).join("\n") };
}

/** A text of YAML without its quotes and the comment behind it. */
function scalar(text: string): string {
  const trimmed = text.trim();
  const [, double, single] = /^"([^"]*)"|^'([^']*)'/.exec(trimmed) ?? [];
  return double ?? single ?? trimmed.replace(/\s#.*$/, "").trim();
}

/** What begins a block of another kind than a paragraph. */
const BLOCK = /^\s*(?:#{1,6}\s|```|~~~|[-*+]\s|\d{1,9}[.)]\s|\||>\s?|(?:[-*_]\s*){3,}$)/;

/** The elements of a text in Markdown, with headings from `level` on. */
export function render(text: string, level: number): HTMLElement[] {
  const lines = text.replace(/<!--[\s\S]{0,2000}?-->/g, "").split("\n");
  const blocks: HTMLElement[] = [];
  let at = 0;
  /** The level of the heading before. */
  let rank = level - 1;
  /** Takes the lines from here on that fit. */
  const take = (fits: (line: string) => boolean) => {
    const begin = at;
    while (at < lines.length && fits(lines[at] ?? "")) at++;
    return lines.slice(begin, at);
  };
  while (at < lines.length) {
    const line = lines[at] ?? "";
    const fence = /^\s*(```|~~~)/.exec(line)?.[1];
    const heading = /^\s*(#{1,6})\s(.*)$/.exec(line);
    if (!line.trim() || /^\s*(?:[-*_]\s*){3,}$/.test(line)) at++;
    else if (fence) {
      at++;
      const code = take((line) => !line.trim().startsWith(fence)).join("\n");
      at++;
      blocks.push(element("pre", { tabIndex: 0, textContent: code }));
    } else if (heading) {
      at++;
      // No level is left out, whatever the README does.
      rank = Math.min((heading[1]?.length ?? 1) - 1 + level, rank + 1, 6);
      const title = (heading[2] ?? "").trim().replace(/\s#{1,6}$/, "");
      blocks.push(element(`h${rank}` as "h3", {}, ...inline(title)));
    } else if (/^\s*\|/.test(line)) blocks.push(table(take((line) => /^\s*\|/.test(line))));
    else if (/^\s*>/.test(line)) {
      const quoted = take((line) => /^\s*>/.test(line)).map((line) => line.replace(/^\s*>\s?/, ""));
      blocks.push(element("blockquote", {}, element("p", {}, ...inline(quoted.join(" ")))));
    } else if (ITEM.test(line)) {
      const items = take((line) => ITEM.test(line) || (Boolean(line.trim()) && !BLOCK.test(line)));
      blocks.push(list(items));
    } else {
      at++;
      const more = take((line) => Boolean(line.trim()) && !BLOCK.test(line));
      blocks.push(element("p", {}, ...inline([line, ...more].map((line) => line.trim()).join(" "))));
    }
  }
  return blocks;
}

const ITEM = /^\s*(?:[-*+]|\d{1,9}[.)])\s+/;

/** A list; those within it are of its own level. */
function list(lines: string[]): HTMLElement {
  const items: string[] = [];
  for (const line of lines) {
    if (ITEM.test(line)) items.push(line.replace(ITEM, ""));
    else items.push(`${items.pop() ?? ""} ${line.trim()}`);
  }
  const ordered = /^\s*\d/.test(lines[0] ?? "");
  return element(ordered ? "ol" : "ul", {}, ...items.map((item) => element("li", {}, ...inline(item))));
}

/** A table; where its header is empty, the first cell of each row is one. */
function table(lines: string[]): HTMLElement {
  const cells = (line: string) =>
    line
      .trim()
      .replace(/^\||\|$/g, "")
      .split("|")
      .map((cell) => cell.trim());
  const [header = [], ...rows] = lines.map(cells).filter((row) => !row.every((cell) => /^:?-+:?$/.test(cell)));
  const titled = header.some(Boolean);
  const body = rows.map((row) =>
    element("tr", {}, ...row.map((cell, i) => element(!titled && !i && cell ? "th" : "td", {}, ...inline(cell)))),
  );
  const made = element("table", {}, element("tbody", {}, ...body));
  if (!titled) return made;
  const row = header.map((cell) => element(cell ? "th" : "td", {}, ...inline(cell)));
  made.prepend(element("thead", {}, element("tr", {}, ...row)));
  return element("div", { class: "wide", tabIndex: 0, role: "group", "aria-label": "Table" }, made);
}

/** Code, strong and emphasised text, links, pictures; the lengths bound the time that a text takes. */
const INLINE =
  /(`{1,2})(.{1,1000}?)\1|\*\*(.{1,1000}?)\*\*|\*([^*\s][^*]{0,1000})\*|!?\[([^\]]{0,1000})\]\(([^()\s]{1,2000})[^()]{0,200}\)|<(https?:[^\s<>]{1,2000})>/g;

/** A piece of text with what is marked in it. */
function inline(text: string): (Node | string)[] {
  const nodes: (Node | string)[] = [];
  let end = 0;
  for (const found of text.matchAll(INLINE)) {
    const [whole, , code, strong, emphasis, label, target, address] = found;
    nodes.push(text.slice(end, found.index));
    end = found.index + whole.length;
    if (code !== undefined) nodes.push(element("code", { textContent: code }));
    else if (strong) nodes.push(element("strong", {}, ...inline(strong)));
    else if (emphasis) nodes.push(element("em", {}, ...inline(emphasis)));
    else nodes.push(...link(target ?? address ?? "", label ?? address ?? "", whole.startsWith("!")));
  }
  return [...nodes, text.slice(end)];
}

/** A link, or the label alone where it is a picture's or leads elsewhere than to http. */
function link(address: string, label: string, picture: boolean): (Node | string)[] {
  const content = inline(label);
  if (picture || !label.trim() || !/^https?:\/\//i.test(address) || !URL.canParse(address)) return content;
  // A link within a link is none.
  const text = content.map((node) => (typeof node === "string" ? node : (node.textContent ?? ""))).join("");
  return [element("a", { href: address, rel: "noopener noreferrer nofollow", textContent: text })];
}
