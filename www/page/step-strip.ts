// A strip of radio buttons, one for each network call: its picture, at its σ.

import { element, paint, type Pixels, targetOf } from "./dom.js";
import { sigma } from "./format.js";
import { smallWidth } from "./gallery.js";
import type { Sample } from "./samples.js";

export class StepStrip {
  #field: HTMLElement;
  #room: number;

  /**
   * @param field a fieldset with a legend
   * @param room about how wide a picture is, in CSS pixels
   * @param onChoice a step is to be shown
   */
  constructor(field: HTMLElement, room: number, onChoice: (step: number) => void) {
    this.#field = field;
    this.#room = room;
    field.addEventListener("change", (event) => onChoice(Number(targetOf(event).value)));
  }

  /** Offers so many steps, none of which is there yet. */
  expect(steps: number): void {
    removeLabels(this.#field);
    for (let i = 0; i < steps; i++) {
      const input = element("input", { type: "radio", name: this.#field.id, value: i, disabled: true });
      this.#field.append(
        element("label", {}, input, element("span", {}, element("canvas"), element("b", { textContent: i + 1 }))),
      );
    }
    this.#field.hidden = false;
  }

  /** A step is there: offers it, and marks it as the one that is shown. */
  add(index: number, level: number, picture: Pixels): void {
    const label = this.#field.querySelectorAll("label")[index];
    const [canvas, caption, input] = ["canvas", "b", "input"].map((tag) => label?.querySelector(tag)) as [
      HTMLCanvasElement,
      HTMLElement,
      HTMLInputElement,
    ];
    paint(canvas, picture);
    canvas.style.width = `${smallWidth(picture.width, this.#room)}px`;
    caption.textContent = `${index + 1}, from σ ${sigma(level)}`;
    Object.assign(input, { disabled: false, checked: true });
  }

  /** Shows the steps of a finished sample, the last one chosen. */
  show({ steps, width, height }: Sample): void {
    this.expect(steps.length);
    for (const [i, { sigma, pixels }] of steps.entries()) this.add(i, sigma, { pixels, width, height });
  }

  hide(): void {
    this.#field.hidden = true;
  }
}

/** Takes the radio buttons out of a field. */
export function removeLabels(field: HTMLElement): void {
  for (const label of field.querySelectorAll("label")) label.remove();
}
