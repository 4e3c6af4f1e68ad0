// What a person can do with an object.
import type { Held } from "../api/types.ts";
import { pretty } from "../json/text.ts";
import { object, segment, type Act } from "./act.ts";

/** Writes its state, if it is still the one that was read. */
export const write = (of: Held): Act => ({
  id: "write", label: "Edit the state…", doIt: "Write the state", done: "The state is written.", danger: true,
  sentence: "All fields are replaced; what is left out is gone. It is refused if the state has changed since it was read, or while a run has the object.",
  fields: [{ kind: "json", name: "state", label: "State", initial: pretty(of.state) }],
  call: (v) => ({ method: "PUT", path: `/v1/objects/${segment(of.function)}/${segment(of.key)}`, headers: { "if-match": `"${of.version}"` }, body: object({ state: v.state })! }),
  cli: (v) => ["object", "set", of.function, of.key, "--state", v.state ?? "{}", "--if-match", of.version],
});
