// The place of the tab that trains among the others; its script is fetched when it is first opened.

import type { Page, TabView } from "./page.js";
import type { PlacedFile } from "./train-data.js";
import type { TrainView } from "./train-view.js";

export class TrainTab implements TabView {
  #page: Page;
  #device: "cpu" | null;
  #view: Promise<TrainView> | null = null;

  /** @param device the processor that the address asks for */
  constructor(page: Page, device: string | null) {
    this.#page = page;
    this.#device = device === "cpu" ? device : null;
  }

  /** Another model is there. */
  use(): void {
    this.#view?.then((view) => view.refresh()).catch(() => {});
  }

  async opened(): Promise<void> {
    try {
      (await this.#open()).refresh();
    } catch (error) {
      this.#view = null;
      this.#page.fail(error);
    }
  }

  /** Takes pictures to learn from. */
  async take(files: PlacedFile[]): Promise<void> {
    (await this.#open()).take(files);
  }

  async address() {
    return { query: {} };
  }

  async restore(): Promise<string[]> {
    return [];
  }

  #open(): Promise<TrainView> {
    this.#view ??= import("./train-view.js").then(({ TrainView }) => new TrainView(this.#page, this.#device));
    return this.#view;
  }
}
