// Range, ETag and length handling against generated servers: see `download-fuzz.js`, which this starts as a program of its
// own, for the test runner's bookkeeping of promises would take ten times as long as the downloads.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import path from "node:path";
import { test } from "node:test";

test("downloads from servers that break off, lie and change their minds", () => {
  const script = path.join(import.meta.dirname, "download-fuzz.js");
  const { ends } = JSON.parse(execFileSync(process.execPath, [script, "20000"], { encoding: "utf8" }));
  for (const [end, count] of Object.entries(ends)) assert.ok(count > 0, `none ended as ${end}: ${JSON.stringify(ends)}`);
});
