// The run that the browser keeps: one at a time, in IndexedDB, which every browser has in workers too and which replaces
// a state as a whole or not at all.

import type { Data, Progress, Run } from "./train-messages.js";

const NAME = "consistency-sampler-training";
const STORE = "run";

interface Kept {
  run: Run;
  data: Data;
  /** Weights, averages, moments. */
  state: Uint8Array<ArrayBuffer>;
  progress: Progress;
  /** When the state was kept, in milliseconds. */
  time: number;
}

/** Keeps parts of a run in the place of what was there of them. */
export function keep(parts: Partial<Kept>): Promise<unknown> {
  return transact("readwrite", (store) => {
    for (const [key, value] of Object.entries(parts)) store.put(value, key);
    return {};
  });
}

/** The run that is kept; null when there is none. */
export async function kept(): Promise<Kept | null> {
  return whole(await read("run", "data", "state", "progress", "time")) as Kept | null;
}

/** What is kept, without what is large of it. */
export async function keptSummary(): Promise<Pick<Kept, "run" | "progress" | "time"> | null> {
  return whole(await read("run", "progress", "time")) as Kept | null;
}

export async function forget(): Promise<void> {
  await transact("readwrite", (store) => ({ cleared: store.clear() }));
}

const read = (...keys: (keyof Kept)[]) =>
  transact("readonly", (store) => Object.fromEntries(keys.map((key) => [key, store.get(key)])));

const whole = (found: Record<string, unknown>) =>
  Object.values(found).every((value) => value !== undefined) ? found : null;

/** The results of requests, by name, once the transaction that they are in has ended. */
async function transact(
  mode: IDBTransactionMode,
  action: (store: IDBObjectStore) => Record<string, IDBRequest>,
): Promise<Record<string, unknown>> {
  const database = await open();
  try {
    return await new Promise((resolve, reject) => {
      const transaction = database.transaction(STORE, mode);
      const requests = action(transaction.objectStore(STORE));
      transaction.oncomplete = () =>
        resolve(Object.fromEntries(Object.entries(requests).map(([name, { result }]) => [name, result])));
      transaction.onabort = () => reject(transaction.error ?? new Error("the browser gave up storing the run"));
    });
  } finally {
    database.close();
  }
}

function open(): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
