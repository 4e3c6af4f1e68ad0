import { expect, test } from "vitest";
import type { ApiKey, Deployment, Endpoint, ErrorGroup, Limit, Namespace, Run, Schedule, Secret } from "../api/types.ts";
import type { StepLine } from "../run/steps.ts";
import { fault } from "../json/text.ts";
import { isReady, type Act, type Values } from "./act.ts";
import { shown, TOOLS } from "./calls.ts";
import { actsOnEndpoint, prune, repin } from "./endpoint.ts";
import { actsOnError } from "./error.ts";
import { publish } from "./event.ts";
import { pauseFunction, pauseKey, pauseLimit, resumeFunction, resumeLimit, whichOf } from "./limit.ts";
import { changeNamespace, createNamespace, removeNamespace } from "./namespace.ts";
import { rerun } from "./run.ts";
import { actsOnSchedule } from "./schedule.ts";
import { createKey, removeSecret, replaceKey, revokeKey, setSecret } from "./settings.ts";

const endpoint = (change: Partial<Endpoint> = {}) => ({ id: "end_1", name: "it's", url: "http://a/", state: "healthy", draining: false, headers: ["X-Old"], functions: ["f"], ...change }) as Endpoint;
const deployment = (id: string, change: Partial<Deployment> = {}) => ({ id, url: "http://a/", version: null, functions: ["f"], current: false, drained: false, runs: { live: 3, pinned: 2, running: 0 }, ...change }) as Deployment;
const namespace = (change: Partial<Namespace> = {}) => ({ name: "shop", limits: { live_runs: 100, starts: null, requests: "5/1s" }, hosts: ["a.example", "*.b.example"], retention: { completed: "86400s", failed: "1209600s" }, ...change }) as Namespace;
const kind = (state: string) => ({ fingerprint: "8f3c", state }) as ErrorGroup;
const first = (act: Act): Values => Object.fromEntries(act.fields.map((f) => [f.name, "initial" in f ? (f.initial ?? "") : ""]));
const body = (act: Act, values: Values) => act.call({ ...first(act), ...values }).body;

test("every act has a sentence, a call with JSON, and words for each tool", () => {
  const acts = [...actsOnError(kind("open")), ...actsOnError(kind("resolved")), ...actsOnError(kind("ignored")), ...actsOnEndpoint(endpoint()), ...actsOnEndpoint(endpoint({ state: "disabled" })), repin(endpoint(), deployment("dep_1"), [deployment("dep_1"), deployment("dep_2")])!,
    prune(endpoint(), [deployment("dep_1", { drained: true })])!, publish(), createKey(), revokeKey({ id: "key_1", name: "ci" } as ApiKey), replaceKey({ id: "key_1", name: "ci", scopes: ["admin"] } as ApiKey), setSecret(), setSecret("a"), removeSecret({ name: "a/b" } as Secret),
    createKey("shop"), revokeKey({ id: "key_1", name: "ci" } as ApiKey, "shop"), createNamespace(), changeNamespace(namespace()), removeNamespace(namespace()),
    pauseFunction("a/b"), resumeFunction("a/b"), pauseKey(["f"]), pauseLimit({ function: "f", key: null, value: null }), resumeLimit({ function: "f", key: "input.t", value: "" })];
  for (const act of acts) {
    const values = { ...first(act), name: "it's", reason: 'be"cause' };
    const call = act.call(values);
    expect(fault(call.body ?? "{}"), act.id).toBeNull();
    expect(call.path).not.toMatch(/ |a\/b/);
    expect(act.sentence).toMatch(/\.$/);
    for (const tool of TOOLS) expect(shown(tool, "http://127.0.0.1:8484/", call, act.cli(values), true), act.id).not.toContain("undefined");
  }
});

test("an error is resolved or ignored where it is open, and reopened where not", () => {
  expect(["open", "resolved", "ignored"].map((state) => actsOnError(kind(state)).map((a) => a.id))).toEqual([["resolve", "ignore"], ["reopen", "ignore"], ["reopen", "resolve"]]);
  const [resolve] = actsOnError(kind("open"));
  expect(resolve!.call({ reason: " mended " })).toEqual({ method: "POST", path: "/v1/errors/8f3c/resolve", body: '{"reason": "mended"}' });
  expect(resolve!.cli({ reason: "mended" })).toEqual(["error", "resolve", "8f3c", "--reason", "mended"]);
  expect(resolve!.call({}).body).toBe("{}");
});

test("an endpoint is enabled where it is disabled or draining, and the other way round where not", () => {
  const ids = (change: Partial<Endpoint>) => actsOnEndpoint(endpoint(change)).map((a) => a.id);
  expect(ids({})).toEqual(["sync", "edit", "drain", "disable", "rotate", "remove"]);
  expect(ids({ draining: true })).toEqual(["enable", "sync", "edit", "disable", "rotate", "remove"]);
  expect(ids({ state: "disabled" })).toEqual(["enable", "sync", "edit", "rotate", "remove"]);
});

test("an edit sends what was changed, and takes headers away by null", () => {
  const edit = actsOnEndpoint(endpoint()).find((a) => a.id === "edit")!;
  expect(body(edit, {})).toBe("{}");
  expect(body(edit, { url: "http://b/", headers: "X-Tenant: acme: 1\n\nX-Half", without: "X-Old" })).toBe('{"url": "http://b/", "headers": {"X-Old": null, "X-Tenant": "acme: 1"}}');
  expect(edit.cli({ ...first(edit), headers: "X-Tenant: acme", without: "X-Old" })).toEqual(["endpoint", "set", "it's", "--header", "X-Tenant=acme", "--without-header", "X-Old"]);
});

test("runs are moved where some stay and there is somewhere to go; what is drained is pruned", () => {
  const [one, two] = [deployment("dep_1"), deployment("dep_2", { current: true, runs: { live: 1, pinned: 0, running: 0 } })];
  expect(repin(endpoint(), one, [one])).toBeNull();
  expect(repin(endpoint(), two, [one, two])).toBeNull();
  const act = repin(endpoint(), one, [one, two])!;
  expect(act.call({ to: "dep_2", reason: "r" })).toEqual({ method: "POST", path: "/v1/endpoints/it's/deployments/dep_1/repin", body: '{"deployment": "dep_2", "reason": "r"}' });
  expect((act.done as (a: unknown) => string)({ moved: 1, left: 2 })).toBe("1 run moves, 2 stay.");
  expect(prune(endpoint(), [one, two])).toBeNull();
});

test("a secret is in what is sent, and in no words of the command line", () => {
  const act = setSecret();
  expect(act.call({ name: " stripe ", value: ' s"k ' }).body).toBe('{"name": "stripe", "value": " s\\"k "}');
  expect(act.cli({ name: "stripe", value: "sk_live" }).join(" ")).not.toContain("sk_live");
});

test("a namespace: what is changed is sent, what is taken away is null, what stays is not named", () => {
  const change = changeNamespace(namespace());
  const cli = (act: Act, values: Values) => act.cli({ ...first(act), ...values });
  expect([body(change, {}), cli(change, {})]).toEqual(["{}", ["namespace", "set", "shop"]]);
  expect(body(change, { live_runs: " 200 ", requests: "" })).toBe('{"limits": {"live_runs": 200, "requests": null}}');
  expect(cli(change, { live_runs: "", starts: "7/1s", hosts: "" })).toEqual(["namespace", "set", "shop", "--live-runs", "off", "--starts", "7/1s", "--host", "any"]);
  expect(body(change, { hosts: "a.example\n\n c.example" })).toBe('{"hosts": ["a.example","c.example"]}');
  expect(body(change, { live_runs: "many", hosts: "" })).toBe('{"limits": {"live_runs": "many"}, "hosts": null}');
  // What is kept shorter is told by its end, or of all ends at once.
  expect(change.fields.find((f) => f.name === "keep")).toMatchObject({ initial: "completed=1d\nfailed=14d" });
  expect(body(change, { keep: "completed = 2d" })).toBe('{"retention": {"completed": "2d", "failed": null}}');
  expect(cli(change, { keep: "completed=1d" })).toEqual(["namespace", "set", "shop", "--keep", "failed=off"]);
  const seven = namespace({ retention: { completed: "604800s", failed: "604800s", cancelled: "604800s", timed_out: "604800s", terminated: "604800s" } });
  expect(changeNamespace(seven).fields.find((f) => f.name === "keep")).toMatchObject({ initial: "7d" });
  expect(body(changeNamespace(seven), { keep: "7d\ncompleted=12h" })).toBe('{"retention": {"completed": "12h"}}');
  // Nowhere stays nowhere until somebody says where.
  expect(body(changeNamespace(namespace({ hosts: [] })), {})).toBe("{}");
  expect(body(createNamespace(), { name: " lab ", starts: "1/1s" })).toBe('{"name": "lab", "limits": {"starts": "1/1s"}}');
});

test("a key of another namespace is made and revoked there", () => {
  expect(body(createKey("shop"), { name: "ci", scopes: "admin" })).toBe('{"name": "ci", "scopes": ["admin"], "namespace": "shop"}');
  expect(replaceKey({ id: "key_1", name: "ci", scopes: ["admin"] } as ApiKey, "shop").cli({})).toEqual(["key", "create", "--name", "ci", "--scope", "admin", "--namespace", "shop"]);
  expect(revokeKey({ id: "key_1", name: "ci" } as ApiKey, "shop").call({}).path).toBe("/v1/keys/key_1?namespace=shop");
  expect(body(createKey(), { name: "ci", scopes: "admin" })).toBe('{"name": "ci", "scopes": ["admin"]}');
});

test("a limit is paused by its names, the empty value and one with a dash too", () => {
  const limit = (change: Partial<Limit>) => ({ kind: "concurrency", function: "f", key: "input.t", value: '"a\\"b "', ...change }) as Limit;
  const of = (change: Partial<Limit>) => pauseLimit(whichOf(limit(change))!);
  expect(of({}).call({ reason: " r " }).body).toBe('{"function": "f", "key": "input.t", "value": "a\\"b ", "reason": "r"}');
  expect(of({ value: '""' }).call({}).body).toBe('{"function": "f", "key": "input.t", "value": ""}');
  expect(of({ key: null, value: null }).call({}).body).toBe('{"function": "f"}');
  expect(of({ value: '"-x"' }).cli({ reason: "" })).toEqual(["limit", "pause", "f", "--key", "input.t", "--value=-x"]);
  expect([whichOf(limit({ kind: "throttle" })), whichOf(limit({ function: null, endpoint: "shop" }))]).toEqual([null, null]);
  expect(pauseKey(["f"]).call({ function: "f", key: " ", value: "x" }).body).toBe('{"function": "f"}');
});

test("a run is done again with the values that were typed, byte for byte", () => {
  const step = { id: "a/b", op: "run", settled: 1 } as StepLine;
  const act = rerun({ id: "run_1", function: "f", input: '{"n":1.0}' } as Run, [step]);
  expect(body(act, {})).toBe("{}");
  expect(body(act, { edits: JSON.stringify({ "a/b": '{"n": 3544790567247868102}' }), from_step: "a/b" })).toBe('{"from_step": "a/b", "edits": {"a/b": {"n": 3544790567247868102}}}');
  const edits = act.fields.find((f) => f.kind === "edits")!;
  expect([isReady(edits, ""), isReady(edits, '{"a/b":"1"}'), isReady(edits, '{"a/b":"{"}')]).toEqual([true, true, false]);
});

test("an edit of a schedule sends what is changed, and an expression goes with its time zone", () => {
  const schedule = { name: "nightly", function: "report", cron: "0 9 * * *", time_zone: "Europe/Prague", every: null, input: "1.0", overlap: "skip", jitter: "300s", paused: null, owned: false } as unknown as Schedule;
  const edit = actsOnSchedule(schedule, ["report"]).find((a) => a.id === "edit")!;
  const values = Object.fromEntries(edit.fields.map((f) => [f.name, "initial" in f ? (f.initial ?? "") : ""]));
  expect(edit.call(values)).toEqual({ method: "PATCH", path: "/v1/schedules/nightly", body: "{}" });
  expect(edit.call({ ...values, jitter: "" }).body).toBe('{"jitter": null}');
  expect(edit.call({ ...values, cron: "0 7 * * *" }).body).toBe('{"cron": "0 7 * * *", "time_zone": "Europe/Prague"}');
  expect(edit.call({ ...values, cron: "", every: "1h" }).body).toBe('{"every": "1h"}');
  expect(edit.cli({ ...values, overlap: "buffer_one", input: "[2]" })).toEqual(["schedule", "update", "nightly", "--input", "[2]", "--overlap", "buffer-one"]);
  expect(actsOnSchedule({ ...schedule, owned: true }, []).map((a) => a.id)).toEqual(["trigger", "pause", "backfill"]);
});
