// What a person can do with API keys, and with the secrets that calls are made with.
import type { ApiKey, Secret } from "../api/types.ts";
import { flag, lines, object, segment, text, type Act, type Option } from "./act.ts";

export const SCOPES: Option[] = [
  { value: "runs:read", label: "runs:read", detail: "read runs, functions, endpoints and events" },
  { value: "runs:write", label: "runs:write", detail: "start, stop and change runs" },
  { value: "signals:write", label: "signals:write", detail: "send signals, publish events" },
  { value: "endpoints:write", label: "endpoints:write", detail: "register and change endpoints" },
  { value: "schedules:write", label: "schedules:write", detail: "change schedules" },
  { value: "endpoints:poll", label: "endpoints:poll", detail: "take work from pull endpoints, for workers" },
  { value: "admin", label: "admin", detail: "all of it, and keys and secrets" },
];

/** `namespace`: of another than the caller's own. */
export const createKey = (namespace?: string): Act => ({
  id: "create", label: "Create a key…", doIt: "Create the key", done: "The key is made.",
  sentence: `Whoever has the key may do what its scopes say${namespace ? `, in the namespace \`${namespace}\` alone` : ""}. Its name is in the history of every run that it acts on.`,
  fields: [
    { kind: "text", name: "name", label: "Name", placeholder: "who uses it: shop, ci, Ada", required: true },
    { kind: "many", name: "scopes", label: "Scopes", options: SCOPES, required: true },
  ],
  call: (v) => ({ method: "POST", path: "/v1/keys", body: object({ name: text(v.name) ?? '""', scopes: JSON.stringify(lines(v.scopes)), namespace: text(namespace) })! }),
  cli: (v) => ["key", "create", "--name", (v.name ?? "").trim(), ...lines(v.scopes).flatMap((s) => ["--scope", s]), ...flag("--namespace", namespace)],
  once: (answer) => ({ text: (answer as { secret: string }).secret, what: "This is the key, for `Authorization: Bearer`. It is shown this once." }),
});

/** Another key that may do the same: who uses it changes over, then the old one is revoked. */
export const replaceKey = (key: ApiKey, namespace?: string): Act => {
  const values = { name: key.name, scopes: key.scopes.join("\n") };
  return {
    ...createKey(namespace), id: "replace", label: "Replace…", doIt: "Make another key", fields: [],
    sentence: `A second key with the name \`${key.name}\` and the same scopes is made. The first works until you revoke it: change over whoever uses it, then revoke it.`,
    call: () => createKey(namespace).call(values), cli: () => createKey(namespace).cli(values),
  };
};

export const revokeKey = (key: ApiKey, namespace?: string): Act => ({
  id: "revoke", label: "Revoke…", doIt: "Revoke the key", danger: true, done: "The key is revoked.", fields: [],
  sentence: `Whoever uses \`${key.name}\` is refused within 30 seconds. This cannot be taken back.`,
  call: () => ({ method: "DELETE", path: `/v1/keys/${segment(key.id)}${namespace ? `?namespace=${segment(namespace)}` : ""}` }), cli: () => ["key", "revoke", key.id, ...flag("--namespace", namespace), "--yes"],
});

/** Sets a secret, a new one or another value of one that is there. */
export const setSecret = (name = ""): Act => ({
  id: "set", label: name ? "Set anew…" : "Set a secret…", doIt: "Set the secret", done: "The secret is set.",
  sentence: name ? `The value of \`${name}\` is replaced; the next attempt of each call uses the new one.` : "A call names the secret in a header, and the gateway puts the value in when it makes the call. The value is never shown.",
  fields: [
    ...(name ? [] : [{ kind: "text" as const, name: "name", label: "Name", placeholder: "stripe", required: true }]),
    { kind: "secret", name: "value", label: "Value" },
  ],
  call: (v) => ({ method: "POST", path: "/v1/secrets", body: object({ name: JSON.stringify(name || (v.name ?? "").trim()), value: JSON.stringify(v.value ?? "") })! }),
  // Its value comes from standard input.
  cli: (v) => ["secret", "set", name || (v.name ?? "").trim()],
});

export const removeSecret = (secret: Secret): Act => ({
  id: "remove", label: "Delete…", doIt: "Delete the secret", danger: true, done: "The secret is deleted.", fields: [],
  sentence: `Calls that refer to \`${secret.name}\` pause their runs until it is set again.`,
  call: () => ({ method: "DELETE", path: `/v1/secrets/${segment(secret.name)}` }), cli: () => ["secret", "rm", secret.name],
});
