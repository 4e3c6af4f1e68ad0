// Limits and metrics as a person meets them: a run says what it waits for, a key or a function is paused
// and goes on, and what was counted is drawn.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { axe, close, launch, missing, open } from "./browser.mjs";
import { eventually, gateway } from "./gateway.mjs";
import { EVIL, serve } from "./handler.mjs";
import { begin, button, status } from "./person.mjs";

let handler, gw, browser;

before(async () => {
  if (missing) return;
  [handler, gw, browser] = await Promise.all([serve(), gateway(), launch()]);
  await gw.post("/v1/endpoints", { name: "shop", url: `http://127.0.0.1:${handler.address().port}/`, discover: false, functions: [
    { name: "slow", concurrency: [{ limit: 1 }] }, { name: "hello", concurrency: [{ limit: 5, key: "input.name" }] }] });
});

after(async () => {
  await browser?.close();
  await gw?.stop();
  handler?.closeAllConnections();
  handler?.close();
});

test("a run leads to the limit it waits for; a key and a function are paused, say why, and go on", { skip: missing, timeout: 900_000 }, async () => {
  const first = await gw.start("slow");
  await eventually("it is on the way", async () => (await gw.get(`/v1/runs/${first.id}`)).status === "running");
  const next = await gw.start("slow");
  const page = await open(browser, `${gw.url}/runs/${next.id}`);
  const why = page.getByRole("region", { name: "Why is it not moving?" });
  await why.getByText("1 of 1 slots of the concurrency of slow are taken; it is the next.").waitFor();
  await why.getByRole("link", { name: "Show the limit" }).click();
  const row = (text) => page.getByRole("row").filter({ hasText: text });
  await row("slow").getByText("1 of 1").waitFor();
  await row("slow").getByText("All taken").waitFor();
  assert.match(page.url(), /\/limits\?function=slow$/);

  await button(page, "Clear").click();
  let dialog = await begin(page, "Pause a key…");
  await dialog.getByRole("combobox", { name: "Function" }).selectOption("hello");
  await dialog.getByLabel("Key of its concurrency").fill("input.name");
  await dialog.getByLabel("Value").fill(EVIL);
  await dialog.getByLabel("Reason").fill("they owe us");
  await button(dialog, "Show me the call").click();
  await dialog.getByRole("tabpanel").getByText(`curl -X POST ${gw.url}/v1/limits/pause`).waitFor();
  await button(dialog, "Let nobody through").click();
  await row(EVIL).getByText("they owe us").waitFor();
  const held = await gw.start("hello", { input: { name: EVIL } });
  await row(EVIL).getByRole("link", { name: /1 runs wait/ }).waitFor();
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    assert.deepEqual(await axe(page), []);
  }
  await row(EVIL).getByRole("button", { name: /^Resume/ }).click();
  await button(page.getByRole("dialog"), "Let them through").click();
  await eventually("it goes on", async () => (await gw.get(`/v1/runs/${held.id}`)).status === "completed");

  await row("slow").getByRole("link", { name: "slow", exact: true }).click();
  dialog = await begin(page, "Pause…");
  await dialog.getByLabel("Reason").fill("a bad deploy");
  await button(dialog, "Pause the function").click();
  await page.getByRole("region", { name: "Why slow is paused" }).getByText("a bad deploy").waitFor();
  await page.getByRole("link", { name: "Its limits" }).click();
  const banner = page.getByRole("region", { name: "Why slow is paused" });
  await banner.getByText("a bad deploy").waitFor();
  assert.deepEqual(await axe(page), []);
  await button(banner, "Resume slow").click();
  await button(page.getByRole("dialog"), "Resume the function").click();
  await banner.waitFor({ state: "detached" });
  await close(page);
});

test("what two nodes have counted is one curve, and what nobody counted is a gap", { skip: missing, timeout: 900_000 }, async () => {
  const real = await gw.get("/v1/metrics/series");
  const end = Math.floor(Date.now() / 10_000) * 10_000;
  const times = { bounds: real.invocation_seconds.bounds, counts: Array.from({ length: 12 }, () => null) };
  const node = (id, started) => ({ ...real, node: id, at: times.counts.map((_, i) => new Date(end - (11 - i) * 10_000).toISOString()), seconds: times.counts.map(() => 10), runs_started: times.counts.map(() => started),
    runs_ended: { completed: times.counts.map(() => 2), [EVIL]: times.counts.map(() => 1) }, invocations: { failed: times.counts.map((_, i) => i) }, attempts: {}, run_seconds: times, limit_wait_seconds: times,
    invocation_seconds: { ...times, counts: times.counts.map((_, i) => (i === 11 ? null : times.bounds.map((_, b) => (b === 5 ? 4 : 0)).concat(0))) }, live: { queued: times.counts.map((_, i) => (i > 5 ? 1204 : null)) } });
  let asked = 0;
  const page = await open(browser, `${gw.url}/settings/gateway`);
  await page.getByRole("list", { name: "Nodes" }).getByText("drives 256 of 256 groups, and answers this page").waitFor();
  // As if a load balancer stood before two nodes.
  await page.route("**/v1/metrics/series*", (route) => route.fulfill({ json: node(`nod_${asked++ % 2}`, 40) }));
  await page.getByRole("link", { name: "Metrics", exact: true }).first().click();
  const value = (chart, name) => page.getByRole("region", { name: chart, exact: true }).getByRole("listitem").filter({ hasText: name });
  await value("Runs", "Started").getByText("40", { exact: true }).waitFor();
  await page.getByText("Counted by the node that answers").waitFor();
  await value("Runs that do not move", "Queued").getByText("1,204").waitFor();
  await value("How long handlers take", "95 %").getByText("49 ms").waitFor();
  assert.equal(await page.getByRole("region", { name: "Wait at limits" }).count(), 0, "nothing waited");
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    assert.deepEqual(await axe(page), []);
  }
  await page.getByText("Counted by the 2 nodes that have answered here").waitFor();
  await value("Runs", "Started").getByText("80", { exact: true }).waitFor();
  await close(page);
});
