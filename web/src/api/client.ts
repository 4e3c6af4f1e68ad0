// Calls of the API, on the origin that the page came from and under the same path.
import createClient from "openapi-fetch";
import { open } from "./envelope.ts";
import type { paths } from "./schema";
import type { ProblemBody } from "./types.ts";

/** Where the gateway is, with a slash at the end: the page says so by its `<base>`. */
export const BASE = typeof document === "undefined" ? "http://localhost/" : document.baseURI;

/** The API key of this tab. It is not kept beyond it. */
export const key = {
  get: () => sessionStorage.getItem("stepwell.key"),
  set: (value: string | null) => {
    if (value === null) sessionStorage.removeItem("stepwell.key");
    else sessionStorage.setItem("stepwell.key", value);
    for (const told of listeners) told();
  },
};

let locked = false;
const listeners = new Set<() => void>();
/** Whether the gateway asks for a key. */
export const lock = {
  get: () => locked,
  subscribe: (told: () => void) => { listeners.add(told); return () => listeners.delete(told); },
};
export function setLocked(now: boolean) {
  if (locked === now) return;
  locked = now;
  for (const told of listeners) told();
}

/** An answer that was no success, with what the gateway says of it. */
export class Problem extends Error {
  constructor(readonly status: number, readonly body: Partial<ProblemBody>) {
    super(body.detail ?? `The gateway answered ${status}.`);
  }
  get code() { return this.body.code ?? null; }
}

/** What a failed call comes to, in a sentence for people. */
export function inWords(error: unknown): string {
  if (error instanceof Problem) {
    const faults = (error.body.errors ?? []).map((f) => `${f.pointer}: ${f.detail}`).filter((f) => !error.message.includes(f));
    return [error.message, ...faults].join("\n");
  }
  return "The gateway does not answer.";
}

/** `fetch`, with the key, and with a Problem thrown for what is no success. */
export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  const credential = key.get();
  if (credential) headers.set("authorization", `Bearer ${credential}`);
  const response = await fetch(new URL(path.replace(/^\//, ""), BASE), { ...init, headers, credentials: "same-origin" });
  if (response.status === 401) setLocked(true);
  if (!response.ok) throw new Problem(response.status, await response.json().catch(() => ({})));
  return response;
}

const client = createClient<paths>({
  baseUrl: BASE.replace(/\/$/, ""),
  fetch: async (asked: Request) => {
    const at = asked.url.slice(BASE.length - 1);
    const response = await request(at, { signal: asked.signal });
    return new Response(JSON.stringify(open(await response.text())), { headers: { "content-type": "application/json" } });
  },
});

/** Reads; the address and its parameters are checked against the description of the API. */
export const read = client.GET;

/** The data of a read. The type is given where payloads are text in place of `unknown`. */
export async function data<T>(call: Promise<{ data?: unknown }>): Promise<T> {
  return (await call).data as T;
}

/** A call that changes something, as the dialogs show and send it. `body` is JSON text. */
export type Call = { method: "POST" | "PUT" | "PATCH" | "DELETE"; path: string; body?: string; headers?: Record<string, string> };

/** Sends it and gives what the gateway answers. */
export async function send<T>(call: Call): Promise<T> {
  const init: RequestInit = { method: call.method };
  if (call.headers) init.headers = call.headers;
  if (call.body !== undefined) {
    init.body = call.body;
    init.headers = { ...call.headers, "content-type": "application/json" };
  }
  const text = await (await request(call.path, init)).text();
  return (text ? open(text) : null) as T;
}
