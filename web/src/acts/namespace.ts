// What those who run the gateway can do with namespaces.
import type { Namespace } from "../api/types.ts";
import { flag, lines, object, segment, text, type Act, type Field, type Values } from "./act.ts";
import type { Raw } from "../json/text.ts";
import { ENDED } from "../run/status.ts";
import { short } from "../run/time.ts";

const LIMITS = ["live_runs", "starts", "requests"] as const;
type Limit = (typeof LIMITS)[number];

/** How long ended runs are kept, as it is typed: `14d` where all are kept so, else a line for each end. */
function keptOf(of: Namespace | null): string[] {
  const kept = ENDED.map((end) => of?.retention?.[end] ?? null);
  if (kept.every((length) => length !== null && length === kept[0])) return [short(kept[0]!)];
  return ENDED.flatMap((end, i) => (kept[i] === null ? [] : [`${end}=${short(kept[i]!)}`]));
}

/** By how runs end, what is typed. Of a word that is none the gateway says so. */
function keep(value: string | undefined): Record<string, string> {
  const out: Record<string, string> = {};
  for (const line of lines(value)) {
    const [before, after] = line.split("=", 2).map((part) => part.trim());
    for (const end of after === undefined ? ENDED : [before!]) out[end] = after ?? before!;
  }
  return out;
}

/** What is typed for each as it was: an empty text is no limit. */
const initial = (of: Namespace | null): Values => ({
  keep: keptOf(of).join("\n"), live_runs: of?.limits.live_runs?.toString() ?? "", starts: of?.limits.starts ?? "", requests: of?.limits.requests ?? "", hosts: (of?.hosts ?? []).join("\n"),
});

const fieldsOf = (of: Namespace | null): Field[] => {
  const now = initial(of);
  return [
    { kind: "text", name: "live_runs", label: "Live runs, at most", initial: now.live_runs!, placeholder: "any number", hint: "In the whole cluster. Starts over it are refused; children of its runs, schedules and events go on." },
    { kind: "text", name: "starts", label: "Starts", initial: now.starts!, placeholder: "any number; 200/1s", hint: "At one node: 200/1s are 200 at once, and 200 more in each second." },
    { kind: "text", name: "requests", label: "Requests", initial: now.requests!, placeholder: "any number; 1000/1s", hint: "At one node, with all its keys together." },
    { kind: "lines", name: "hosts", label: "Hosts", initial: now.hosts!, placeholder: "anywhere; *.shop.example", hint: `Where its handlers, webhooks and calls may be, one a line.${of?.hosts?.length === 0 ? " Now they may be nowhere." : ""}` },
    { kind: "lines", name: "keep", label: "Ended runs are kept", initial: now.keep!, placeholder: "as long as the gateway keeps them; 14d, or completed=1d", hint: "A length for all, or a line for each way to end. A shorter one deletes what is older: it cannot be taken back." },
  ];
};

/** A number is sent as one; of what is none the gateway says what is wrong with it. */
const json = (name: Limit, value: string): Raw => (name === "live_runs" && /^\d{1,9}$/.test(value) ? String(Number(value)) : JSON.stringify(value));
const hostsOf = (value: string | undefined): Raw => (lines(value).length ? JSON.stringify(lines(value)) : "null");

/** What differs from how it was; what was taken away is null. */
function changes(of: Namespace | null, v: Values) {
  const was = initial(of);
  const limits = LIMITS.filter((name) => (v[name] ?? "").trim() !== was[name]);
  const hosts = lines(v.hosts).join("\n") !== was.hosts;
  const [before, now] = [keep(was.keep), keep(v.keep)];
  const kept = [...new Set([...Object.keys(before), ...Object.keys(now)])].filter((end) => before[end] !== now[end]);
  return {
    body: { limits: object(Object.fromEntries(limits.map((name) => [name, v[name]?.trim() ? json(name, v[name].trim()) : "null"]))), hosts: hosts ? hostsOf(v.hosts) : undefined,
      retention: object(Object.fromEntries(kept.map((end) => [end, now[end] ? JSON.stringify(now[end]) : "null"]))) },
    cli: [...limits.flatMap((name) => [`--${name.replace("_", "-")}`, v[name]?.trim() || "off"]), ...(!hosts ? [] : lines(v.hosts).length ? lines(v.hosts).flatMap((host) => flag("--host", host)) : ["--host", "any"]),
      ...kept.flatMap((end) => ["--keep", `${end}=${now[end] || "off"}`])],
  };
}

export const createNamespace = (): Act => ({
  id: "make-namespace", label: "Make a namespace…", doIt: "Make the namespace", done: "The namespace is made. It needs a key next.",
  sentence: "A namespace has its own endpoints, functions, runs, secrets and keys, and no other sees them. What is left empty is not limited.",
  fields: [{ kind: "text", name: "name", label: "Name", placeholder: "shop", required: true, hint: "Small letters, digits, `-` and `_`. It stays." }, ...fieldsOf(null)],
  call: (v) => ({ method: "POST", path: "/v1/namespaces", body: object({ name: text(v.name) ?? '""', ...changes(null, v).body })! }),
  cli: (v) => ["namespace", "create", (v.name ?? "").trim(), ...changes(null, v).cli],
});

export const changeNamespace = (of: Namespace): Act => ({
  id: "change-namespace", label: "Change limits…", doIt: "Change them", done: "They are changed.",
  sentence: `What \`${of.name}\` may have. It holds on this node at once and on the others within a second; fewer live runs than there are end none.`,
  fields: fieldsOf(of),
  call: (v) => ({ method: "PATCH", path: `/v1/namespaces/${segment(of.name)}`, body: object(changes(of, v).body) ?? "{}" }),
  cli: (v) => ["namespace", "set", of.name, ...changes(of, v).cli],
});

export const removeNamespace = (of: Namespace): Act => ({
  id: "remove-namespace", label: "Delete…", doIt: "Delete the namespace", danger: true, done: "The namespace is deleted.", fields: [],
  sentence: `Its keys are revoked; its secrets and the state of its objects are deleted; its ended runs can be read no more. It is refused while \`${of.name}\` has endpoints, live runs, schedules or webhooks. This cannot be taken back.`,
  call: () => ({ method: "DELETE", path: `/v1/namespaces/${segment(of.name)}` }), cli: () => ["namespace", "rm", of.name, "--yes"],
});
