// A limit in words: what it is, and what keeps those back who wait there.
import type { HeldAt, Limit } from "../api/types.ts";
import { asString } from "../json/text.ts";
import { inWhole } from "./time.ts";

const KINDS: Record<Limit["kind"], string> = { concurrency: "concurrency", throttle: "throttle", rate_limit: "rate limit" };
/** A kind that is not known yet is shown by its word. */
export const kindOf = (kind: string) => (Object.hasOwn(KINDS, kind) ? KINDS[kind as Limit["kind"]] : kind.replaceAll("_", " "));

const UNITS: Record<string, string> = { s: "second", min: "minute", h: "hour", d: "day" };
/** `every minute`, `every 90 s`. */
const every = (period: string) => `every ${inWhole(period).replace(/^1 (s|min|h|d)$/, (_, unit: string) => UNITS[unit]!)}`;
const count = (n: number, what: string) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;

/** What it lets through. */
export function rule(l: Pick<Limit, "kind" | "limit" | "per" | "period">): string {
  if (l.limit === null || l.limit === undefined) return "no more in force";
  if (l.period) return `${count(l.limit, "start")} ${every(l.period)}`;
  return `${count(l.limit, "run")} ${l.per === "run" ? "from start to end" : "at once"}`;
}

export type Standing = "paused" | "full" | "paced" | "free";

/** How it stands to those who come now. */
export function standing(l: Pick<Limit, "paused" | "period" | "queued" | "running" | "limit">): Standing {
  if (l.paused) return "paused";
  if (l.period) return l.queued ? "paced" : "free";
  return l.limit !== null && l.limit !== undefined && l.running >= l.limit ? "full" : "free";
}

/** How much of it is taken, from 0 to 1; nothing where that says nothing. */
export function taken(l: Pick<Limit, "period" | "running" | "limit">): number | null {
  if (l.period || l.limit === null || l.limit === undefined) return null;
  return l.limit > 0 ? Math.min(1, l.running / l.limit) : 1;
}

/** Waiting runs are counted up to here. */
const COUNTED = 10_000;
export const waiting = (n: number) => (n >= COUNTED ? `${COUNTED.toLocaleString("en")}+` : n.toLocaleString("en"));

/** The value of its key, as it is in the input. */
export const valueOf = (l: Pick<Limit, "value">): string | null => (l.value === null || l.value === undefined ? null : asString(l.value));

type Named = Pick<HeldAt | Limit, "kind" | "function" | "endpoint" | "key" | "value">;
/** The filters of the list that show this limit. */
export const searchOf = (l: Named): Record<string, string> => ({ ...(l.function ? { function: l.function } : {}), ...(valueOf(l) ? { value: valueOf(l)! } : {}) });
/** Its name among all limits. */
export const nameOf = (l: Named): string => JSON.stringify([l.kind, l.function ?? null, l.endpoint ?? null, l.key ?? null, l.value ?? null]);
