// JSON as the server wrote it. JSON.parse would turn 3544790567247868102 into another number, 1.0
// into 1, and move keys about; so payloads are cut out of the text and shown as they are.

/** JSON of a user, byte for byte. */
export type Raw = string;

const isSpace = (c: string | undefined) => c === " " || c === "\t" || c === "\r" || c === "\n";

/** Where what is not white begins, from `i` on. */
export function skip(json: string, i: number): number {
  while (isSpace(json[i])) i++;
  return i;
}

/** Where the string that begins at `i` ends. */
export function stringEnd(json: string, i: number): number {
  i++;
  while (i < json.length && json[i] !== '"') i += json[i] === "\\" ? 2 : 1;
  return Math.min(i + 1, json.length);
}

/** Where the value that begins at `i` ends. */
export function valueEnd(json: string, i: number): number {
  let depth = 0;
  do {
    const c = json[i]!;
    if (c === '"') i = stringEnd(json, i);
    else if (c === "{" || c === "[") { depth++; i++; }
    else if (c === "}" || c === "]") { depth--; i++; }
    else if (depth === 0) while (i < json.length && !",]}".includes(json[i]!) && !isSpace(json[i])) i++;
    else i++;
  } while (depth > 0 && i < json.length);
  return i;
}

/** The members of the JSON object at `i`, by their places: `[name, from, to]`. */
export function* members(json: string, i = 0): Generator<[name: string, from: number, to: number]> {
  i = skip(json, i);
  if (json[i] !== "{") return;
  i = skip(json, i + 1);
  while (i < json.length && json[i] !== "}") {
    const nameEnd = stringEnd(json, i);
    const name = JSON.parse(json.slice(i, nameEnd)) as string;
    const from = skip(json, skip(json, nameEnd) + 1);
    const to = valueEnd(json, from);
    yield [name, from, to];
    i = skip(json, to);
    if (json[i] === ",") i = skip(json, i + 1);
  }
}

/** The members of an object by their names; none of what is no object. */
export const fields = (json: Raw | undefined): Map<string, Raw> => new Map(json ? [...members(json)].map(([name, from, to]) => [name, json.slice(from, to)]) : []);

/** The elements of an array; none of what is no array. */
export function elements(json: Raw | undefined): Raw[] {
  const out: Raw[] = [];
  let i = skip(json ?? "", 0);
  if (!json || json[i] !== "[") return out;
  for (i = skip(json, i + 1); i < json.length && json[i] !== "]";) {
    const to = valueEnd(json, i);
    out.push(json.slice(i, to));
    i = skip(json, to);
    if (json[i] === ",") i = skip(json, i + 1);
  }
  return out;
}

/** The same JSON over several lines; every string and number stays byte for byte what it is. */
export function pretty(json: Raw): string {
  const out: string[] = [];
  let indent = 0;
  const line = () => "\n" + "  ".repeat(indent);
  for (let i = 0; i < json.length;) {
    const c = json[i]!;
    if (isSpace(c)) { i++; continue; }
    if (c === '"') {
      const end = stringEnd(json, i);
      out.push(json.slice(i, end));
      i = end;
      continue;
    }
    i++;
    if (c === "{" || c === "[") {
      const close = skip(json, i);
      if (json[close] === "}" || json[close] === "]") { out.push(c, json[close]!); i = close + 1; continue; }
      indent++;
      out.push(c, line());
    } else if (c === "}" || c === "]") { indent = Math.max(0, indent - 1); out.push(line(), c); }
    else if (c === ",") out.push(c, line());
    else if (c === ":") out.push(": ");
    else {
      const end = valueEnd(json, i - 1);
      out.push(json.slice(i - 1, Math.max(end, i)));
      i = Math.max(end, i);
    }
  }
  return out.join("");
}

export type Token = { kind: "key" | "string" | "number" | "word" | "mark"; text: string };

/** Pretty-printed JSON in coloured pieces. Joined they are the text again. */
export function tokens(text: string): Token[] {
  const out: Token[] = [];
  for (let i = 0; i < text.length;) {
    const c = text[i]!;
    let end = i + 1;
    let kind: Token["kind"] = "mark";
    if (c === '"') {
      end = stringEnd(text, i);
      kind = text[skip(text, end)] === ":" ? "key" : "string";
    } else if (/[-\d]/.test(c)) {
      while (end < text.length && /[-+.\deE]/.test(text[end]!)) end++;
      kind = "number";
    } else if (/[a-z]/.test(c)) {
      while (end < text.length && /[a-z]/.test(text[end]!)) end++;
      kind = "word";
    } else while (end < text.length && !/["\-\da-z]/.test(text[end]!)) end++;
    out.push({ kind, text: text.slice(i, end) });
    i = end;
  }
  return out;
}

/** What a text that a person typed lacks to be JSON, or null. */
export function fault(text: string): string | null {
  try {
    JSON.parse(text);
    return null;
  } catch (error) {
    return (error as Error).message;
  }
}

/** The string that a JSON text is, if it is one: a text of several lines reads better so. */
export function asString(json: Raw): string | null {
  const from = skip(json, 0);
  if (json[from] !== '"') return null;
  try {
    return JSON.parse(json) as string;
  } catch {
    return null;
  }
}

/** The text that JSON holds, with control characters made visible: they must not act on the page. */
export const visible = (text: string) =>
  // eslint-disable-next-line no-control-regex
  text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
