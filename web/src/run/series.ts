// What nodes counted, moment by moment, laid on one line of time.
import type { MetricsSeries } from "../api/types.ts";
import { inWhole } from "./time.ts";

/** A value for each moment; nothing where it is not known. */
export type Line = (number | null)[];

export type Curves = {
  /** The length of a moment, in seconds. */
  step: number;
  /** When each moment ends, in seconds since 1970. */
  at: number[];
  started: Line;
  ended: Map<string, Line>;
  invocations: Map<string, Line>;
  attempts: Map<string, Line>;
  live: Map<string, Line>;
  times: Record<Timed, { bounds: number[]; counts: (number[] | null)[] }>;
};

export const TIMED = ["invocation_seconds", "run_seconds", "limit_wait_seconds"] as const;
export type Timed = (typeof TIMED)[number];

/** `10s` and `5m` in seconds. */
export function seconds(step: string): number {
  const [, n, unit] = /^(\d+)(s|m|h)$/.exec(step) ?? [];
  return n ? Number(n) * { s: 1, m: 60, h: 3600 }[unit as "s" | "m" | "h"] : 10;
}

/** So many moments of ten seconds are told minute by minute. */
const MANY = 60;

/** The counts of all nodes added, by the moments of their grid, or by minutes where there are many. */
export function merged(nodes: MetricsSeries[]): Curves {
  const own = seconds(nodes[0]?.step ?? "10s");
  // A moment ends on the grid, or a little behind it.
  const fine = nodes.flatMap((n) => n.at.map((at) => Math.floor(Date.parse(at) / 1000 / own)));
  const step = own < 60 && fine.length && Math.max(...fine) - Math.min(...fine) >= MANY ? 60 : own;
  const ratio = step / own;
  // What ends at 12:01:00 is of the minute that ends there.
  const coarse = (place: number) => Math.ceil(place / ratio);
  const last = fine.length ? Math.floor(Math.max(...fine) / ratio) : 0;
  // A minute of which only a part was counted is no minute.
  const first = fine.length ? Math.ceil((Math.min(...fine) - 1) / ratio) + 1 : 1;
  const length = Math.max(0, last - first + 1);
  const none = (): Line => Array.from({ length }, () => null);
  const curves: Curves = {
    step, at: Array.from({ length }, (_, i) => (first + i) * step), started: none(), ended: new Map(), invocations: new Map(), attempts: new Map(), live: new Map(),
    times: Object.fromEntries(TIMED.map((name) => [name, { bounds: nodes[0]?.[name].bounds ?? [], counts: Array.from({ length }, () => null) }])) as Curves["times"],
  };
  const line = (of: Map<string, Line>, name: string) => {
    let found = of.get(name);
    if (!found) of.set(name, (found = none()));
    return found;
  };
  for (const node of nodes) {
    const places = node.at.map((at) => coarse(Math.floor(Date.parse(at) / 1000 / own)) - first);
    const add = (to: Line, i: number, n: number | null | undefined) => {
      const place = places[i]!;
      if (n !== null && n !== undefined && place >= 0 && place < length) to[place] = (to[place] ?? 0) + n;
    };
    node.runs_started.forEach((n, i) => add(curves.started, i, n));
    for (const [to, from] of [[curves.ended, node.runs_ended], [curves.invocations, node.invocations], [curves.attempts, node.attempts]] as const)
      for (const [name, counts] of Object.entries(from)) counts.forEach((n, i) => add(line(to, name), i, n));
    // One node counts for all: the last word of a moment holds.
    for (const [name, counts] of Object.entries(node.live)) counts.forEach((n, i) => {
      const place = places[i]!;
      if (n !== null && n !== undefined && place >= 0 && place < length) line(curves.live, name)[place] = n;
    });
    for (const name of TIMED) node[name].counts.forEach((counts, i) => {
      const [to, place] = [curves.times[name].counts, places[i]!];
      if (counts && place >= 0 && place < length) to[place] = counts.map((n, bucket) => n + (to[place]?.[bucket] ?? 0));
    });
  }
  return curves;
}

/** Lines added; not known only where none of them is. */
export function sum(...lines: (Line | undefined)[]): Line {
  const known = lines.filter((l) => l !== undefined);
  return Array.from({ length: Math.max(0, ...known.map((l) => l.length)) }, (_, i) => known.reduce<number | null>((all, l) => (l[i] === null || l[i] === undefined ? all : (all ?? 0) + l[i]), null));
}

/** The time below which a part `q` of all fell, in seconds: as exact as the buckets are. Beyond the last bound it is that bound. */
export function quantile(bounds: number[], counts: number[] | null, q: number): number | null {
  const all = counts?.reduce((sum, n) => sum + n, 0) ?? 0;
  if (!counts || !all) return null;
  let below = 0;
  for (let i = 0; i < bounds.length; i++) {
    const here = counts[i] ?? 0;
    if (here && below + here >= q * all) {
      const from = i ? bounds[i - 1]! : 0;
      return from + (bounds[i]! - from) * Math.max(0, (q * all - below) / here);
    }
    below += here;
  }
  return bounds.at(-1) ?? null;
}

export const quantiles = (of: Curves["times"][Timed], q: number): Line => of.counts.map((counts) => quantile(of.bounds, counts, q));
/** `each minute`, `each 10 s`. */
export const each = (step: number) => (step === 60 ? "each minute" : `each ${inWhole(`${step}s`)}`);
/** The last value that is known. */
export const latest = (line: Line) => line.findLast((n) => n !== null) ?? null;
