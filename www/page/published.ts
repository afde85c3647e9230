// The consistency models that were published with the paper (Song et al. 2023), as cards that load one with one press.

import type { ModelInfo } from "../consistency-sampler.js";
import { element } from "./dom.js";
import { megabytes } from "./format.js";

/** One architecture, with what a device must have for it. */
interface Architecture {
  size: number;
  data: string;
  parameters: number;
  /** Bytes of the longest buffer, for one sample. */
  longest: number;
}

const IMAGENET: Architecture = {
  size: 64,
  data: "ImageNet, 1000 classes",
  parameters: 295_899_267,
  longest: 37_748_736,
};
const lsun = (data: string): Architecture => ({ size: 256, data, parameters: 526_304_771, longest: 134_217_728 });
const BEDROOM = lsun("LSUN bedrooms");
const CATS = lsun("LSUN cats");

const DISTILLED = "distilled";
const TRAINED = "trained from nothing";

/** By the name that follows the hub's: what it draws, how it was made, and the published timesteps for two steps. */
const MODELS: Record<string, [Architecture, string, string?]> = {
  cd_imagenet64_l2: [IMAGENET, `${DISTILLED} (L2)`, "22,0"],
  cd_imagenet64_lpips: [IMAGENET, `${DISTILLED} (LPIPS)`, "22,0"],
  ct_imagenet64: [IMAGENET, TRAINED, "106,0"],
  cd_bedroom256_l2: [BEDROOM, `${DISTILLED} (L2)`, "18,0"],
  cd_bedroom256_lpips: [BEDROOM, `${DISTILLED} (LPIPS)`, "17,0"],
  ct_bedroom256: [BEDROOM, TRAINED, "67,0"],
  cd_cat256_l2: [CATS, `${DISTILLED} (L2)`],
  cd_cat256_lpips: [CATS, `${DISTILLED} (LPIPS)`],
  ct_cat256: [CATS, TRAINED, "62,0"],
};

const OWNER = "openai/diffusers-";

const published = (name: string) => (name.startsWith(OWNER) ? MODELS[name.slice(OWNER.length)] : undefined);

/** The published timesteps of a hub's model for two steps. */
export const timestepsOf = (name: string): string | undefined => published(name)?.[2];

/** The data of a published model, and how it was made. */
export function aboutPublished(name: string): { data: string; made: string } | undefined {
  const found = published(name);
  return found && { data: found[0].data, made: `${found[1]}, by Song et al. 2023` };
}

/** Gives a published model of ImageNet the names of its classes, which its folder does not hold. */
export async function nameClasses(info: ModelInfo): Promise<void> {
  if (info.classNames || published(info.name)?.[0] !== IMAGENET) return;
  const response = await fetch(new URL("imagenet-classes.txt", import.meta.url));
  if (!response.ok) return; // Numbers do as well.
  const names = (await response.text()).split("\n").filter((line) => line && !line.startsWith("#"));
  if (names.length === info.numClassEmbeds) info.classNames = names;
}

/** Why this browser cannot run an architecture; null where it can. `most` is its GPU's longest buffer, null without one. */
function obstacle({ longest }: Architecture, most: number | null): string | null {
  if (most === null) return "needs WebGPU, which this browser does not offer";
  return most < longest ? `needs buffers of ${megabytes(longest)}, this GPU's are of at most ${megabytes(most)}` : null;
}

/** Fills a list with the cards; `take` is told of the one that was pressed. */
export async function showPublished(list: HTMLElement, take: (model: string) => void): Promise<void> {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  const most = adapter && Math.min(adapter.limits.maxBufferSize, adapter.limits.maxStorageBufferBindingSize);
  const cards = Object.entries(MODELS).map(([key, [architecture, how]]) => {
    const { data, size, parameters } = architecture;
    const why = obstacle(architecture, most ?? null);
    const [half, single] = [2, 4].map((bytes) => megabytes(bytes * parameters));
    const facts = [
      `${data}, ${size} × ${size}, ${how}`,
      `${(parameters / 1e6).toFixed(0)} million parameters, MIT licence`,
      why ?? `Downloads ${single} from huggingface.co, or ${half} where it has half precision`,
    ];
    const lines = facts.map((textContent) => element("span", { textContent }));
    const button = element("button", { type: "button" }, element("b", { textContent: key }), ...lines);
    button.disabled = why !== null;
    button.addEventListener("click", () => take(OWNER + key));
    return element("li", {}, button);
  });
  list.replaceChildren(...cards);
}
