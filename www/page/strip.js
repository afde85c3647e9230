// A strip of radio buttons, one for each network call: its picture, at its σ.

import { element, paint } from "./dom.js";
import { smallWidth } from "./gallery.js";
import { sigma } from "./words.js";

export class Strip {
  #field;
  #name;
  #room;

  /**
   * @param {HTMLFieldSetElement} field  with a legend
   * @param {number} room  about how wide a picture is, in CSS pixels
   * @param {(step: number) => void} onChoice  a step is to be shown
   */
  constructor(field, room, onChoice) {
    this.#field = field;
    this.#room = room;
    this.#name = field.id;
    field.addEventListener("change", ({ target }) => onChoice(Number(target.value)));
  }

  /** Offers so many steps, none of which is there yet. */
  expect(steps) {
    this.#field.querySelectorAll("label").forEach((label) => label.remove());
    for (let i = 0; i < steps; i++) {
      const input = element("input", { type: "radio", name: this.#name, value: i, disabled: true });
      this.#field.append(
        element("label", {}, input, element("span", {}, element("canvas"), element("b", { textContent: i + 1 }))),
      );
    }
    this.#field.hidden = false;
  }

  /** A step is there: offers it, and marks it as the one that is shown. */
  land(index, level, picture) {
    const label = this.#field.querySelectorAll("label")[index];
    const canvas = label.querySelector("canvas");
    paint(canvas, picture);
    canvas.style.width = `${smallWidth(picture.width, this.#room)}px`;
    label.querySelector("b").textContent = `${index + 1}, from σ ${sigma(level)}`;
    Object.assign(label.querySelector("input"), { disabled: false, checked: true });
  }

  /** Shows the steps of a finished sample, the last one chosen. */
  show({ steps, width, height }) {
    this.expect(steps.length);
    steps.forEach((step, i) => this.land(i, step.sigma, { pixels: step.pixels, width, height }));
  }

  hide() {
    this.#field.hidden = true;
  }
}
