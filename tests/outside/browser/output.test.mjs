// What runs put out, live: it follows the end until somebody reads, and holds still then.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { axe, close, launch, missing, open as openIn } from "./browser.mjs";
import { eventually, gateway } from "./gateway.mjs";
import { EVIL, names, serve } from "./handler.mjs";
import { button, status } from "./person.mjs";

const outputTest = (name, body) => test(name, { skip: missing, timeout: 900_000 }, body);
let handler, gw, browser;

before(async () => {
  if (missing) return;
  [handler, gw, browser] = await Promise.all([serve(), gateway(), launch()]);
  await gw.post("/v1/endpoints", { name: "shop", url: `http://127.0.0.1:${handler.address().port}/`, discover: false, functions: names.map((name) => ({ name })) });
});

after(async () => {
  await browser?.close();
  await gw?.stop();
  handler?.closeAllConnections();
  handler?.close();
});

const open = (path, options) => openIn(browser, gw.url + path, options);
/** Lets it put something out. */
const say = (run, what) => gw.post(`/v1/runs/${run.id}/signals/say`, { payload: what });
const talks = async (...said) => {
  const run = await gw.start("talks");
  for (const what of said) await say(run, what);
  return run;
};
const box = (page) => page.getByTestId("output");
const rest = (page) => box(page).evaluate((at) => Math.round(at.scrollHeight - at.clientHeight - at.scrollTop));
/** The lines in sight, and where they stand. */
const stands = (page) => box(page).evaluate((at) => {
  const top = at.getBoundingClientRect().top;
  return [...at.querySelectorAll("[data-index]")].map((row) => [row.textContent, Math.round(row.getBoundingClientRect().top - top)]).filter(([, y]) => y >= 0 && y < at.clientHeight);
});

outputTest("what comes is followed at the end, and nothing moves under somebody who reads", async () => {
  const run = await gw.start("talks");
  const page = await open(`/runs/${run.id}`);
  await status(page, "Waiting");
  assert.equal(await page.getByRole("tab", { name: "Live output" }).count(), 0);
  await say(run, { lines: 300 });
  await page.getByRole("tab", { name: "Live output" }).click();
  await page.getByText("line 299", { exact: true }).waitFor();
  await say(run, { lines: 100, from: 300 });
  await page.getByText("line 399", { exact: true }).waitFor();
  await eventually("it is at the end", async () => await rest(page) <= 8);
  // Somebody goes up to read.
  await box(page).hover();
  await page.mouse.wheel(0, -2500);
  await page.getByRole("button", { name: "To the end" }).waitFor();
  await eventually("it has come to rest", async () => { const was = JSON.stringify(await stands(page)); await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))); return was === JSON.stringify(await stands(page)); });
  const before = await stands(page);
  assert.ok(before.length > 5);
  await say(run, { lines: 250, from: 400 });
  await button(page, "250 new").waitFor();
  assert.deepEqual(await stands(page), before);
  await button(page, "250 new").click();
  await page.getByText("line 649", { exact: true }).waitFor();
  await eventually("it is at the end again", async () => await rest(page) <= 8);
  await page.getByText("Live, at the end.").waitFor();
  // Paused, nothing comes; then all of it.
  await page.keyboard.press("p");
  await page.getByText("Paused: what comes").waitFor();
  await say(run, { lines: 1, from: 650 });
  await say(run, { end: true });
  await eventually("it has ended", async () => (await gw.get(`/v1/runs/${run.id}`)).status === "completed");
  assert.equal(await page.getByText("line 650", { exact: true }).count(), 0);
  await page.keyboard.press("p");
  await page.getByText("line 650", { exact: true }).waitFor();
  await page.getByText("That is all: the run has ended.").waitFor();
  await close(page);
});

outputTest("text runs on, JSON stays what it is, markup is text; streams are apart", async () => {
  const run = await talks({ text: "Once upon " }, { text: "a time\n" }, { json: { who: EVIL } }, { stream: EVIL, text: EVIL });
  const page = await open(`/runs/${run.id}?tab=output`);
  await page.getByText("Once upon a time", { exact: true }).waitFor();
  await box(page).getByText(JSON.stringify(EVIL).slice(1, -1)).waitFor();
  await button(page, "Chunks").click();
  await page.getByText("a time", { exact: true }).waitFor();
  assert.match(page.url(), /as=chunks/);
  await page.getByRole("group", { name: "Output streams" }).getByRole("button", { name: "<script>" }).click();
  await box(page).getByText(EVIL).waitFor();
  assert.equal(await page.locator("main script, main img").count(), 0);
  await page.reload();
  await box(page).getByText(EVIL).waitFor();
  await close(page);
});

outputTest("a hundred thousand lines and one of a million characters are a screenful of rows, and a file", async () => {
  const run = await talks({ stream: "long", wide: 1_000_000 });
  for (let n = 0; n < 20; n++) await say(run, { lines: 5000, from: n * 5000 });
  await say(run, { end: true });
  await eventually("it has ended", async () => (await gw.get(`/v1/runs/${run.id}`)).status === "completed");
  const page = await open(`/runs/${run.id}?tab=output&output=answer`);
  await page.getByText("That is all: the run has ended.").waitFor();
  await page.getByText("100,000 chunks").waitFor();
  // What has ended is read from its beginning.
  await page.getByText("line 0", { exact: true }).waitFor();
  assert.equal(await page.getByRole("button", { name: /new$/ }).count(), 0);
  await box(page).focus();
  await page.keyboard.press("End");
  await page.getByText("line 99999", { exact: true }).waitFor();
  assert.ok(await box(page).locator("[data-index]").count() < 150);
  const file = async () => {
    const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: /^Download as/ }).click()]);
    return [download.suggestedFilename(), readFileSync(await download.path(), "utf8")];
  };
  const [name, text] = await file();
  assert.equal(name, `${run.id}-answer.txt`);
  assert.equal(text, Array.from({ length: 100_000 }, (_, n) => `line ${n}\n`).join(""));
  await button(page, "Chunks").click();
  const [, lines] = await file();
  assert.equal(lines.trimEnd().split("\n").length, 100_000);
  assert.deepEqual(Object.keys(JSON.parse(lines.split("\n")[0])), ["n", "at", "data"]);
  await page.goto(`${gw.url}/runs/${run.id}?tab=output&output=long`);
  await page.getByText("xxxx").first().waitFor();
  await box(page).focus();
  await page.keyboard.press("End");
  await page.getByText(/x+end$/).waitFor();
  assert.ok(await box(page).locator("[data-index]").count() < 150);
  await close(page);
});

for (const colorScheme of ["light", "dark"]) {
  outputTest(`axe finds nothing in the output, in the ${colorScheme} theme`, async () => {
    const run = await talks({ lines: 200 }, { stream: "scores", json: { n: 1 } });
    const found = [];
    for (const viewport of [{ width: 1280, height: 800 }, { width: 400, height: 800 }]) {
      const page = await open(`/runs/${run.id}?tab=output`, { colorScheme, viewport });
      await page.getByText("line 199", { exact: true }).waitFor();
      await box(page).evaluate((at) => at.scrollTo(0, 0));
      await page.getByRole("button", { name: "To the end" }).waitFor();
      for (const form of ["Chunks", "Text"]) {
        await button(page, form).click();
        found.push(...await axe(page));
      }
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth > innerWidth), false);
      await close(page);
    }
    const page = await open(`/runs/${(await gw.start("hello", { input: { name: "Ada" } })).id}?tab=output`, { colorScheme });
    await page.getByText("It has put nothing out").waitFor();
    found.push(...await axe(page));
    await close(page);
    assert.deepEqual(found, []);
  });
}
