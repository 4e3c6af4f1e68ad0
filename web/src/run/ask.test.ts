import { expect, test } from "vitest";
import type { History } from "../api/types.ts";
import { askOf, causeOf, eventOf, statusOf } from "./ask.ts";

const asked = (ask: string): History => ({ n: 1, epoch: 1, at: "", type: "step.asked", by: "handler", data: `{"op":"x","step":"s","ask":${ask}}` });
const EVENT = "evt_01m8b20r3xfgsa896g6h8k83sg";

test("an event, a task and a call are named by what they are about; what must be equal stays as it is written", () => {
  expect(askOf(asked('{"op":"event","id":"s","event":"order.paid","match":{"data.order":3544790567247868102,"source":"a\\u0062"}}')))
    .toMatchObject({ about: "order.paid", match: [["data.order", "3544790567247868102"], ["source", '"a\\u0062"']] });
  expect(askOf(asked('{"op":"task","task":"resize","input":{"event":"no"}}'))?.about).toBe("resize");
  expect(askOf(asked('{"op":"call","request":{"url":"http://a/b"}}'))?.about).toBe("GET http://a/b");
  expect(askOf(asked('{"op":"call","request":{"url":"http://a/b","body":{}}}'))?.about).toBe("POST http://a/b");
  expect(askOf(asked('{"op":"call","request":{"url":"http://a/b","method":"PUT"}}'))?.about).toBe("PUT http://a/b");
  expect(askOf(asked('{"op":"sleep","for":"1s"}'))).toMatchObject({ about: null, match: [] });
  expect(askOf(asked("4711"))).toBeNull();
  expect(askOf(null)).toBeNull();
});

test("the status of a call, whether it went well or not", () => {
  expect(statusOf('{"status":200,"headers":{},"body":{"status":"paid"}}')).toBe(200);
  expect(statusOf('{"type":"http-status","message":"a answered 418","data":{"status":418}}')).toBe(418);
  for (const none of ['{"type":"no-answer"}', "[]", "null", null, undefined, '{"status":"200"}']) expect(statusOf(none)).toBeNull();
});

test("an event is found where it was taken or published, and who began a run is told", () => {
  expect(eventOf("event", `{"id":"${EVENT}","name":"a","data":{"id":"x"}}`)).toBe(EVENT);
  expect(eventOf("publish", `"${EVENT}"`)).toBe(EVENT);
  expect(eventOf("run", `"${EVENT}"`)).toBeNull();
  expect(eventOf("event", '{"id":"javascript:alert(1)"}')).toBeNull();
  expect(causeOf(`event ${EVENT}`)).toEqual({ event: EVENT });
  expect(causeOf("run run_01m8b20r3xfgsa896g6h8k83sg")).toEqual({ run: "run_01m8b20r3xfgsa896g6h8k83sg" });
  expect(causeOf("event horizon")).toEqual({ who: "event horizon" });
  expect(causeOf(undefined)).toBeNull();
});
