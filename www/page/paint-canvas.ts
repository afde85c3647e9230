// A picture that a person paints on, cell by cell, with a pointer or the keyboard.
//
// What is painted is either a hole in the picture (a mask) or the picture itself, in a colour. It knows no model.

import { context2d, offscreen, type Pixels } from "./dom.js";
import type { Colour } from "./edit-tools.js";

/** How many strokes can be undone. */
const MEMORY = 100;

/** About how many pixels of the canvas are along a side, for what is drawn over the picture. */
const RESOLUTION = 560;

/** Where the arrow keys lead. */
const ARROWS: Record<string, Place> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** What a stroke changes. */
export type Mode = "hole" | "colour" | "none";

/** A place, in cells. */
type Place = [x: number, y: number];

export class PaintCanvas {
  mode: Mode = "none";
  /** A stroke's diameter in cells. */
  size = 3;
  colour: Colour = [255, 255, 255];
  /** Whether strokes take away: they close the hole, or paint in the ground's colour. */
  erase = false;
  ground: Colour = [0, 0, 0];
  width = 0;
  height = 0;
  /** The picture, RGBA. */
  pixels = new Uint8ClampedArray();
  /** 1 in the hole. */
  hole = new Uint8Array();
  /** Shown in place of the picture until that changes. */
  #preview: Pixels["pixels"] | null = null;
  #canvas: HTMLCanvasElement;
  #undo: Pick<PaintCanvas, "pixels" | "hole">[] = [];
  /** Where the keyboard is; null while it is not used. */
  #cursor: Place | null = null;
  /** The cell where the stroke under way is, null when there is none. */
  #last: Place | null = null;
  #onChange: () => void;
  #cell: HTMLElement;

  /**
   * @param onChange a stroke was made or undone
   * @param cell where the keyboard is, in words
   */
  constructor(canvas: HTMLCanvasElement, onChange: () => void, cell: HTMLElement) {
    this.#canvas = canvas;
    this.#onChange = onChange;
    this.#cell = cell;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"])
      canvas.addEventListener(end, () => this.#up());
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => {
      this.#cursor = null;
      this.show();
    });
  }

  /** Puts up another picture; strokes and hole are gone. */
  put({ pixels, width, height }: Pixels): void {
    if (width !== this.width || height !== this.height) {
      Object.assign(this, { width, height });
      const scale = Math.max(1, Math.round(RESOLUTION / width));
      Object.assign(this.#canvas, { width: width * scale, height: height * scale });
    }
    this.pixels = pixels.slice();
    this.hole = new Uint8Array(width * height);
    this.#undo = [];
    this.changed();
  }

  get canUndo(): boolean {
    return this.#undo.length > 0;
  }

  undo(): void {
    const state = this.#undo.pop();
    if (!state) return;
    Object.assign(this, state);
    this.changed();
  }

  /** Takes away what was painted: the hole, or all of the picture. */
  clear(): void {
    this.#remember();
    if (this.mode === "hole") this.hole = new Uint8Array(this.hole.length);
    else this.pixels = filled(this.width, this.height, this.ground);
    this.changed();
  }

  /** Shows other pixels in the picture's place until it changes. */
  preview(pixels: Pixels["pixels"] | null): void {
    this.#preview = pixels;
    this.show();
  }

  changed(): void {
    this.#preview = null;
    this.show();
    this.#onChange();
  }

  // Strokes.

  #down(event: PointerEvent): void {
    if (event.button !== 0 || this.mode === "none") return;
    event.preventDefault();
    this.#canvas.focus({ preventScroll: true });
    this.#canvas.setPointerCapture(event.pointerId);
    this.#cursor = null;
    this.#remember();
    this.#last = this.#cellAt(event);
    this.#stamp(...this.#last);
    this.changed();
  }

  #move(event: PointerEvent): void {
    if (!this.#last) return;
    // A fast pointer passes many cells between two events.
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) this.#lineTo(this.#cellAt(each));
    this.changed();
  }

  #up(): void {
    this.#last = null;
  }

  #remember(): void {
    this.#undo.push({ pixels: this.pixels.slice(), hole: this.hole.slice() });
    if (this.#undo.length > MEMORY) this.#undo.shift();
  }

  /** The place of an event, in cells; it may lie outside of the picture. */
  #cellAt({ clientX, clientY }: PointerEvent): Place {
    const { left, top, width, height } = this.#canvas.getBoundingClientRect();
    return [((clientX - left) / width) * this.width, ((clientY - top) / height) * this.height];
  }

  #lineTo([x, y]: Place): void {
    const [fromX, fromY] = this.#last ?? [x, y];
    const stamps = Math.max(1, Math.ceil(Math.hypot(x - fromX, y - fromY) * 2));
    for (let i = 1; i <= stamps; i++)
      this.#stamp(fromX + ((x - fromX) * i) / stamps, fromY + ((y - fromY) * i) / stamps);
    this.#last = [x, y];
  }

  /** Paints a disc; a brush of one cell paints the cell. */
  #stamp(x: number, y: number): void {
    const radius = this.size / 2;
    for (let row = Math.floor(y - radius); row <= y + radius; row++) {
      for (let column = Math.floor(x - radius); column <= x + radius; column++) {
        if (row < 0 || column < 0 || row >= this.height || column >= this.width) continue;
        const inside =
          this.size === 1
            ? row === Math.floor(y) && column === Math.floor(x)
            : Math.hypot(column + 0.5 - x, row + 0.5 - y) <= radius;
        if (!inside) continue;
        const at = row * this.width + column;
        if (this.mode === "hole") this.hole[at] = this.erase ? 0 : 1;
        else this.pixels.set(this.erase ? this.ground : this.colour, 4 * at);
      }
    }
  }

  // The keyboard.

  #key(event: KeyboardEvent): void {
    if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.undo();
      return;
    }
    if (this.mode === "none" || event.ctrlKey || event.altKey || event.metaKey) return;
    const step = ARROWS[event.key];
    if (!step && ![" ", "Enter"].includes(event.key)) return;
    event.preventDefault();
    const began = !this.#cursor;
    this.#cursor ??= [Math.floor(this.width / 2), Math.floor(this.height / 2)];
    if (step && !began) {
      const limit = (value: number, most: number) => Math.min(Math.max(value, 0), most - 1);
      this.#cursor = [limit(this.#cursor[0] + step[0], this.width), limit(this.#cursor[1] + step[1], this.height)];
    }
    if (!step || event.shiftKey) {
      this.#remember();
      this.#stamp(this.#cursor[0] + 0.5, this.#cursor[1] + 0.5);
      this.changed();
    } else {
      this.show();
    }
    const [column, row] = this.#cursor;
    this.#cell.textContent = `row ${row + 1}, column ${column + 1}: ${this.#describe(row * this.width + column)}`;
  }

  #describe(at: number): string {
    if (this.mode === "hole") return this.hole[at] ? "to be generated" : "kept";
    const [r, g, b] = this.pixels.subarray(4 * at, 4 * at + 3);
    return r === g && g === b ? `grey ${r} of 255` : `red ${r}, green ${g}, blue ${b}`;
  }

  // The canvas.

  show(): void {
    if (!this.width) return;
    const canvas = this.#canvas;
    const context = context2d(canvas);
    const pixels = (this.#preview ?? this.pixels).slice();
    if (this.mode === "hole") this.#fillHole(pixels);
    context.imageSmoothingEnabled = false;
    context.drawImage(offscreen({ pixels, width: this.width, height: this.height }), 0, 0, canvas.width, canvas.height);
    const cell = canvas.width / this.width;
    if (this.mode === "hole") this.#outline(context, cell);
    if (this.#cursor) this.#drawCursor(context, cell, this.#cursor);
  }

  /** What is to be generated is shown as what it is made of: noise. */
  #fillHole(pixels: Pixels["pixels"]): void {
    let state = 1;
    this.hole.forEach((isHole, at) => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      if (!isHole) return;
      const grey = 60 + (state >>> 24) * 0.55;
      pixels.set([Math.min(255, grey * 1.25), grey * 0.95, grey * 0.35], 4 * at);
    });
  }

  #outline(context: CanvasRenderingContext2D, cell: number): void {
    const { hole, width, height } = this;
    const inHole = (x: number, y: number) => x >= 0 && y >= 0 && x < width && y < height && hole[y * width + x] === 1;
    context.fillStyle = "#ffc22e";
    const line = Math.max(2, cell / 8);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        if (!inHole(x, y)) continue;
        if (!inHole(x, y - 1)) context.fillRect(x * cell, y * cell, cell, line);
        if (!inHole(x, y + 1)) context.fillRect(x * cell, (y + 1) * cell - line, cell, line);
        if (!inHole(x - 1, y)) context.fillRect(x * cell, y * cell, line, cell);
        if (!inHole(x + 1, y)) context.fillRect((x + 1) * cell - line, y * cell, line, cell);
      }
    }
  }

  #drawCursor(context: CanvasRenderingContext2D, cell: number, [column, row]: Place): void {
    const radius = Math.max(this.size / 2, 0.5) * cell;
    const [x, y] = [(column + 0.5) * cell, (row + 0.5) * cell];
    for (const [strokeStyle, lineWidth] of [
      ["#000", 6],
      ["#ffc22e", 3],
    ]) {
      Object.assign(context, { strokeStyle, lineWidth });
      context.strokeRect(x - radius, y - radius, 2 * radius, 2 * radius);
    }
  }
}

/** A picture of one colour. */
export function filled(width: number, height: number, colour: Colour): Pixels["pixels"] {
  const pixels = new Uint8ClampedArray(width * height * 4);
  for (let at = 0; at < pixels.length; at += 4) pixels.set([...colour, 255], at);
  return pixels;
}
