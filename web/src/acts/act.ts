// What a person can do: what it means in a sentence, what it takes, and the call that does it.
import type { Call } from "../api/client.ts";
import { fault, members, type Raw } from "../json/text.ts";

export type Option = { value: string; label: string; detail?: string };

/** A field of a dialog. JSON fields hold text that is sent byte for byte. */
export type Field =
  | { kind: "json"; name: string; label: string; initial: Raw; optional?: boolean }
  | { kind: "text"; name: string; label: string; initial?: string; placeholder?: string; required?: boolean; hint?: string }
  | { kind: "step"; name: string; label: string; steps: string[]; none: string; initial?: string }
  | { kind: "flag"; name: string; label: string }
  | { kind: "select"; name: string; label: string; options: Option[]; initial?: string }
  /** Several of the options; the value has a line for each. */
  | { kind: "many"; name: string; label: string; options: Option[]; required?: boolean }
  /** One a line. */
  | { kind: "lines"; name: string; label: string; initial?: string; placeholder?: string; hint?: string }
  /** Text that is not shown, neither here nor in the call. */
  | { kind: "secret"; name: string; label: string; hint?: string; optional?: boolean }
  /** A deployment that has the function; empty: the newest. */
  | { kind: "deployment"; name: string; label: string; function: string; none: string; initial?: string }
  /** JSON in place of what steps have: an object with a member for each. */
  | { kind: "edits"; name: string; label: string; run: string; steps: string[] };

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
  /** A call that changes nothing and says which runs it would touch; it is made before anything else. */
  dry?(values: Values): Call;
  /** The same on the command line, its arguments behind `stepwell`. */
  cli(values: Values): string[];
  /** What to say when it is done. */
  done: string | ((answer: unknown) => string);
  /** Where the answer's `id` is shown next. */
  leads?: "/runs/$id" | "/events/$id" | "/bulk/$id";
  /** What the answer has in it that is shown this once. */
  once?: (answer: unknown) => { text: string; what: string } | null;
};

export const reason: Field = { kind: "text", name: "reason", label: "Reason, kept in the history", placeholder: "optional" };
export const segment = (text: string) => encodeURIComponent(text);

/** An object in JSON whose values are JSON text; what is undefined is left out. */
export function object(values: Record<string, Raw | undefined>): Raw | undefined {
  const parts = Object.entries(values).filter(([, v]) => v !== undefined).map(([k, v]) => `${JSON.stringify(k)}: ${v}`);
  return parts.length ? `{${parts.join(", ")}}` : undefined;
}

/** What was typed as JSON; nothing where nothing was. */
export const text = (value: string | undefined): Raw | undefined => (value?.trim() ? JSON.stringify(value.trim()) : undefined);
/** The same as an option of the command line. */
export const flag = (name: string, value: string | undefined) => (value?.trim() ? [name, value.trim()] : []);
export const lines = (value: string | undefined) => (value ?? "").split("\n").map((line) => line.trim()).filter(Boolean);

/** The members of an object as a list of names and JSON texts. */
export const entries = (json: Raw): [string, Raw][] => [...members(json)].map(([name, from, to]) => [name, json.slice(from, to)]);

/** Whether a field has what it needs. */
export function isReady(field: Field, value: string): boolean {
  switch (field.kind) {
    case "json": return !fault(value);
    case "text": return !field.required || value.trim() !== "";
    case "many": return !field.required || lines(value).length > 0;
    case "secret": return field.optional === true || value !== "";
    // Text of each step, which is JSON by itself or not yet.
    case "edits": return Object.values(edited(value)).every((json) => !fault(json));
    default: return true;
  }
}

/** The edits as they are typed: by step, text that may not be JSON yet. */
export const edited = (value: string): Record<string, string> => (value ? (JSON.parse(value) as Record<string, string>) : {});
