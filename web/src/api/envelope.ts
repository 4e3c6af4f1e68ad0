// Answers of the API: our own fields are parsed, payloads in them stay text.
import { members, skip, valueEnd } from "../json/text.ts";

/** Members that hold JSON of a user. */
const PAYLOADS = new Set(["input", "output", "error", "custom_status", "value", "last_error", "fields", "input_schema", "triggers"]);
/** Members whose names are a user's, or words of ours that are payloads elsewhere. */
const OPAQUE = new Set(["tags", "links", "attempts"]);

/** The answer with each payload as a string of its JSON text; a payload that is null is null. */
export function open<T>(json: string): T {
  return JSON.parse(wrapped(json)) as T;
}

function wrapped(json: string): string {
  const out: string[] = [];
  let done = 0;
  const visit = (at: number): void => {
    at = skip(json, at);
    if (json[at] === "[") {
      for (let i = skip(json, at + 1); i < json.length && json[i] !== "]";) {
        visit(i);
        i = skip(json, valueEnd(json, i));
        if (json[i] === ",") i = skip(json, i + 1);
      }
      return;
    }
    const all = [...members(json, at)];
    // `state` is a word of ours, or the state of an object.
    // `data` is a list of ours, or what a history entry tells; that of an event and of a chunk is a user's.
    const users = all.some(([name]) => name === "source_id" || name === "stream");
    for (const [name, from, to] of all) {
      if (PAYLOADS.has(name) || (name === "data" && (users || json[from] === "{")) || (name === "state" && json[from] === "{")) {
        const text = json.slice(from, to);
        if (text === "null") continue;
        out.push(json.slice(done, from), JSON.stringify(text));
        done = to;
      } else if (!OPAQUE.has(name) && (json[from] === "{" || json[from] === "[")) visit(from);
    }
  };
  visit(0);
  out.push(json.slice(done));
  return out.join("");
}
