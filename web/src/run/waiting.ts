// What runs wait for that a person or another system has to do.
import type { Run, WaitingFor } from "../api/types.ts";

/** Ops that somebody outside settles. */
export const OUTSIDE = ["signal", "callback", "event"] as const;
export type Outside = (typeof OUTSIDE)[number];

export type Wait = { run: Run; w: WaitingFor };

/** All that the runs wait for from outside, as it is filtered. */
export function waits(runs: Run[], op: string | undefined, text: string): Wait[] {
  const asked = text.trim().toLowerCase();
  return runs.flatMap((run) => run.waiting_for.map((w) => ({ run, w }))).filter(({ run, w }) =>
    (op === undefined ? (OUTSIDE as readonly string[]).includes(w.op) : w.op === op)
    && (asked === "" || [w.name, w.step, run.key, run.id, run.function].some((of) => of?.toLowerCase().includes(asked))));
}

/** Where a signal is sent. One to a run that has a key goes by that, and reaches the run that has it then. */
export const addressOf = (base: string, run: Pick<Run, "id" | "key" | "function">, name: string) =>
  base.replace(/\/$/, "") + (run.key ? `/v1/functions/${encodeURIComponent(run.function)}/keys/${encodeURIComponent(run.key)}/signals/${encodeURIComponent(name)}` : `/v1/runs/${run.id}/signals/${encodeURIComponent(name)}`);
