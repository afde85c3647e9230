// The tag's types in the templates of frameworks. Each `declare module` has an effect where that framework is installed.

import type { ConsistencySamplerElement, ConsistencySamplerElementEventMap as Events } from "./element.js";

/** The attributes and properties, as a template may give them. */
interface TagAttributes {
  model?: string | null;
  revision?: string | null;
  hub?: string | null;
  poster?: string | null;
  alt?: string | null;
  loading?: "lazy" | "eager" | "manual" | null;
  seed?: number | bigint | string | null;
  steps?: number | string | null;
  count?: number | string | null;
  columns?: number | string | null;
  "class-label"?: number | number[] | string | null;
  classLabel?: number | number[] | string | null;
  timesteps?: number | number[] | string | null;
  controls?: boolean;
}

type Listeners = { [Name in keyof Events as `on${Name}`]?: (event: Events[Name]) => void };
type CapitalizedListeners = { [Name in keyof Events as `on${Capitalize<Name>}`]?: (event: Events[Name]) => void };

// The frameworks' own interfaces gain nothing here; they are named so that they exist where the framework does not.
declare module "react" {
  interface ClassAttributes<T> {}
  interface HTMLAttributes<T> {}
  namespace JSX {
    interface IntrinsicElements {
      "consistency-sampler": ClassAttributes<ConsistencySamplerElement> &
        HTMLAttributes<ConsistencySamplerElement> &
        TagAttributes &
        Listeners;
    }
  }
}

declare module "vue" {
  interface HTMLAttributes {}
  interface GlobalComponents {
    // What a template may say is in $props; a ref is the element.
    "consistency-sampler": new () => ConsistencySamplerElement & {
      $props: HTMLAttributes & TagAttributes & CapitalizedListeners;
    };
  }
}

declare module "preact" {
  interface ClassAttributes<T> {}
  interface HTMLAttributes<RefType extends EventTarget = EventTarget> {}
  namespace JSX {
    interface IntrinsicElements {
      "consistency-sampler": ClassAttributes<ConsistencySamplerElement> &
        HTMLAttributes<ConsistencySamplerElement> &
        TagAttributes &
        Listeners;
    }
  }
}
