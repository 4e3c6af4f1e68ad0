// What a person can do with a run, and with one of its steps.
import type { Run } from "../api/types.ts";
import { pretty } from "../json/text.ts";
import { isEnded } from "../run/status.ts";
import type { StepLine } from "../run/steps.ts";
import { edited, flag, object, reason, segment, text, type Act } from "./act.ts";

const path = (run: Run, rest: string) => `/v1/runs/${run.id}/${rest}`;

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
    const send = signal(run, waits?.name ?? "");
    if (run.status === "paused") acts.push(resume(run), send);
    else acts.push(send, simple(run, "pause", {
      label: "Pause", doIt: "Pause the run", done: "It is paused.",
      sentence: "The handler is not invoked any more until somebody resumes the run. Timers go on; nothing is lost.",
    }));
    acts.push(cancel(run), rerun(run, steps), simple(run, "terminate", {
      label: "Terminate", doIt: "Terminate the run", danger: true, done: "It is terminated.",
      sentence: "The run ends at once. Its handler is not called again and cannot undo what it has done.",
    }), repin(run));
    return acts;
  }
  // What was erased cannot be gone on with.
  if (run.erased_at) return acts;
  acts.push(rerun(run, steps));
  // What was imported may have gone on where it came from.
  if (["failed", "timed_out", "terminated"].includes(run.status) && !run.imported_at) acts.push(simple(run, "rewind", {
    label: "Rewind", doIt: "Rewind the run", done: "It goes on.",
    sentence: "The run goes on under the same id: steps that failed run again, successful ones keep their values.",
  }));
  acts.push(erase(run));
  return acts;
}

const erase = (run: Run): Act => {
  const act = simple(run, "erase", {
    label: "Erase payloads…", doIt: "Erase them for good", danger: true, done: "What was said to the run and by it is gone.",
    sentence: "Input, output, values of steps, signals, logs and messages of errors are erased and cannot be had back; what happened and when stays, and so do key and tags.",
  });
  return { ...act, cli: (v) => [...act.cli(v), "--yes"] };
};

const cancel = (run: Run): Act => ({
  ...simple(run, "cancel", {
    label: "Cancel", key: "c", doIt: "Cancel the run", danger: true, done: "It is being cancelled.",
    sentence: "The handler is invoked once more to undo what it has done, and then the run ends as cancelled.",
  }),
  fields: [reason, { kind: "text", name: "grace", label: "Time to undo, at most", placeholder: "60s" }],
  call: (v) => ({ method: "POST", path: path(run, "cancel"), body: object({ reason: text(v.reason), grace: text(v.grace) }) ?? "{}" }),
  cli: (v) => ["run", "cancel", run.id, ...flag("--reason", v.reason), ...flag("--grace", v.grace)],
});

const onDeployment = (run: Run, label: string, none: string): Act["fields"][number] => ({ kind: "deployment", name: "deployment", label, function: run.function, none });

const resume = (run: Run): Act => ({
  ...simple(run, "resume", {
    label: "Resume", doIt: "Resume the run", done: "It goes on.",
    sentence: "The run goes on where it stands, on the newest deployment unless you name another.",
  }),
  fields: [reason, onDeployment(run, "Deployment to go on with", "the one that it would have")],
  call: (v) => ({ method: "POST", path: path(run, "resume"), body: object({ reason: text(v.reason), deployment: text(v.deployment) }) ?? "{}" }),
  cli: (v) => ["run", "resume", run.id, ...flag("--reason", v.reason), ...flag("--deployment", v.deployment)],
});

const repin = (run: Run): Act => ({
  ...simple(run, "repin", {
    label: "Repin…", doIt: "Repin the run", done: "It goes on there with its next invocation.",
    sentence: "From its next invocation on the run is on that deployment, and stays there.",
  }),
  fields: [onDeployment(run, "Deployment", "the newest that has its function"), reason],
  call: (v) => ({ method: "POST", path: path(run, "repin"), body: object({ deployment: text(v.deployment), reason: text(v.reason) }) ?? "{}" }),
  cli: (v) => ["run", "repin", run.id, ...flag("--deployment", v.deployment), ...flag("--reason", v.reason)],
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

/** What is longer is shown as it came. */
const LONG = 256 * 1024;

/** The run again, from the beginning or from a step, with other values where somebody wants them. */
export function rerun(run: Run, steps: StepLine[], from = ""): Act {
  const settled = steps.filter((s) => s.settled !== null).map((s) => s.id);
  const whole = run.input ?? "null";
  // What is long is not laid out anew.
  const same = whole.length < LONG ? pretty(whole) : whole;
  const changed = (input: string | undefined) => input !== same && input !== whole;
  return {
    id: "rerun", label: "Run again…", key: "r", doIt: "Start the new run", done: "A new run was started.", leads: "/runs/$id",
    sentence: "A new run of the same function begins, with the values of the steps before that one. This run stays as it is.",
    fields: [
      { kind: "step", name: "from_step", label: "Run again from", steps: settled, none: "the beginning", initial: from },
      { kind: "edits", name: "edits", label: "Other values for steps", run: run.id, steps: steps.map((s) => s.id) },
      { kind: "json", name: "input", label: "Input", initial: same, optional: true },
      onDeployment(run, "Deployment", "the newest"),
      { kind: "flag", name: "keep_signals", label: "Send it the signals too that no copied step took" },
    ],
    call: (v) => ({
      method: "POST", path: path(run, "rerun"),
      body: object({
        from_step: text(v.from_step), input: changed(v.input) ? v.input : undefined, edits: object(edited(v.edits ?? "")),
        deployment: text(v.deployment), keep_signals: v.keep_signals === "true" ? "true" : undefined,
      }) ?? "{}",
    }),
    cli: (v) => ["run", "rerun", run.id, ...flag("--from", v.from_step), ...(changed(v.input) ? ["--input", v.input ?? "null"] : []),
      ...Object.entries(edited(v.edits ?? "")).flatMap(([step, json]) => ["--edit", `${step}=${json}`]),
      ...flag("--deployment", v.deployment), ...(v.keep_signals === "true" ? ["--keep-signals"] : [])],
  };
}

const stepPath = (run: { id: string }, step: string, verb: string) => `/v1/runs/${run.id}/steps/${segment(step)}/${verb}`;

/** A pending step settles with a value that somebody gives. */
export const complete = (run: { id: string }, step: string): Act => ({
  id: "step-complete", label: "Complete…", doIt: "Record the value", done: "The step has its value.",
  sentence: "The step settles with this value, as if its work had been done, and the run goes on. It cannot be taken back.",
  fields: [{ kind: "json", name: "value", label: "Value", initial: "null" }, reason],
  call: (v) => ({ method: "POST", path: stepPath(run, step, "complete"), body: object({ value: v.value, reason: text(v.reason) })! }),
  cli: (v) => ["step", "complete", run.id, step, "--input", v.value ?? "null", ...flag("--reason", v.reason)],
});

/** A pending step fails for good. */
export const failStep = (run: { id: string }, step: string): Act => ({
  id: "step-fail", label: "Fail…", doIt: "Let the step fail", danger: true, done: "The step has failed.",
  sentence: "The step fails for good with this error, and the handler decides what comes of it.",
  fields: [{ kind: "text", name: "message", label: "Message", initial: "failed by an operator", required: true }, reason],
  call: (v) => ({ method: "POST", path: stepPath(run, step, "fail"), body: object({ error: object({ message: JSON.stringify(v.message ?? "") }), reason: text(v.reason) })! }),
  cli: (v) => ["step", "fail", run.id, step, "--message", v.message ?? "", ...flag("--reason", v.reason)],
});

/** What can be done with one step. */
export function actsOnStep(run: Run, step: StepLine, steps: StepLine[]): Act[] {
  const acts: Act[] = [];
  const live = !isEnded(run.status);
  if (live && (step.state === "retrying" || (run.status === "paused" && step.state === "failed"))) acts.push({
    id: "step-retry", label: "Retry now", doIt: "Retry the step", done: "The step is tried now.",
    sentence: step.state === "failed" ? "The failure is taken back, and the step runs again when the run is resumed." : "The step is tried at once; the attempts so far still count.",
    fields: [reason],
    call: (v) => ({ method: "POST", path: stepPath(run, step.id, "retry-now"), body: object({ reason: text(v.reason) }) ?? "{}" }),
    cli: (v) => ["step", "retry-now", run.id, step.id, ...flag("--reason", v.reason)],
  });
  if (live && step.settled === null) acts.push(complete(run, step.id), failStep(run, step.id));
  if (live && step.op === "signal" && step.waiting) acts.unshift(signal(run, step.waiting.name ?? step.id));
  if (step.settled !== null && !run.erased_at) acts.push({ ...rerun(run, steps, step.id), id: "step-rerun", label: "Run again from here…" });
  return acts;
}
