// What a person can do with a run: when, what it means in a sentence, and the call that does it.
import type { Call } from "../api/client.ts";
import type { Run } from "../api/types.ts";
import type { Raw } from "../json/text.ts";
import { isEnded } from "./status.ts";
import type { StepLine } from "./steps.ts";

/** A field of a dialog. JSON fields hold text that is sent byte for byte. */
export type Field =
  | { kind: "json"; name: string; label: string; initial: Raw; optional?: boolean }
  | { kind: "text"; name: string; label: string; initial?: string; placeholder?: string; required?: boolean }
  | { kind: "step"; name: string; label: string; steps: string[]; none: string; initial?: string }
  | { kind: "flag"; name: string; label: string };

export type Values = Record<string, string>;

export type Act = {
  id: string;
  /** On the button that opens the dialog. */
  label: string;
  key?: string;
  /** On the button that does it. */
  doIt: string;
  danger?: boolean;
  /** What will happen. */
  sentence: string;
  fields: Field[];
  call(values: Values): Call;
  /** The same on the command line, its arguments behind `stepwell`. */
  cli(values: Values): string[];
  /** What to say when it is done. */
  done: string;
  /** Whether the answer is another run, to be shown next. */
  leads?: boolean;
};

const reason: Field = { kind: "text", name: "reason", label: "Reason, kept in the history", placeholder: "optional" };
const path = (run: Run, rest: string) => `/v1/runs/${run.id}/${rest}`;
const segment = (text: string) => encodeURIComponent(text);

/** An object in JSON whose values are JSON text; what is undefined is left out. */
export function object(members: Record<string, Raw | undefined>): Raw | undefined {
  const parts = Object.entries(members).filter(([, v]) => v !== undefined).map(([k, v]) => `${JSON.stringify(k)}: ${v}`);
  return parts.length ? `{${parts.join(", ")}}` : undefined;
}

const text = (value: string | undefined): Raw | undefined => (value?.trim() ? JSON.stringify(value.trim()) : undefined);
const flag = (name: string, value: string | undefined) => (value?.trim() ? [name, value.trim()] : []);

function simple(run: Run, verb: string, act: Omit<Act, "fields" | "call" | "cli" | "id">): Act {
  return {
    ...act, id: verb, fields: [reason],
    call: (v) => ({ method: "POST", path: path(run, verb), body: object({ reason: text(v.reason) }) ?? "{}" }),
    cli: (v) => ["run", verb, run.id, ...flag("--reason", v.reason)],
  };
}

/** What fits the run as it stands, the likeliest first. */
export function actsOn(run: Run, steps: StepLine[]): Act[] {
  const acts: Act[] = [];
  const live = !isEnded(run.status);
  if (live) {
    const tries = ["retrying", "parked", "scheduled"].includes(run.status);
    if (tries) acts.push(simple(run, "retry-now", {
      label: "Retry now", key: "n", doIt: "Retry now", done: "It is tried now.",
      sentence: "What waits for its next attempt is tried at once; the attempts so far still count.",
    }));
    const waits = run.waiting_for.find((w) => w.op === "signal");
    acts.push(signal(run, waits?.name ?? ""));
    if (run.status === "paused") acts.push(resume(run));
    else acts.push(simple(run, "pause", {
      label: "Pause", doIt: "Pause the run", done: "It is paused.",
      sentence: "The handler is not invoked any more until somebody resumes the run. Timers go on; nothing is lost.",
    }));
    acts.push(cancel(run), simple(run, "terminate", {
      label: "Terminate", doIt: "Terminate the run", danger: true, done: "It is terminated.",
      sentence: "The run ends at once. Its handler is not called again and cannot undo what it has done.",
    }));
  }
  acts.push(rerun(run, steps));
  if (["failed", "timed_out", "terminated"].includes(run.status)) acts.push(simple(run, "rewind", {
    label: "Rewind", doIt: "Rewind the run", done: "It goes on.",
    sentence: "The run goes on under the same id: steps that failed run again, successful ones keep their values.",
  }));
  return acts;
}

const cancel = (run: Run): Act => ({
  ...simple(run, "cancel", {
    label: "Cancel", key: "c", doIt: "Cancel the run", danger: true, done: "It is being cancelled.",
    sentence: "The handler is invoked once more to undo what it has done, and then the run ends as cancelled.",
  }),
  fields: [reason, { kind: "text", name: "grace", label: "Time to undo, at most", placeholder: "60s" }],
  call: (v) => ({ method: "POST", path: path(run, "cancel"), body: object({ reason: text(v.reason), grace: text(v.grace) }) ?? "{}" }),
  cli: (v) => ["run", "cancel", run.id, ...flag("--reason", v.reason), ...flag("--grace", v.grace)],
});

const resume = (run: Run): Act => ({
  ...simple(run, "resume", {
    label: "Resume", doIt: "Resume the run", done: "It goes on.",
    sentence: "The run goes on where it stands, on the newest deployment unless you name another.",
  }),
  fields: [reason, { kind: "text", name: "deployment", label: "Deployment to go on with", placeholder: "dep_…, optional" }],
  call: (v) => ({ method: "POST", path: path(run, "resume"), body: object({ reason: text(v.reason), deployment: text(v.deployment) }) ?? "{}" }),
  cli: (v) => ["run", "resume", run.id, ...flag("--reason", v.reason), ...flag("--deployment", v.deployment)],
});

/** A signal to a run. */
export const signal = (run: { id: string }, name: string): Act => ({
  id: "signal", label: "Signal…", key: "s", doIt: "Send the signal", done: "The signal is recorded.",
  sentence: "The signal is recorded in the run's order, and wakes it if it waits for one of this name.",
  fields: [
    { kind: "text", name: "name", label: "Name", initial: name, required: true },
    { kind: "json", name: "payload", label: "Payload", initial: "null" },
  ],
  call: (v) => ({ method: "POST", path: `/v1/runs/${run.id}/signals/${segment(v.name ?? "")}`, body: object({ payload: v.payload })! }),
  cli: (v) => ["signal", "send", run.id, v.name ?? "", "--input", v.payload ?? "null"],
});

/** The run again, from the beginning or from a step. */
export function rerun(run: Run, steps: StepLine[], from = ""): Act {
  const settled = steps.filter((s) => s.settled !== null).map((s) => s.id);
  return {
    id: "rerun", label: "Run again…", key: "r", doIt: "Start the new run", done: "A new run was started.", leads: true,
    sentence: "A new run of the same function begins, with the values of the steps before that one. This run stays as it is.",
    fields: [
      { kind: "step", name: "from_step", label: "Run again from", steps: settled, none: "the beginning", initial: from },
      { kind: "json", name: "input", label: "Input", initial: run.input ?? "null", optional: true },
      { kind: "flag", name: "keep_signals", label: "Send it the signals too that no copied step took" },
    ],
    call: (v) => ({
      method: "POST", path: path(run, "rerun"),
      body: object({
        from_step: text(v.from_step), input: v.input === (run.input ?? "null") ? undefined : v.input,
        keep_signals: v.keep_signals === "true" ? "true" : undefined,
      }) ?? "{}",
    }),
    cli: (v) => ["run", "rerun", run.id, ...flag("--from", v.from_step),
      ...(v.input === (run.input ?? "null") ? [] : ["--input", v.input ?? "null"]), ...(v.keep_signals === "true" ? ["--keep-signals"] : [])],
  };
}

/** What can be done with one step. */
export function actsOnStep(run: Run, step: StepLine, steps: StepLine[]): Act[] {
  const acts: Act[] = [];
  const live = !isEnded(run.status);
  const at = (verb: string) => path(run, `steps/${segment(step.id)}/${verb}`);
  if (live && (step.state === "retrying" || (run.status === "paused" && step.state === "failed"))) acts.push({
    id: "step-retry", label: "Retry now", doIt: "Retry the step", done: "The step is tried now.",
    sentence: step.state === "failed" ? "The failure is taken back, and the step runs again when the run is resumed." : "The step is tried at once; the attempts so far still count.",
    fields: [reason],
    call: (v) => ({ method: "POST", path: at("retry-now"), body: object({ reason: text(v.reason) }) ?? "{}" }),
    cli: (v) => ["step", "retry-now", run.id, step.id, ...flag("--reason", v.reason)],
  });
  if (live && step.settled === null) acts.push(
    {
      id: "step-complete", label: "Complete…", doIt: "Record the value", done: "The step has its value.",
      sentence: "The step settles with this value, as if its work had been done, and the run goes on. It cannot be taken back.",
      fields: [{ kind: "json", name: "value", label: "Value", initial: "null" }, reason],
      call: (v) => ({ method: "POST", path: at("complete"), body: object({ value: v.value, reason: text(v.reason) })! }),
      cli: (v) => ["step", "complete", run.id, step.id, "--input", v.value ?? "null", ...flag("--reason", v.reason)],
    },
    {
      id: "step-fail", label: "Fail…", doIt: "Let the step fail", danger: true, done: "The step has failed.",
      sentence: "The step fails for good with this error, and the handler decides what comes of it.",
      fields: [{ kind: "text", name: "message", label: "Message", initial: "failed by an operator", required: true }, reason],
      call: (v) => ({ method: "POST", path: at("fail"), body: object({ error: object({ message: JSON.stringify(v.message ?? "") }), reason: text(v.reason) })! }),
      cli: (v) => ["step", "fail", run.id, step.id, "--message", v.message ?? "", ...flag("--reason", v.reason)],
    },
  );
  if (live && step.op === "signal" && step.waiting) acts.unshift(signal(run, step.waiting.name ?? step.id));
  if (step.settled !== null) acts.push({ ...rerun(run, steps, step.id), id: "step-rerun", label: "Run again from here…" });
  return acts;
}
