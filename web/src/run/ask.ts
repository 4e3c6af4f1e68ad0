// What a step was asked for with: the event it waits for, the task, the call. Values in it stay text.
import type { History } from "../api/types.ts";
import { fields, type Raw } from "../json/text.ts";

export type Ask = {
  /** All of the op. */
  raw: Raw;
  /** What it is about, in a word: the event's, task's, signal's or function's name, or method and URL. */
  about: string | null;
  /** Of an event: which fields must be equal to what. */
  match: [path: string, value: Raw][];
};

const NAMES = ["event", "task", "name", "function", "signal"];

/** A string in JSON as what it says. */
const said = (json: Raw | undefined): string | null => {
  if (!json?.startsWith('"')) return null;
  try { return JSON.parse(json) as string; } catch { return null; }
};

const read = new WeakMap<History, Ask | null>();

/** Nothing where the entry has no ask in it, as for one that is too long. */
export function askOf(entry: History | null): Ask | null {
  if (!entry?.data) return null;
  let ask = read.get(entry);
  if (ask === undefined) {
    const raw = fields(entry.data).get("ask");
    ask = raw?.startsWith("{") ? parsed(raw) : null;
    read.set(entry, ask);
  }
  return ask;
}

function parsed(raw: Raw): Ask {
  const op = fields(raw);
  const request = fields(op.get("request"));
  const url = said(request.get("url"));
  const method = said(request.get("method")) ?? ((request.get("body") ?? "null") === "null" ? "GET" : "POST");
  const about = url ? `${method} ${url}` : NAMES.map((name) => said(op.get(name))).find((name) => name !== null) ?? null;
  return { raw, about, match: [...fields(op.get("match"))] };
}

/** The HTTP status that a call, or an attempt, came back with. */
export function statusOf(json: Raw | null | undefined): number | null {
  const answer = fields(json ?? undefined);
  const status = answer.get("status") ?? fields(answer.get("data")).get("status");
  return status && /^\d{3}$/.test(status) ? Number(status) : null;
}

/** The id of the event that an `event` step took, or that a `publish` step published. */
export function eventOf(op: string, value: Raw | null | undefined): string | null {
  const id = op === "publish" ? said(value ?? undefined) : op === "event" ? said(fields(value ?? undefined).get("id")) : null;
  return id && /^evt_[0-9a-z]{26}$/.test(id) ? id : null;
}

/** The event or run that began a run, by who the history says began it. */
export function causeOf(by: string | undefined): { event: string } | { run: string } | { who: string } | null {
  const found = /^(event|run) ((?:evt|run)_[0-9a-z]{26})$/.exec(by ?? "");
  if (!found) return by ? { who: by } : null;
  return found[1] === "event" ? { event: found[2]! } : { run: found[2]! };
}
