// What a person can do with an endpoint, and with the deployments of it.
import type { Call } from "../api/client.ts";
import type { Deployment, Endpoint } from "../api/types.ts";
import { flag, lines, object, reason, segment, text, type Act, type Option } from "./act.ts";

const at = (e: Endpoint, rest = "") => `/v1/endpoints/${segment(e.name)}${rest}`;

/** What fits the endpoint as it is, the likeliest first. */
export function actsOnEndpoint(e: Endpoint): Act[] {
  const plain = (verb: string, act: Pick<Act, "label" | "sentence" | "done" | "danger">): Act => ({
    ...act, id: verb, doIt: act.label.replace("…", ""), fields: [],
    call: (): Call => ({ method: "POST", path: at(e, `/${verb}`) }), cli: () => ["endpoint", verb, e.name],
  });
  const acts: Act[] = [];
  if (e.state === "disabled" || e.draining) acts.push(plain("enable", {
    label: "Enable", done: "It is enabled.",
    sentence: e.state === "disabled" ? "Its runs are invoked again, and new ones may start here." : "New runs may start here again.",
  }));
  if (!e.pull) acts.push(plain("sync", { label: "Sync", done: "Its handler was asked.", sentence: "The handler is asked for its functions again; what has changed becomes a new deployment." }), edit(e));
  if (!e.draining && e.state !== "disabled") acts.push(plain("drain", {
    label: "Drain", done: "No new runs start here.",
    sentence: "No new runs start here: a start is answered with `endpoint-draining`. Those that are live go on, and the deployments below tell how many are left.",
  }));
  if (e.state !== "disabled") acts.push(plain("disable", {
    label: "Disable", danger: true, done: "It is disabled.",
    sentence: "Its runs are not invoked any more, and are parked, until it is enabled again.",
  }));
  acts.push(rotate(e), remove(e));
  return acts;
}

function edit(e: Endpoint): Act {
  const changed = (v: string | undefined, was: string | null | undefined) => (v?.trim() !== (was ?? undefined) ? text(v) : undefined);
  /** `Name: value`, as in HTTP; what has no value yet is left out. */
  const given = (v: string | undefined) => lines(v).map((line) => /^([^:=\s]+)\s*[:=]\s*(.*)$/.exec(line)).filter((m) => m !== null).map((m) => [m[1]!, m[2]!] as const);
  return {
    id: "edit", label: "Edit…", doIt: "Save", done: "It is changed.",
    sentence: "A new URL is a new deployment with the same functions. What you do not change stays as it is.",
    fields: [
      { kind: "text", name: "name", label: "Name", initial: e.name, required: true },
      ...(e.url === null || e.url === undefined ? [] : [{ kind: "text" as const, name: "url", label: "URL", initial: e.url, required: true }]),
      { kind: "lines", name: "headers", label: "Extra request headers to set", placeholder: "X-Tenant: acme", hint: "One a line. Their values are never shown again." },
      ...(e.headers.length ? [{ kind: "many" as const, name: "without", label: "Extra request headers to take away", options: e.headers.map((h): Option => ({ value: h, label: h })) }] : []),
    ],
    call: (v) => ({
      method: "PATCH", path: at(e),
      body: object({
        name: changed(v.name, e.name), url: changed(v.url, e.url),
        headers: object({ ...Object.fromEntries(lines(v.without).map((h) => [h, "null"])), ...Object.fromEntries(given(v.headers).map(([n, value]) => [n, JSON.stringify(value)])) }),
      }) ?? "{}",
    }),
    cli: (v) => ["endpoint", "set", e.name, ...(changed(v.name, e.name) ? ["--name", v.name!.trim()] : []), ...(changed(v.url, e.url) ? ["--address", v.url!.trim()] : []),
      ...given(v.headers).flatMap(([n, value]) => ["--header", `${n}=${value}`]), ...lines(v.without).flatMap((h) => ["--without-header", h])],
  };
}

const rotate = (e: Endpoint): Act => ({
  id: "rotate", label: "Rotate secret…", doIt: "Make a new secret", done: "It has a new secret.",
  sentence: "The gateway signs with a new secret, and for a while with the old one too, so that the handler can be given the new one in between.",
  fields: [{ kind: "secret", name: "secret", label: "A secret of your own", hint: "whsec_ and base64; where it is empty, a new one is made.", optional: true }],
  call: (v) => ({ method: "POST", path: at(e, "/rotate-secret"), body: object({ secret: text(v.secret) }) ?? "{}" }),
  cli: () => ["endpoint", "rotate-secret", e.name],
  once: (answer) => {
    const { secret } = answer as { secret: string };
    return { text: secret, what: "This is the new secret. It is shown this once; give it to the handler." };
  },
});

const FATES: Option[] = [
  { value: "", label: "refuse, if it has live runs", detail: "Nothing is removed while a run needs the endpoint." },
  { value: "repin", label: "move them to where their function is now", detail: "For functions that another endpoint hosts by now." },
  { value: "park", label: "park them", detail: "They stay as they are, and go on when their function is registered again." },
  { value: "cancel", label: "cancel them", detail: "Their handler has ten seconds to undo what it has done." },
];

const remove = (e: Endpoint): Act => ({
  id: "remove", label: "Remove…", doIt: "Remove the endpoint", danger: true, done: "It is removed.",
  sentence: "The endpoint and its deployments are forgotten. Runs that have ended stay.",
  fields: [{ kind: "select", name: "runs", label: "Its live runs", options: FATES }],
  call: (v) => ({ method: "DELETE", path: at(e, v.runs ? `?runs=${v.runs}` : "") }),
  cli: (v) => ["endpoint", "rm", e.name, ...flag("--runs", v.runs)],
});

/** Moves the runs that stay on a deployment, where there are any and there is somewhere to go. */
export function repin(e: Endpoint, from: Deployment, all: Deployment[]): Act | null {
  const stay = from.runs?.pinned ?? 0;
  const others = all.filter((d) => d.id !== from.id);
  if (!stay || !others.length) return null;
  return {
    id: "repin", label: "Move its runs…", doIt: "Move the runs",
    sentence: `${stay === 1 ? "The run that stays" : `The ${stay.toLocaleString("en")} runs that stay`} on \`${from.id}\` ${stay === 1 ? "goes" : "go"} on with another deployment from ${stay === 1 ? "its" : "their"} next invocation on, and ${stay === 1 ? "stays" : "stay"} there.`,
    fields: [
      { kind: "select", name: "to", label: "Deployment", options: [{ value: "", label: "the newest that has the run's function" }, ...others.map((d) => ({ value: d.id, label: `${d.version ?? `…${d.id.slice(-8)}`}${d.current ? ", the newest" : ""}`, detail: `${d.id}, ${d.url}` }))] },
      reason,
    ],
    call: (v) => ({ method: "POST", path: at(e, `/deployments/${from.id}/repin`), body: object({ deployment: text(v.to), reason: text(v.reason) }) ?? "{}" }),
    cli: (v) => ["endpoint", "repin", e.name, "--from", from.id, ...flag("--to", v.to), ...flag("--reason", v.reason)],
    done: (answer) => {
      const { moved, left } = answer as { moved: number; left: number };
      return `${moved} ${moved === 1 ? "run moves" : "runs move"}${left ? `, ${left} ${left === 1 ? "stays" : "stay"}` : ""}.`;
    },
  };
}

/** Retires what no live run needs, where there is such a thing. */
export function prune(e: Endpoint, all: Deployment[]): Act | null {
  const drained = all.filter((d) => d.drained);
  if (!drained.length) return null;
  return {
    id: "prune", label: "Prune…", doIt: "Prune", fields: [],
    sentence: `No live run needs ${drained.map((d) => `\`${d.version ?? d.id}\``).slice(0, 5).join(", ")}${drained.length > 5 ? ` and ${drained.length - 5} more` : ""}: ${drained.length === 1 ? "the deployment is" : "these deployments are"} retired. Runs that ended there keep its id, and registering the same content brings a deployment back.`,
    call: () => ({ method: "POST", path: at(e, "/prune") }), cli: () => ["endpoint", "prune", e.name],
    done: (answer) => {
      const { pruned } = answer as { pruned: string[] };
      return `${pruned.length} deployment${pruned.length === 1 ? " is" : "s are"} retired.`;
    },
  };
}
