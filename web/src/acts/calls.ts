// The same call in the words of several tools, to be copied.
import type { Call } from "../api/client.ts";
import { pretty } from "../json/text.ts";

/** A word of a POSIX shell. */
export const quoted = (text: string) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

export const TOOLS = ["curl", "CLI", "TypeScript", "Python"] as const;
export type Tool = (typeof TOOLS)[number];

/** `withKey`: the gateway asks for one; it is named as a variable, never written out. */
export function shown(tool: Tool, base: string, call: Call, cli: string[], withKey: boolean): string {
  const url = base.replace(/\/$/, "") + call.path;
  const body = call.body;
  const own = Object.entries(call.headers ?? {});
  switch (tool) {
    case "curl":
      return [`curl -X ${call.method} ${quoted(url)}`,
        ...(withKey ? [`-H "authorization: Bearer $STEPWELL_API_KEY"`] : []),
        ...own.map(([name, value]) => `-H ${quoted(`${name}: ${value}`)}`),
        ...(body === undefined ? [] : [`-H 'content-type: application/json'`, `-d ${quoted(body)}`])].join(" \\\n  ");
    case "CLI":
      return [...(base === "http://127.0.0.1:8484/" ? [] : [`export STEPWELL_URL=${quoted(base.replace(/\/$/, ""))}`]),
        ["stepwell", ...cli].map(quoted).join(" ")].join("\n");
    case "TypeScript":
      // The body as text: a number in it that JSON.parse would change stays what it is.
      return [`const response = await fetch(${JSON.stringify(url)}, {`, `  method: ${JSON.stringify(call.method)},`,
        `  headers: {${[...(withKey ? [" authorization: `Bearer ${process.env.STEPWELL_API_KEY}`"] : []),
          ...own.map(([name, value]) => ` ${JSON.stringify(name)}: ${JSON.stringify(value)}`),
          ...(body === undefined ? [] : [` "content-type": "application/json"`])].join(",")} },`,
        ...(body === undefined ? [] : [`  body: ${template(body)},`]), "});", "console.log(response.status, await response.text());"].join("\n");
    case "Python":
      return ["import os, urllib.request", "", "request = urllib.request.Request(", `    ${python(url)}, method=${python(call.method)},`,
        ...(body === undefined ? [] : [`    data=${python(body)}.encode(),`]),
        `    headers={${[...(withKey ? [`"authorization": f"Bearer {os.environ['STEPWELL_API_KEY']}"`] : []),
          ...own.map(([name, value]) => `${python(name)}: ${python(value)}`),
          ...(body === undefined ? [] : [`"content-type": "application/json"`])].join(", ")}},`, ")",
        "with urllib.request.urlopen(request) as response:", "    print(response.status, response.read().decode())"].join("\n");
  }
}

const template = (text: string) => `\`${text.replaceAll("\\", "\\\\").replaceAll("`", "\\`").replaceAll("${", "\\${")}\``;
/** A literal of Python; the escapes of JSON are escapes of Python too. */
const python = (text: string) => JSON.stringify(text);

/** A body over several lines, where that reads better. */
export const body = (json: string) => (json.length > 60 ? pretty(json) : json);
