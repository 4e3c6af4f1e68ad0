// The pages as a person meets them: live, exact, safe, readable in both themes, usable by keyboard.
//
//     npm ci && node --test          STEPWELL=path/to/stepwell, CHROMIUM=path/to/chromium
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { members, pretty } from "../../../web/json.js";
import { eventually, gateway } from "./gateway.mjs";
import { EVIL, EXACT, names, serve } from "./handler.mjs";

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const missing = existsSync(CHROMIUM) ? false : `there is no ${CHROMIUM}: apt-get install chromium, or set CHROMIUM`;
if (missing && process.env.CI === "true") throw new Error(missing);
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

const browserTest = (name, body) => test(name, { skip: missing, timeout: 120_000 }, body);
let handler, gw, browser, runs;

before(async () => {
  if (missing) return;
  [handler, gw, browser] = await Promise.all([serve(), gateway(), chromium.launch({
    executablePath: CHROMIUM,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync"],
  })]);
  const url = `http://127.0.0.1:${handler.address().port}/`;
  await gw.post("/v1/endpoints", { name: "shop", url, discover: false, functions: names.map((name) => ({ name })) });
  await gw.post("/v1/endpoints", { name: "gone", url, discover: false, functions: [{ name: "nobody" }] });
  runs = {
    completed: await gw.start("exact", `{"input": ${EXACT}, "tags": {"customer": ${JSON.stringify(EVIL)}}}`),
    waiting: await gw.start("approval", { key: "order-42", input: { amount: 42 } }),
    retrying: await gw.start("flaky"),
    paused: await gw.start("changed"),
    failed: await gw.start("fails"),
    running: await gw.start("slow"),
    scheduled: await gw.start("naps", { delay: "1h" }),
    parked: await gw.start("nobody"),
    cancelled: await gw.start("approval", { key: EVIL }),
    terminated: await gw.start("naps"),
    timed_out: await gw.start("naps", { timeouts: { run: "1s" } }),
    long: await gw.start("long", { key: "k".repeat(250) }),
  };
  await gw.post(`/v1/runs/${runs.cancelled.id}/cancel`, { reason: "changed my mind" });
  await gw.post(`/v1/runs/${runs.terminated.id}/terminate`);
  for (const [status, run] of Object.entries(runs)) {
    if (status === "long") continue;
    await eventually(`${run.function} is ${status}`, async () => (await gw.get(`/v1/runs/${run.id}`)).status === status);
  }
});

after(async () => {
  await browser?.close();
  await gw?.stop();
  handler?.closeAllConnections();
  handler?.close();
});

/** Opens a page; whatever its console complains of fails the test. */
async function open(path, options = {}) {
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, ...options });
  page.complaints = [];
  page.on("console", (m) => { if (["error", "warning"].includes(m.type())) page.complaints.push(m.text()); });
  page.on("pageerror", (e) => page.complaints.push(e.message));
  await page.goto(gw.url + path);
  return page;
}

async function close(page) {
  assert.deepEqual(page.complaints, []);
  assert.equal(await page.evaluate(() => window.pwned), undefined, "a payload was run");
  await page.close();
}

const shown = (page, selector, text) => page.locator(selector, { hasText: text }).first().waitFor();

browserTest("the list has every run, with its status in words, and grows by itself", async () => {
  const page = await open("/");
  for (const [status, { id }] of Object.entries(runs)) {
    const word = status === "long" ? "completed" : status.replace("_", " ");
    await shown(page, `#runs a[href="#${id}"] .status`, word);
  }
  // A new run does not take away what the reader has under the keyboard.
  await page.locator(`#runs a[href="#${runs.waiting.id}"]`).focus();
  const fresh = await gw.start("naps", { key: "fresh" });
  await shown(page, `#runs a[href="#${fresh.id}"]`, "fresh");
  assert.equal(await page.evaluate(() => document.activeElement.hash), `#${runs.waiting.id}`);
  await page.selectOption("#status", "paused");
  await eventually("paused ones alone", async () => await page.locator("#runs a").count() === 1);
  await page.fill("#q", "no such run");
  await shown(page, "#no-runs", "No run is like this.");
  await close(page);
});

browserTest("a run is followed live, and the reader stays where he is", async () => {
  const run = await gw.start("approval", { key: "live", input: { amount: 7 } });
  const page = await open(`/#${run.id}`);
  await shown(page, "#run .status", "waiting");
  await shown(page, "#run dd", "approval: signal approved until");
  const charge = page.locator("#run summary", { hasText: "charge" }).first();
  await charge.focus();
  await page.keyboard.press("Enter");
  await shown(page, "#run details[open] pre", '{"charged":42}');
  await page.evaluate(() => getSelection().selectAllChildren(document.querySelector("#run details[open] pre")));
  await gw.post(`/v1/runs/${run.id}/signals/approved`, { payload: { by: "the shop" } });
  await shown(page, "#run .status", "completed");
  await shown(page, "#run pre", '{"approved":{"by":"the shop"}}');
  assert.equal(await page.evaluate(() => String(getSelection())), '{"charged":42}');
  assert.ok(await charge.evaluate((node) => node === document.activeElement && node.parentElement.open));
  await close(page);
});

browserTest("payloads are shown byte for byte and never run", async () => {
  for (const run of [runs.completed, runs.retrying, runs.cancelled]) {
    const page = await open(`/#${run.id}`);
    await shown(page, "#run .status", run === runs.completed ? "completed" : run === runs.retrying ? "retrying" : "cancelled");
    await eventually("the payload is there", async () => (await page.locator("#run").innerText()).includes("<script>window.pwned"));
    assert.equal(await page.locator("#run script, #run img, #runs script, #runs img").count(), 0);
    if (run === runs.completed) {
      const text = await page.locator("#run pre").first().innerText();
      assert.equal(text, pretty(EXACT));
      assert.ok(text.includes('"huge": 3544790567247868102,\n  "one": 1.0,\n  "far": 1e400,'));
    }
    await close(page);
  }
});

browserTest("a run that does not move says why", async () => {
  for (const [status, words] of Object.entries({
    retrying: /step failing, next attempt .*HttpError: 503 Service Unavailable/s,
    paused: /mismatch.*Recorded: run charge, now: sleep charge.*stepwell run resume run_/s,
    parked: /endpoint unhealthy.*Endpoint gone is unhealthy: the handler answered 404/s,
  })) {
    const page = await open(`/#${runs[status].id}`);
    await page.locator("#run .attention").waitFor();
    assert.match(await page.locator("#run .attention").innerText(), words);
    await close(page);
  }
  const page = await open(`/#${runs.scheduled.id}`);
  await shown(page, "#run dl", /Starts\s*in \d+ min/);
  await close(page);
});

browserTest("long journals and values are there when they are asked for", async () => {
  const page = await open(`/#${runs.long.id}`);
  await shown(page, "#run button", "Show all 200,002 characters");
  await page.locator("#run button", { hasText: "Show all" }).click();
  assert.equal((await page.locator("#run pre").first().textContent()).length, 200_002);
  await eventually("all steps", async () => await page.locator("#run summary", { hasText: "resize" }).count() === 300);
  await close(page);
});

browserTest("with an unknown run, the page says so", async () => {
  const page = await open("/#run_01k9zzzzzzzzzzzzzzzzzzzzzz");
  await shown(page, "#run .bad", "no run");
  page.complaints = page.complaints.filter((c) => !c.includes("404"));
  await close(page);
});

browserTest("the keyboard alone will do", async () => {
  const page = await open("/");
  await page.locator("#runs a").first().waitFor();
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the run");
  await page.locator("#runs a").first().focus();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await shown(page, "#run h1", /./);
  assert.equal(await page.evaluate(() => location.hash === document.querySelectorAll("#runs a")[1].hash), true);
  await close(page);
});

browserTest("on a narrow screen the list and a run take turns", async () => {
  const page = await open("/", { viewport: { width: 400, height: 800 } });
  await page.locator(`#runs a[href="#${runs.waiting.id}"]`).click();
  await shown(page, "#run h1", "approval");
  assert.equal(await page.locator("#list").isVisible(), false);
  await page.locator("#run a", { hasText: "All runs" }).click();
  assert.equal(await page.locator("#list").isVisible(), true);
  const wider = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
  assert.equal(wider, false, "nothing sticks out to the side");
  await close(page);
});

browserTest("the pages of problems and of the API are there", async () => {
  const page = await open("/problems");
  await page.locator("a", { hasText: "run-exists" }).click();
  await shown(page, "h1", "A run with this key exists");
  await page.locator("nav a", { hasText: "API" }).click();
  await shown(page, "h2", "/v1/functions/{name}/runs");
  await close(page);
});

for (const colorScheme of ["light", "dark"]) {
  browserTest(`axe finds nothing in the ${colorScheme} theme`, async () => {
    const paths = ["/", "/docs", "/problems", "/problems/run-exists",
      ...["completed", "waiting", "retrying", "paused", "failed"].map((status) => `/#${runs[status].id}`)];
    for (const width of [1280, 400]) {
      for (const path of paths) {
        const page = await open(path, { colorScheme, viewport: { width, height: 800 } });
        await (path === "/docs" ? shown(page, "h2", /./) : path.startsWith("/#") ? shown(page, "#run h1", /./) : page.locator("a").first().waitFor());
        // By the debugger's door: the page's own policy lets nothing in.
        await page.evaluate(AXE);
        const { violations } = await page.evaluate(() => globalThis.axe.run());
        const told = violations.flatMap((v) => v.nodes.map((n) => `${v.id}: ${n.html} ${n.failureSummary}`));
        assert.deepEqual(told, [], `${path} at ${width}`);
        await close(page);
      }
    }
  });
}

test("JSON is cut and broken into lines without a change to its tokens", () => {
  const text = ' {"a" : 3544790567247868102 ,"b":[1.0, {"c":"}\\"],"}], "d\\u0041": null , "e":{},"f":[ ]}';
  const got = members(text);
  assert.deepEqual([...got.keys()], ["a", "b", "dA", "e", "f"]);
  assert.equal(got.get("a"), "3544790567247868102");
  assert.equal(got.get("b"), '[1.0, {"c":"}\\"],"}]');
  assert.equal(got.get("dA"), "null");
  assert.equal(pretty(text).replaceAll(/\n */g, ""), '{"a": 3544790567247868102,"b": [1.0,{"c": "}\\"],"}],"d\\u0041": null,"e": {},"f": []}');
  assert.deepEqual(JSON.parse(pretty(EXACT)), JSON.parse(EXACT));
});
