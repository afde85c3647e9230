// The losses of a run, thinned as they grow in number.

import type { Curve, Point } from "./train-messages.js";

/** How many points a curve has at most. */
const MOST = 600;

export const emptyCurve = (): Curve => ({ points: [], width: 1, sum: 0, count: 0 });

/** Adds a loss. Neighbours of a phase are joined when there are too many points. */
export function addLoss(curve: Curve, { phase, at, loss }: Point): void {
  curve.sum += loss;
  curve.count++;
  if (curve.count < curve.width) return;
  curve.points.push({ phase, at, loss: curve.sum / curve.count });
  Object.assign(curve, { sum: 0, count: 0 });
  if (curve.points.length < MOST) return;
  curve.width *= 2;
  curve.points = halved(curve.points);
}

/** Another phase begins: its losses are no continuation. */
export function breakCurve(curve: Curve): void {
  Object.assign(curve, { sum: 0, count: 0 });
}

function halved(points: Point[]): Point[] {
  const joined: Point[] = [];
  for (let i = 0; i < points.length; ) {
    const [first, second] = [points[i], points[i + 1]] as [Point, Point | undefined];
    const pair = second?.phase === first.phase;
    joined.push(pair ? { ...second, loss: (first.loss + second.loss) / 2 } : first);
    i += pair ? 2 : 1;
  }
  return joined;
}

/** The curve of a phase, each point the mean of those around it. */
export function smoothed(points: Point[], phase: number): Point[] {
  const own = points.filter((point) => point.phase === phase);
  const reach = Math.min(10, Math.floor(own.length / 12));
  return own.map((point, i) => {
    // As many on either side, so that the ends do not lag.
    const aside = Math.min(reach, i, own.length - 1 - i);
    const near = own.slice(i - aside, i + aside + 1);
    return { ...point, loss: near.reduce((sum, { loss }) => sum + loss, 0) / near.length };
  });
}
