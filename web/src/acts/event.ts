// Publishes an event.
import { pretty, type Raw } from "../json/text.ts";
import { flag, object, text, type Act } from "./act.ts";

/** `like`: what the fields begin with. */
export const publish = (like: { name?: string; source?: string; data?: Raw | null } = {}): Act => ({
  id: "publish", label: "Send event…", doIt: "Send the event", done: "The event is accepted.", leads: "/events/$id",
  sentence: "The event is recorded. It starts a run of each function that has a trigger for it, and reaches every step that waits for it.",
  fields: [
    { kind: "text", name: "name", label: "Name", initial: like.name ?? "", placeholder: "order.paid", required: true },
    { kind: "json", name: "data", label: "Data", initial: pretty(like.data ?? "{}") },
    { kind: "text", name: "source", label: "Source", initial: like.source ?? "", placeholder: "api" },
    { kind: "text", name: "event", label: "Id at its source", placeholder: "optional", hint: "The same source and id is the same event: it is accepted once." },
  ],
  call: (v) => ({ method: "POST", path: "/v1/events", body: object({ name: text(v.name) ?? '""', data: v.data, id: text(v.event), source: text(v.source) })! }),
  cli: (v) => ["event", "send", (v.name ?? "").trim(), "--input", v.data ?? "null", ...flag("--id", v.event), ...flag("--source", v.source)],
});
