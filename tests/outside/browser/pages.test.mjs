// The dashboard as a person meets it: live, exact, safe, readable in both themes, usable by keyboard.
//
//     npm ci && node --test --test-concurrency=1          STEPWELL=path/to/stepwell, CHROMIUM=path/to/chromium
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { axe, close, launch, missing, open as openIn } from "./browser.mjs";
import { eventually, gateway } from "./gateway.mjs";
import { EVIL, EXACT, names, serve } from "./handler.mjs";
import { status } from "./person.mjs";
import { seed, seedMore } from "./seed.mjs";

const browserTest = (name, body) => test(name, { skip: missing, timeout: 900_000 }, body);
let handler, gw, browser, runs, more;

before(async () => {
  if (missing) return;
  [handler, gw, browser] = await Promise.all([serve(), gateway(), launch()]);
  const page = await (await fetch(gw.url)).text();
  assert.ok(page.includes('id="app"'), "the binary was built without its dashboard: make web, then build it anew");
  // What the list of runs is tested with comes last: it is at its top.
  more = await seedMore(gw, handler, names);
  runs = await seed(gw, handler);
});

after(async () => {
  await browser?.close();
  await gw?.stop();
  handler?.closeAllConnections();
  handler?.close();
});

const open = (path, options) => openIn(browser, gw.url + path, options);
const row = (page, id) => page.locator(`#row-${id}`);

browserTest("the list has every run, with its status in words; filters are in the address", async () => {
  const page = await open("/runs");
  for (const [name, { id }] of Object.entries(runs)) {
    const word = name === "long" ? "Completed" : name.charAt(0).toUpperCase() + name.slice(1).replace("_", " ");
    await row(page, id).locator("[data-status]", { hasText: word }).waitFor();
  }
  await page.getByRole("combobox", { name: "Status" }).selectOption("paused");
  await eventually("paused ones alone", async () => await page.locator("[id^=row-]").count() === 1);
  assert.equal(new URL(page.url()).search, "?status=paused");
  await page.reload();
  await row(page, runs.paused.id).waitFor();
  await page.getByRole("searchbox").fill("no such run");
  await page.getByText("No run is like this.").waitFor();
  await page.getByRole("button", { name: "Clear" }).click();
  await row(page, runs.completed.id).waitFor();
  await page.getByRole("searchbox").fill(`  ${runs.waiting.id} `);
  await status(page, "Waiting");
  assert.ok(page.url().endsWith(`/runs/${runs.waiting.id}`), "a pasted id leads to its run");
  await close(page);
});

browserTest("new runs do not move the rows that somebody reads", async () => {
  const page = await open("/runs");
  await row(page, runs.waiting.id).focus();
  const at = await row(page, runs.waiting.id).boundingBox();
  await page.evaluate(() => getSelection().selectAllChildren(document.querySelector("[id^=row-] code")));
  const selected = await page.evaluate(() => String(getSelection()));
  const fresh = [];
  for (let i = 0; i < 3; i++) fresh.push(await gw.start("hello", { input: { name: `n${i}` } }));
  await page.getByRole("button", { name: "3 new runs" }).waitFor();
  assert.deepEqual(await row(page, runs.waiting.id).boundingBox(), at);
  assert.equal(await page.evaluate(() => document.activeElement.id), `row-${runs.waiting.id}`);
  assert.equal(await page.evaluate(() => String(getSelection())), selected);
  await page.getByRole("button", { name: "3 new runs" }).click();
  await row(page, fresh[2].id).waitFor();
  await close(page);
});

browserTest("a run is followed live, and the reader stays where he is", async () => {
  const run = await gw.start("approval", { key: "live", input: { amount: 7 } });
  const page = await open(`/runs/${run.id}`);
  await status(page, "Waiting");
  await page.getByRole("region", { name: "Why is it not moving?" }).getByText("It waits for the signal").waitFor();
  await page.getByRole("button", { name: "charge" }).click();
  const panel = page.getByRole("complementary", { name: "Step charge" });
  await panel.getByText('"charged": 42').waitFor();
  assert.match(page.url(), /step=charge/);
  await page.evaluate(() => getSelection().selectAllChildren(document.querySelector("aside pre")));
  const before = await page.evaluate(() => String(getSelection()));
  await gw.post(`/v1/runs/${run.id}/signals/approved`, { payload: { by: "the shop" } });
  await status(page, "Completed");
  assert.equal(await page.evaluate(() => String(getSelection())), before);
  await page.getByRole("tab", { name: "Input & output" }).click();
  await page.locator("pre", { hasText: '"by": "the shop"' }).waitFor();
  await close(page);
});

browserTest("payloads are shown byte for byte and never run", async () => {
  const page = await open(`/runs/${runs.completed.id}?tab=io`);
  const text = await page.locator("pre[aria-label=output]").innerText();
  assert.ok(text.includes('"huge": 3544790567247868102,\n  "one": 1.0,\n  "far": 1e400,'), text);
  assert.ok(text.includes(JSON.stringify(EVIL)));
  for (const [run, tab] of [[runs.completed, "logs"], [runs.completed, "details"], [runs.completed, "journal"], [runs.retrying, "timeline"], [runs.cancelled, "timeline"]]) {
    await page.goto(`${gw.url}/runs/${run.id}?tab=${tab}`);
    await page.getByRole("tabpanel").waitFor();
    await page.getByText("<script>").first().waitFor();
    assert.equal(await page.locator("main script, main img").count(), 0);
  }
  await page.goto(`${gw.url}/runs?q=${encodeURIComponent("<script>")}`);
  await page.getByText("<script>").first().waitFor();
  await close(page);
});

browserTest("a run that does not move says why", async () => {
  for (const [name, words] of Object.entries({
    retrying: /failed (once|\d+ times, last): HttpError: 503 Service Unavailable.*The next try is in/s,
    paused: /The code no longer fits.*recorded\s*− run charge.*now says\s*\+ sleep charge/s,
    parked: /Its endpoint is unhealthy.*the handler answered 404.*status 404.*out of order/s,
    scheduled: /It has not begun yet.*It begins in \d+ min/s,
    waiting: /It waits for the signal approved in step approval. It times out in 2 d/s,
  })) {
    const page = await open(`/runs/${runs[name].id}`);
    await eventually(`${name} says why`, async () => words.test(await page.getByRole("region", { name: "Why is it not moving?" }).innerText().catch(() => "")));
    await close(page);
  }
  const page = await open(`/runs/${runs.failed.id}`);
  await page.getByRole("region", { name: "How it ended" }).getByText("The card was declined.").waitFor();
  await close(page);
});

browserTest("a thousand steps are a screenful of rows; a huge value is its head until it is asked for", async () => {
  const page = await open(`/runs/${runs.long.id}`);
  await page.getByText("1,000 steps", { exact: true }).waitFor();
  assert.ok(await page.getByTestId("timeline").locator("li").count() < 100);
  await page.getByTestId("timeline").evaluate((box) => box.scrollTo(0, box.scrollHeight));
  await page.getByText("map/999/resize").waitFor();
  await page.goto(`${gw.url}/runs/${runs.long.id}?tab=io`);
  const output = page.locator("pre[aria-label=output]");
  await output.waitFor();
  assert.equal((await output.textContent()).length, 256 * 1024);
  await page.getByRole("button", { name: "Load all" }).click();
  await eventually("all of it", async () => (await output.textContent()).length === 400_002);
  await close(page);
});

browserTest("every attempt of a step is there", async () => {
  const page = await open(`/runs/${runs.retrying.id}?step=charge`);
  const panel = page.getByRole("complementary", { name: "Step charge" });
  await panel.getByText("Attempt 2", { exact: true }).waitFor();
  await panel.getByText("Attempt 1", { exact: true }).click();
  await panel.locator("details[open]").getByText("at charge (shop.js:12)").waitFor();
  await close(page);
});

browserTest("the journal: compact, everything, and as JSON", async () => {
  const page = await open(`/runs/${runs.waiting.id}?tab=journal`);
  await page.getByRole("button", { name: /charge.*charged/ }).waitFor();
  await page.getByRole("button", { name: "Full" }).click();
  await page.getByRole("searchbox", { name: "Filter the journal" }).fill("step.asked");
  await eventually("one entry", async () => await page.getByTestId("history").locator("li").count() === 1);
  await page.getByTestId("history").getByRole("button").click();
  await page.locator("pre", { hasText: '"name": "approved"' }).waitFor();
  await page.getByRole("button", { name: "JSON" }).click();
  await page.getByRole("button", { name: "Show it here" }).click();
  await page.locator("pre", { hasText: runs.waiting.id }).waitFor();
  await close(page);
});

browserTest("with an unknown run, the page says so", async () => {
  const page = await open("/runs/run_01k9zzzzzzzzzzzzzzzzzzzzzz");
  await page.getByRole("alert").getByText("no run").waitFor();
  await page.goto(`${gw.url}/nowhere`).catch(() => {});
  await close(page, /404/);
});

browserTest("the keyboard alone will do", async () => {
  const page = await open("/runs");
  await row(page, runs.completed.id).waitFor();
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
  await page.keyboard.press("j");
  await page.keyboard.press("j");
  // The focus follows in the next frame.
  const second = await page.locator("[id^=row-]").nth(1).getAttribute("id");
  await eventually("the second has the focus", async () => await page.evaluate(() => document.activeElement.id) === second);
  await page.keyboard.press("Enter");
  await page.waitForURL(`**/runs/${second.slice(4)}`);
  await page.keyboard.press("Control+k");
  await page.getByRole("combobox", { name: "Search" }).fill("order-42");
  await page.getByRole("option", { name: /order-42/ }).waitFor();
  await page.keyboard.press("Enter");
  await page.waitForURL(`**/runs/${runs.waiting.id}`);
  await status(page, "Waiting");
  await page.keyboard.press("s");
  await page.getByRole("dialog", { name: "Signal" }).waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await page.keyboard.press("?");
  await page.getByRole("dialog", { name: "Keyboard shortcuts" }).waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await page.keyboard.press("g");
  await page.keyboard.press("w");
  await page.getByRole("heading", { name: "Waiting" }).waitFor();
  await close(page);
});

browserTest("on a narrow screen nothing sticks out to the side", async () => {
  for (const path of ["/", "/runs", `/runs/${runs.waiting.id}?step=approval`, "/endpoints/gone", "/endpoints/shop", "/functions/approval", "/waiting", "/events", `/events/${more.untaken.id}`, `/runs/${more.album.id}?step=resize%2Fheld`, "/endpoints/mail", "/functions/welcome", "/settings/keys", "/settings/secrets", "/settings/namespaces?name=default", "/settings/audit", "/errors"]) {
    const page = await open(path, { viewport: { width: 400, height: 800 } });
    await page.locator("main h1, main h2").first().waitFor({ state: "attached" });
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth > innerWidth), false, path);
    await close(page);
  }
});

browserTest("the pages of problems and of the API are there", async () => {
  const page = await open("/problems");
  await page.locator("a", { hasText: "run-exists" }).click();
  await page.locator("h1", { hasText: "A run with this key exists" }).waitFor();
  await page.locator("nav a", { hasText: "API" }).click();
  await page.locator("h2", { hasText: "/v1/functions/{name}/runs" }).first().waitFor();
  await page.getByRole("link", { name: "Dashboard", exact: true }).click();
  await page.getByRole("heading", { name: "Needs a look" }).waitFor();
  await close(page);
});

for (const colorScheme of ["light", "dark"]) {
  browserTest(`axe finds nothing in the ${colorScheme} theme`, async () => {
    const of = (name, rest = "") => `/runs/${runs[name].id}${rest}`;
    const page = await open("/", { colorScheme });
    const found = [];
    for (const [path, dialog] of [["/"], ["/runs"], ["/runs?q=nothing-is-called-so"], [of("completed", "?tab=io")], [of("waiting", "?step=approval")], [of("retrying", "?step=charge")], [of("paused")], [of("parked")],
      [of("failed")], [of("long")], [of("waiting", "?tab=journal")], [of("completed", "?tab=journal&form=full")], [of("waiting", "?tab=family")], [of("completed", "?tab=logs")], [of("completed", "?tab=details")],
      [of("waiting"), "Signal…"], [of("completed"), "Run again…"], ["/waiting"], ["/functions"], ["/functions/approval"], ["/endpoints"], ["/endpoints", "Register a handler"], ["/endpoints/gone"], ["/endpoints/shop?outcome=failed"],
      ["/events"], [`/events/${more.taken.id}`], [`/events/${more.untaken.id}`], ["/events?name=none"], ["/events", "Send event"], [`/runs/${more.album.id}?step=resize%2Fheld`], [`/runs/${more.bills.id}?step=receipt`], [`/runs/${more.paid.id}?step=payment`],
      [`/runs/${more.counter.id}?tab=details`], ["/endpoints/mail"], ["/endpoints/mail", "Edit…"], ["/functions/welcome"], ["/settings/keys"], ["/settings/secrets"], ["/settings/gateway"], ["/settings/namespaces"], ["/settings/namespaces?name=default", "Change limits…"], ["/settings/audit"], ["/errors"], ["/settings", "Create a key"], ["/docs"], ["/problems"], ["/problems/run-exists"]]) {
      await page.goto(gw.url + path);
      await eventually(`${path} is there`, () => page.evaluate(() => document.querySelector("h1, h2") !== null && !document.body.textContent.includes("Reading ")));
      if (dialog) {
        await page.getByRole("button", { name: dialog }).first().click();
        await page.getByRole("dialog").waitFor();
        if (["Signal…", "Run again…", "Send event"].includes(dialog)) await page.locator(".json-editor:not([hidden])").waitFor();
      }
      found.push(...(await axe(page)).map((fault) => `${path} ${dialog ?? ""}: ${fault}`));
    }
    assert.deepEqual(found, []);
    await close(page);
  });
}
