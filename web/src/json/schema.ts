// A form for what a JSON Schema describes, as far as its fields are simple. Values stay text: what is
// typed is what is sent.
import { asString, elements, fault, fields, type Raw } from "./text.ts";

export type Kind = "text" | "number" | "integer" | "boolean" | "choice" | "json";
export type FormField = {
  name: string;
  label: string;
  hint: string | null;
  kind: Kind;
  required: boolean;
  /** What may be chosen. */
  options: Raw[];
  initial: Raw | null;
  least: number | null;
  most: number | null;
};

/** How deep references and alternatives are followed. */
const DEPTH = 8;

/** What a schema comes to: references followed, and `X or null` taken as X. */
function plain(schema: Raw, root: Raw, depth = 0): Map<string, Raw> {
  const found = fields(schema);
  if (depth > DEPTH) return found;
  const ref = asString(found.get("$ref") ?? "");
  if (ref?.startsWith("#/")) {
    let at: Raw | undefined = root;
    for (const part of ref.slice(2).split("/")) at = fields(at).get(part.replaceAll("~1", "/").replaceAll("~0", "~"));
    if (at) return new Map([...plain(at, root, depth + 1), ...found]);
  }
  for (const word of ["anyOf", "oneOf", "allOf"]) {
    const some = elements(found.get(word)).filter((s) => asString(fields(s).get("type") ?? "") !== "null");
    if (some.length === 1) return new Map([...plain(some[0]!, root, depth + 1), ...[...found].filter(([name]) => name !== word)]);
  }
  return found;
}

/** The one type that is not null, or nothing. */
function typeOf(schema: Map<string, Raw>): string | null {
  const type = schema.get("type");
  if (!type) return null;
  const all = (type.startsWith("[") ? elements(type) : [type]).map(asString).filter((t) => t !== "null");
  return all.length === 1 ? all[0]! : null;
}

const number = (json: Raw | undefined) => (json !== undefined && Number.isFinite(Number(json)) ? Number(json) : null);
const first = (json: Raw | undefined) => elements(json)[0];

/** Its fields; nothing where it does not describe an object with properties. */
export function formOf(schema: Raw): FormField[] | null {
  const top = plain(schema, schema);
  const properties = [...fields(top.get("properties"))];
  if (!properties.length || (typeOf(top) ?? "object") !== "object") return null;
  const required = new Set(elements(top.get("required")).map(asString));
  return properties.map(([name, json]): FormField => {
    const s = plain(json, schema);
    const options = s.has("const") ? [s.get("const")!] : elements(s.get("enum"));
    const type = typeOf(s);
    const kind: Kind = options.length ? "choice" : type === "string" ? "text" : type === "number" || type === "integer" || type === "boolean" ? type : "json";
    return {
      name, kind, options, required: required.has(name), label: asString(s.get("title") ?? "") ?? name, hint: asString(s.get("description") ?? ""),
      initial: s.get("default") ?? first(s.get("examples")) ?? (options.length === 1 ? options[0]! : null), least: number(s.get("minimum")), most: number(s.get("maximum")),
    };
  });
}

/** What an input may begin with: the schema's own example, or what its fields begin with. */
export function beginning(schema: Raw): Raw {
  const top = plain(schema, schema);
  const example = top.get("default") ?? first(top.get("examples"));
  if (example) return example;
  return object((formOf(schema) ?? []).filter((f) => f.initial !== null).map((f) => [f.name, f.initial!]));
}

const object = (members: [string, Raw][]): Raw => (members.length ? `{\n${members.map(([name, value]) => `  ${JSON.stringify(name)}: ${value}`).join(",\n")}\n}` : "{}");

/** The object with a member set, or taken away; the others stay as they are. */
export function put(input: Raw, name: string, value: Raw | null): Raw {
  const all = fields(input);
  if (value === null) all.delete(name);
  else all.set(name, value);
  return object([...all]);
}

const NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?$/;

/** What is wrong with a field's value, in words; null where nothing is. */
export function wrong(field: FormField, value: Raw | undefined): string | null {
  if (value === undefined || value.trim() === "") return field.required ? "It is required." : null;
  switch (field.kind) {
    case "text": return asString(value) === null ? "It is no text." : null;
    case "choice": return field.options.some((o) => o === value.trim()) ? null : `It is none of ${field.options.join(", ")}.`;
    case "boolean": return /^\s*(true|false)\s*$/.test(value) ? null : "It is neither true nor false.";
    case "number": case "integer": {
      const text = value.trim();
      if (!NUMBER.test(text)) return "It is no number.";
      if (field.kind === "integer" && !Number.isInteger(Number(text))) return "It is no whole number.";
      if (field.least !== null && Number(text) < field.least) return `It is less than ${field.least}.`;
      return field.most !== null && Number(text) > field.most ? `It is more than ${field.most}.` : null;
    }
    case "json": return fault(value) === null ? null : "It is no JSON yet.";
  }
}

/** By field, what is wrong with an input. */
export function faults(form: FormField[], input: Raw): Map<string, string> {
  const all = fields(input);
  return new Map(form.map((f) => [f.name, wrong(f, all.get(f.name))] as const).filter((found): found is [string, string] => found[1] !== null));
}
