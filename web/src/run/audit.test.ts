import { expect, test } from "vitest";
import { outcome, placeOf } from "./audit.ts";

test("an act is done, refused, failed, or nobody knows", () => {
  expect([201, 204, 404, 409, 500, 503, null, undefined].map((status) => outcome({ status }))).toEqual(["done", "done", "refused", "refused", "failed", "failed", "unknown", "unknown"]);
});

test("a path leads to what it is about, where the dashboard shows that", () => {
  const to = (target: string) => placeOf(target)?.to ?? null;
  expect(to("/v1/runs/run_01/cancel")).toBe("/runs/run_01");
  expect(to("/v1/endpoints/it%27s%2Fhere/drain")).toBe("/endpoints/it's%2Fhere");
  expect(to("/v1/namespaces/shop")).toBe("/settings/namespaces?name=shop");
  expect(to("/v1/keys/key_1")).toBe("/settings/keys");
  expect(to("/v1/limits/pause")).toBe("/limits");
  expect(to("/v1/objects/cart/a%20b")).toBe("/objects/cart/a%20b");
  expect([to("/v1/runs/batch"), to("/v1/endpoints"), to("/v1/webhooks/wh_1"), to("/nowhere"), to("/v1"), to("/v1/endpoints/%")]).toEqual([null, null, null, null, null, "/endpoints/%25"]);
});
