// Somebody reads the list while runs start and end as fast as the gateway can: nothing moves under them.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { close, launch, missing, open } from "./browser.mjs";
import { eventually, gateway } from "./gateway.mjs";
import { serve } from "./handler.mjs";

/** How long it is read, and how many starts are under way at a time. */
const SECONDS = Number(process.env.SECONDS ?? 6);
const AT_ONCE = 24;
const browserTest = (name, body) => test(name, { skip: missing, timeout: 900_000 }, body);
let handler, gw, browser;

before(async () => {
  if (missing) return;
  [handler, gw, browser] = await Promise.all([serve(), gateway(), launch()]);
  await gw.post("/v1/endpoints", { name: "shop", url: `http://127.0.0.1:${handler.address().port}/`, discover: false, functions: ["hello", "approval"].map((name) => ({ name })) });
});

after(async () => {
  await browser?.close();
  await gw?.stop();
  handler?.closeAllConnections();
  handler?.close();
});

/** Starts runs until it is told to stop; gives how many. */
function busily() {
  let on = true, started = 0;
  const one = async () => {
    while (on) {
      await gw.start("hello", { input: { name: "Ada" } });
      started += 1;
    }
  };
  const all = Promise.all(Array.from({ length: AT_ONCE }, one));
  return { stop: async () => { on = false; await all; return started; } };
}

browserTest("while everything changes, scroll, focus and selection stay, and the page answers", async () => {
  // What is read: runs that wait, under which others will pile up.
  for (let n = 0; n < 120; n++) await gw.start("approval", { key: `read-${n}` });
  const page = await open(browser, `${gw.url}/runs`);
  const list = page.getByTestId("runs");
  await list.locator("a", { hasText: "read-119" }).waitFor();
  await list.evaluate((box) => { box.scrollTop = 1200; });
  await list.locator("a", { hasText: "read-85" }).waitFor();
  // One row has the focus, the text of another is selected.
  await list.locator("a", { hasText: "read-84" }).focus();
  await list.locator("a", { hasText: "read-82" }).evaluate((row) => getSelection().selectAllChildren(row.querySelector("code")));
  const stands = () => page.evaluate(() => {
    const box = document.querySelector("[data-testid=runs]");
    const top = box.getBoundingClientRect().top;
    const at = [...box.querySelectorAll("a")].map((row) => [row.querySelector("code")?.textContent, Math.round(row.getBoundingClientRect().top - top)]);
    return { scroll: box.scrollTop, focus: document.activeElement.querySelector("code")?.textContent, selected: String(getSelection()), rows: at.filter(([name, y]) => name && y > 0 && y < 500) };
  });
  const before = await stands();
  assert.equal(before.focus, "read-84");
  assert.equal(before.selected, "read-82");
  await page.evaluate(() => {
    window.slow = [];
    new PerformanceObserver((seen) => window.slow.push(...seen.getEntries().map((task) => task.duration))).observe({ type: "longtask" });
  });
  const began = Date.now();
  const load = busily();
  await page.getByText("new runs").waitFor();
  let polls = 0;
  page.on("response", (response) => { polls += Number(new URL(response.url()).pathname === "/v1/runs"); });
  await eventually("it was read for a while", () => Date.now() - began > SECONDS * 1000 && polls > 1);
  assert.deepEqual(await stands(), before);
  const started = await load.stop();
  const seconds = (Date.now() - began) / 1000;
  const slow = await page.evaluate(() => window.slow);
  console.log(`# ${Math.round(started / seconds)} runs a second started and ended; tasks of the page over 50 ms: ${slow.length}, the longest ${Math.round(Math.max(0, ...slow))} ms`);
  assert.deepEqual(await stands(), before);
  // What was held back is there when it is wanted, without a gap: the newest page, and what is below it.
  await page.getByText("new runs").click();
  await eventually("the newest is on top", async () => (await list.evaluate((box) => box.scrollTop)) === 0 && await list.locator("a", { hasText: "hello" }).count() > 10);
  const ids = new Set();
  for (let n = 0; n < 8; n++) {
    for (const id of await list.locator("a").evaluateAll((rows) => rows.map((row) => row.id.slice(4)))) ids.add(id);
    await list.evaluate((box) => { box.scrollTop += 600; });
    await page.waitForFunction((y) => document.querySelector("[data-testid=runs]").scrollTop >= y, 600 * n);
    await page.evaluate(() => new Promise(requestAnimationFrame));
  }
  const newest = [...ids].sort().reverse();
  const there = [];
  for (let cursor = ""; !there.includes(newest.at(-1));) {
    const part = await gw.get(`/v1/runs?limit=200${cursor && `&cursor=${cursor}`}`);
    there.push(...part.data.map((run) => run.id));
    cursor = part.next_cursor;
  }
  const from = there.indexOf(newest[0]);
  assert.deepEqual(newest, there.slice(from, from + newest.length));
  await close(page);
});
