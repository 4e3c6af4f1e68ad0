// JSON as the server wrote it: JSON.parse would turn 3544790567247868102 into another number, and
// 1.0 into 1. So what is shown is cut out of the text and never parsed.

const isSpace = (c) => c === " " || c === "\t" || c === "\r" || c === "\n";

/** Where the string that begins at `i` ends. */
function stringEnd(json, i) {
  i++;
  while (i < json.length && json[i] !== '"') i += json[i] === "\\" ? 2 : 1;
  return i + 1;
}

/** Where the value that begins at `i` ends. */
function valueEnd(json, i) {
  let depth = 0;
  do {
    const c = json[i];
    if (c === '"') i = stringEnd(json, i);
    else if (c === "{" || c === "[") { depth++; i++; }
    else if (c === "}" || c === "]") { depth--; i++; }
    else if (depth === 0) while (i < json.length && !",]}".includes(json[i]) && !isSpace(json[i])) i++;
    else i++;
  } while (depth > 0 && i < json.length);
  return i;
}

/** The members of a JSON object: names, and for each the text of its value. */
export function members(json) {
  const out = new Map();
  let i = 0;
  const space = () => { while (i < json.length && isSpace(json[i])) i++; };
  space(); i++; space();
  while (i < json.length && json[i] !== "}") {
    const name = i;
    i = stringEnd(json, i);
    const key = JSON.parse(json.slice(name, i));
    space(); i++; space();
    const from = i;
    i = valueEnd(json, i);
    out.set(key, json.slice(from, i));
    space();
    if (json[i] === ",") { i++; space(); }
  }
  return out;
}

/** The same JSON over several lines; every string and number stays byte for byte what it is. */
export function pretty(json) {
  let out = "";
  let indent = 0;
  const line = () => "\n" + "  ".repeat(indent);
  for (let i = 0; i < json.length;) {
    const c = json[i];
    if (isSpace(c)) { i++; continue; }
    if (c === '"') {
      const end = stringEnd(json, i);
      out += json.slice(i, end);
      i = end;
      continue;
    }
    i++;
    if (c === "{" || c === "[") {
      while (i < json.length && isSpace(json[i])) i++;
      if (json[i] === "}" || json[i] === "]") { out += c + json[i++]; continue; }
      indent++;
      out += c + line();
    } else if (c === "}" || c === "]") { indent--; out += line() + c; }
    else if (c === ",") out += c + line();
    else if (c === ":") out += ": ";
    else out += c;
  }
  return out;
}
