// Memory stays where it is while a page samples, and while models come and go; `endurance.js` measures the same for longer.

import assert from "node:assert/strict";
import { before, describe, test } from "node:test";

import { endure } from "./endurance.js";

/** What a garbage collection may leave of the browser's own. */
const HEAP_TOLERANCE = 100e3;

describe("in one page", () => {
  let found;
  before(async () => {
    found = await endure({ samples: 30, cycles: 6, readings: 3 });
  });

  for (const [name, what] of [
    ["samples", "30 samples"],
    ["cycles", "6 loads of another model, each used and disposed of"],
  ]) {
    test(`${what} leave nothing behind`, () => {
      const [first, ...later] = found[name];
      assert.ok(later.length >= 2 && first.gpu.buffers > 0 && first.gpu.bytes > 1e6, JSON.stringify(first));
      for (const reading of later) {
        for (const figure of ["listeners", "nodes", "workers"]) assert.equal(reading[figure], first[figure], figure);
        assert.deepEqual(reading.gpu, first.gpu);
        assert.ok(reading.heap - first.heap < HEAP_TOLERANCE, `the heap grew by ${reading.heap - first.heap} bytes`);
      }
    });
  }

  test("the last model takes the worker with it", () => {
    assert.equal(found.cycles.at(-1).workers, 1);
    assert.equal(found.end.workers, 0);
  });
});
