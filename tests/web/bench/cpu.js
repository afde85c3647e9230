// What a browser's processes have cost the CPU, where the system tells (Linux). On a software GPU that is all the work
// there is, and it says what a run costs whatever else the machine does meanwhile.

import { readFileSync, readdirSync } from "node:fs";

/** Milliseconds of a clock tick in /proc, which is 10 ms on every Linux in use. */
const TICK = 10;

/** CPU time that this process's descendants have used so far, in milliseconds; NaN where it is not told. */
export function cpuOfChildren() {
  const processes = new Map();
  try {
    for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
      const stat = statOf(pid);
      if (stat) processes.set(Number(pid), stat);
    }
  } catch {
    return NaN;
  }
  const isOurs = (pid) => {
    const parent = processes.get(pid)?.parent;
    return parent === process.pid || (parent > 1 && isOurs(parent));
  };
  let ticks = 0;
  for (const [pid, stat] of processes) if (isOurs(pid)) ticks += stat.ticks;
  return ticks * TICK;
}

function statOf(pid) {
  try {
    // After the name in parentheses, which may hold anything: state, parent, …, user and system time.
    const fields = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ").at(-1).split(" ");
    return { parent: Number(fields[1]), ticks: Number(fields[11]) + Number(fields[12]) };
  } catch {
    return null; // it has ended meanwhile
  }
}
