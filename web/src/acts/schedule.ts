// What a person can do with a schedule.
import type { Schedule } from "../api/types.ts";
import { word } from "../run/status.ts";
import { pretty } from "../json/text.ts";
import { flag, object, segment, text, type Act, type Field, type Option, type Values } from "./act.ts";

const at = (s: Schedule, rest = "") => `/v1/schedules/${segment(s.name)}${rest}`;

/** What happens at a moment while as many of its runs are live as may be. */
export const OVERLAP: Option[] = [
  { value: "skip", label: "Skip it", detail: "The moment comes to nothing while a run of before is live." },
  { value: "buffer_one", label: "Let one wait", detail: "One start waits for the run of before to end; further ones are skipped." },
  { value: "buffer_all", label: "Let all wait", detail: "Every start waits its turn." },
  { value: "cancel_other", label: "Cancel the run of before", detail: "The oldest run is cancelled, and the start waits for its end." },
  { value: "terminate_other", label: "Terminate the run of before", detail: "The oldest run is terminated, and the start waits for its end." },
  { value: "allow_all", label: "Start it beside the others", detail: "Runs may overlap." },
];

const note: Field = { kind: "text", name: "note", label: "Note", placeholder: "why, for who looks at it" };

/** What a schedule is made of; `of`: as it is. */
const fieldsOf = (of: Schedule | null, functions: string[]): Field[] => [
  { kind: "text", name: "name", label: "Name", initial: of?.name ?? "", placeholder: "nightly-report", required: true },
  functions.length ? { kind: "select", name: "function", label: "Function", initial: of?.function ?? functions[0]!, options: functions.map((f) => ({ value: f, label: f })) }
    : { kind: "text", name: "function", label: "Function", initial: of?.function ?? "", required: true },
  { kind: "text", name: "cron", label: "Cron expression", initial: of?.cron ?? "", placeholder: "0 9 * * 1-5", hint: "Minute, hour, day of month, month, day of week. Or an interval below." },
  { kind: "text", name: "time_zone", label: "Time zone", initial: of?.time_zone ?? "", placeholder: "UTC, or Europe/Paris" },
  { kind: "text", name: "every", label: "Every", initial: of?.every ?? "", placeholder: "15m, in place of the expression" },
  { kind: "json", name: "input", label: "Input of its runs", initial: pretty(of?.input ?? "{}") },
  { kind: "select", name: "overlap", label: "While a run of before is live", initial: of?.overlap ?? "skip", options: OVERLAP },
  { kind: "text", name: "jitter", label: "Jitter", initial: of && of.jitter !== "0s" ? of.jitter : "", placeholder: "none; 5m: up to five minutes later" },
];

/** Typed values as JSON, by the names of the API. */
const typed = (v: Values) => ({ name: text(v.name), function: text(v.function), cron: text(v.cron), time_zone: text(v.time_zone), every: text(v.every), input: v.input, overlap: text(v.overlap), jitter: text(v.jitter) });

/** What is typed as options of the command line. */
const options = (v: Values) => [...flag("--cron", v.cron), ...flag("--time-zone", v.time_zone), ...flag("--every", v.every), ...flag("--input", v.input), ...overlap(v), ...flag("--jitter", v.jitter)];
const overlap = (v: Values) => flag("--overlap", v.overlap?.replaceAll("_", "-"));

export const create = (functions: string[]): Act => ({
  id: "create", label: "Create a schedule…", doIt: "Create the schedule", done: "The schedule is there.",
  sentence: "It starts a run of the function at each of its moments, on this gateway's clock, whether a node is restarted meanwhile or not.",
  fields: fieldsOf(null, functions),
  call: (v) => ({ method: "POST", path: "/v1/schedules", body: object(typed(v))! }),
  cli: (v) => ["schedule", "create", (v.name ?? "").trim(), (v.function ?? "").trim(), ...options(v)],
});

/** What fits the schedule as it stands, the likeliest first. */
export function actsOnSchedule(s: Schedule, functions: string[]): Act[] {
  const acts: Act[] = [{
    id: "trigger", label: "Start one now…", doIt: "Start it", fields: [{ kind: "select", name: "overlap", label: "While a run of before is live", options: [{ value: "", label: "As the schedule says" }, ...OVERLAP] }],
    sentence: s.paused ? "A run of it starts now; the schedule stays paused." : "A run of it starts now, beside its own moments.",
    call: (v) => ({ method: "POST", path: at(s, "/trigger"), body: object({ overlap: text(v.overlap) }) ?? "{}" }),
    cli: (v) => ["schedule", "trigger", s.name, ...overlap(v)],
    done: (answer) => {
      const { outcome, reason } = answer as { outcome: string; reason: string | null };
      return outcome === "started" ? "A run is started." : outcome === "waiting" ? "It waits for the run of before." : `It was ${outcome}${reason ? `: ${reason}` : ""}.`;
    },
  }];
  acts.push(s.paused ? {
    id: "resume", label: "Resume", doIt: "Resume the schedule", done: "It goes on.", fields: [],
    sentence: "It starts runs again. Moments that went by meanwhile stay without one; a backfill fires them.",
    call: () => ({ method: "POST", path: at(s, "/resume") }), cli: () => ["schedule", "resume", s.name],
  } : {
    id: "pause", label: "Pause…", doIt: "Pause the schedule", done: "It is paused.", fields: [note],
    sentence: "It starts nothing by itself, and moments go by. Its live runs go on.",
    call: (v) => ({ method: "POST", path: at(s, "/pause"), body: object({ note: text(v.note) }) ?? "{}" }),
    cli: (v) => ["schedule", "pause", s.name, ...flag("--note", v.note)],
  });
  acts.push({
    id: "backfill", label: "Backfill…", doIt: "Begin it", done: "The backfill has begun.",
    sentence: "The moments between two times of the past are fired. One that has had a run is left out.",
    fields: [
      { kind: "text", name: "start", label: "From", initial: new Date(Date.now() - 864e5).toISOString(), required: true },
      { kind: "text", name: "end", label: "To", initial: new Date().toISOString(), required: true },
      { kind: "select", name: "overlap", label: "How", options: [{ value: "", label: "One after another" }, { value: "allow_all", label: "All at once" }] },
      { kind: "flag", name: "again", label: "Also moments that have had a run" },
    ],
    call: (v) => ({ method: "POST", path: at(s, "/backfill"), body: object({ start: text(v.start) ?? '""', end: text(v.end) ?? '""', overlap: text(v.overlap), again: v.again === "true" ? "true" : undefined })! }),
    cli: (v) => ["schedule", "backfill", s.name, ...flag("--start", v.start), ...flag("--end", v.end), ...(v.overlap === "allow_all" ? ["--at-once"] : []), ...(v.again === "true" ? ["--again"] : [])],
  });
  // Those of a registration are changed there.
  if (!s.owned) acts.push(edit(s, functions), {
    id: "delete", label: "Delete…", doIt: "Delete the schedule", danger: true, done: "It is deleted.", fields: [],
    sentence: "It starts nothing any more. Its live runs go on, and those that ended stay.",
    call: () => ({ method: "DELETE", path: at(s) }), cli: () => ["schedule", "rm", s.name],
  });
  return acts;
}

function edit(s: Schedule, functions: string[]): Act {
  const fields = fieldsOf(s, functions.includes(s.function) ? functions : []);
  const was = Object.fromEntries(fields.map((f) => [f.name, "initial" in f ? (f.initial ?? "") : ""]));
  // An expression goes with its time zone.
  const changed = (v: Values): Values => Object.fromEntries(Object.entries(v).filter(([name, value]) => value.trim() !== was[name]!.trim() || (name === "time_zone" && v.cron?.trim() && v.cron.trim() !== was.cron)));
  const body = (v: Values) => {
    const now = changed(v);
    const jitter = now.jitter === undefined ? undefined : (text(now.jitter) ?? "null");
    return object({ ...typed(now), jitter }) ?? "{}";
  };
  return {
    id: "edit", label: "Edit…", doIt: "Save", done: "It is changed.", fields,
    sentence: "What you do not change stays as it is; what has come of it stays too.",
    call: (v) => ({ method: "PATCH", path: at(s), body: body(v) }),
    cli: (v) => {
      const now = changed(v);
      return ["schedule", "update", s.name, ...flag("--name", now.name), ...flag("--function", now.function), ...options(now)];
    },
  };
}

/** Why a moment came to no run, in words. */
export const WHY: Record<string, string> = {
  overlap: "a run of before was live", "buffer-full": "as many starts waited as may", replaced: "another start took its place", already: "its moment has had a run",
  "function-not-found": "nobody has the function", "endpoint-draining": "the endpoint takes no new runs", "deployment-not-found": "the deployment is gone",
};

/** How a moment ended, in a few words. */
export function outcome(of: Schedule["recent"][number]): string {
  if (of.outcome === "started") return of.run_status ? word(of.run_status) : "Live";
  if (of.outcome === "skipped") return `Skipped${of.reason ? `: ${WHY[of.reason] ?? of.reason}` : ""}`;
  return of.outcome === "missed" ? "Missed: it was too late" : "Waits for the run of before";
}
