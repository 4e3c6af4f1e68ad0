// Schedules as a person meets them: made, watched, paused, started by hand, changed, deleted.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { axe, close, launch, missing, open } from "./browser.mjs";
import { eventually, gateway } from "./gateway.mjs";
import { serve } from "./handler.mjs";
import { begin, button, type } from "./person.mjs";

const browserTest = (name, body) => test(name, { skip: missing, timeout: 900_000 }, body);
let handler, gw, browser;

before(async () => {
  if (missing) return;
  [handler, gw, browser] = await Promise.all([serve(), gateway(), launch()]);
  await gw.post("/v1/endpoints", { name: "shop", url: `http://127.0.0.1:${handler.address().port}/`, discover: false, functions: ["hello", "fails"].map((name) => ({ name })) });
});

after(async () => {
  await browser?.close();
  await gw?.stop();
  handler?.closeAllConnections();
  handler?.close();
});

browserTest("a schedule is made, fires, is paused with a note, started by hand, changed and deleted", async () => {
  const page = await open(browser, `${gw.url}/schedules`);
  await page.getByText("There are no schedules yet.").waitFor();
  await button(page, "Create a schedule").click();
  let dialog = page.getByRole("dialog");
  await dialog.getByLabel("Name").fill("nightly");
  await dialog.getByRole("combobox", { name: "Function" }).selectOption("hello");
  await dialog.getByLabel("Cron expression").fill("0 25 * * *");
  await type(page, "Input of its runs", '{"name": "Ada", "n": 3544790567247868102}');
  await button(dialog, "Create the schedule").click();
  await dialog.getByRole("alert").getByText("cron").first().waitFor();
  await dialog.getByLabel("Cron expression").fill("0 9 * * 1-5");
  await dialog.getByLabel("Time zone").fill("Europe/Prague");
  await button(dialog, "Show me the call").click();
  await dialog.getByRole("tabpanel").getByText(`curl -X POST ${gw.url}/v1/schedules`).waitFor();
  await button(dialog, "Create the schedule").click();
  await page.getByRole("heading", { name: "nightly" }).waitFor();
  assert.ok(page.url().endsWith("/schedules/nightly"));
  await page.getByText("At 09:00, Monday to Friday").first().waitFor();
  assert.equal(await page.getByRole("list", { name: "Coming moments" }).getByRole("listitem").count(), 5);
  assert.match(await (await fetch(`${gw.url}/v1/schedules/nightly`)).text(), /"n": 3544790567247868102/);

  dialog = await begin(page, "Start one now…");
  await button(dialog, "Start it").click();
  const moments = page.getByRole("list", { name: "Last moments" });
  await moments.getByText("Completed, started by hand").waitFor();
  await page.getByRole("region", { name: "Its runs" }).getByText("Completed").waitFor();

  dialog = await begin(page, "Pause…");
  await dialog.getByLabel("Note").fill("until the ledger is moved");
  await button(dialog, "Pause the schedule").click();
  await page.getByRole("region", { name: "Why it is paused" }).getByText("until the ledger is moved").waitFor();
  await page.getByRole("link", { name: "Schedules", exact: true }).first().click();
  const row = page.getByRole("list", { name: "Schedules" }).getByRole("listitem").filter({ hasText: "nightly" });
  await row.getByText("until the ledger is moved").waitFor();
  await row.getByText("Paused").waitFor();
  await row.getByRole("link", { name: "nightly" }).click();
  await button(page.getByRole("region", { name: "Why it is paused" }), "Resume").click();
  await button(page.getByRole("dialog"), "Resume the schedule").click();
  await page.getByText("Active").waitFor();

  dialog = await begin(page, "Edit…");
  await dialog.getByLabel("Cron expression").fill("30 6 1 * *");
  await button(dialog, "Show me the call").click();
  assert.ok((await dialog.getByRole("tabpanel").innerText()).includes(`-d '{"cron": "30 6 1 * *", "time_zone": "Europe/Prague"}'`));
  await button(dialog, "Save").click();
  await page.getByText("At 06:30, on day 1 of the month").first().waitFor();
  assert.equal((await gw.get("/v1/schedules/nightly")).time_zone, "Europe/Prague", "what was not changed stays");

  dialog = await begin(page, "Backfill…");
  await dialog.getByLabel("From").fill(new Date(Date.now() - 40 * 864e5).toISOString());
  await button(dialog, "Begin it").click();
  await moments.getByText("of a backfill").first().waitFor();

  dialog = await begin(page, "Delete…");
  await button(dialog, "Delete the schedule").click();
  await page.getByText("There are no schedules yet.").waitFor();
  await close(page, /422/);
});

browserTest("one that fires by itself shows what came of it, and one that pauses on failure says why", async () => {
  await gw.post("/v1/schedules", { name: "heartbeat", function: "hello", every: "1s", input: { name: "Ada" } });
  await gw.post("/v1/schedules", { name: "cleanup", function: "fails", every: "1s", pause_on_failure: true });
  await eventually("it has been paused", async () => (await gw.get("/v1/schedules/cleanup")).state === "paused");
  await eventually("it has started some", async () => (await gw.get("/v1/schedules/heartbeat")).counts.started > 2);
  for (const colorScheme of ["light", "dark"]) {
    const page = await open(browser, `${gw.url}/schedules`, { colorScheme });
    const row = (name) => page.getByRole("list", { name: "Schedules" }).getByRole("listitem").filter({ hasText: name });
    await row("heartbeat").getByRole("img", { name: /Completed/ }).waitFor();
    await row("cleanup").getByRole("img", { name: /Failed/ }).waitFor();
    assert.deepEqual(await axe(page), []);
    await row("cleanup").getByRole("link", { name: "cleanup" }).click();
    await page.getByRole("region", { name: "Why it is paused" }).getByText("One of its runs failed").waitFor();
    await page.getByRole("region", { name: "Its runs" }).getByText("Failed").first().waitFor();
    assert.deepEqual(await axe(page), []);
    await page.getByRole("searchbox").or(page.getByRole("link", { name: "All of them" })).click();
    await page.getByRole("button", { name: /Remove the filter schedule/ }).waitFor();
    await close(page);
  }
});
