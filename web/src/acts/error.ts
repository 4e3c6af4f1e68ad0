// What a person can make of a kind of error: it is resolved until it comes back, ignored, or open again.
import type { ErrorGroup } from "../api/types.ts";
import { flag, object, reason, segment, text, type Act } from "./act.ts";

const why = { ...reason, label: "Reason, for who looks at it" };

const act = (e: ErrorGroup, id: string, rest: Pick<Act, "label" | "doIt" | "sentence" | "done" | "fields">): Act => ({
  id, ...rest,
  call: (v) => ({ method: "POST", path: `/v1/errors/${segment(e.fingerprint)}/${id}`, body: object({ reason: text(v.reason) }) ?? "{}" }),
  cli: (v) => ["error", id, e.fingerprint, ...flag("--reason", v.reason)],
});

/** What fits the error as it stands, the likeliest first. */
export function actsOnError(e: ErrorGroup): Act[] {
  const resolve = act(e, "resolve", {
    label: "Resolve…", doIt: "Resolve it", done: "It is resolved, until it comes back.", fields: [why],
    sentence: "It leaves the list of what is open. Once a run fails or pauses by it again, it is open by itself, and says so. Its runs stay as they are.",
  });
  const ignore = act(e, "ignore", {
    label: "Ignore…", doIt: "Ignore it", done: "It is ignored, until it is reopened.", fields: [why],
    sentence: "It leaves the list of what is open, and stays away however many runs have it, until somebody reopens it. Its runs stay as they are.",
  });
  const reopen = act(e, "reopen", {
    label: "Reopen…", doIt: "Reopen it", done: "It is open.", fields: [{ ...reason, label: "Reason, for the audit log" }],
    sentence: "It is in the list of what is open again, as if nobody had resolved or ignored it.",
  });
  return e.state === "open" ? [resolve, ignore] : e.state === "resolved" ? [reopen, ignore] : [reopen, resolve];
}
