// Views of the list of runs that somebody has given a name.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { axe, close, launch, missing, open as openIn } from "./browser.mjs";
import { eventually, gateway } from "./gateway.mjs";
import { EVIL, serve } from "./handler.mjs";
import { button } from "./person.mjs";

const savedTest = (name, body) => test(name, { skip: missing, timeout: 900_000 }, body);
let handler, gw, browser, failed;

before(async () => {
  if (missing) return;
  [handler, gw, browser] = await Promise.all([serve(), gateway(), launch()]);
  await gw.post("/v1/endpoints", { name: "shop", url: `http://127.0.0.1:${handler.address().port}/`, discover: false, functions: ["fails", "hello"].map((name) => ({ name })) });
  failed = await gw.start("fails");
  await gw.start("hello", { input: { name: "Ada" } });
});

after(async () => {
  await browser?.close();
  await gw?.stop();
  handler?.closeAllConnections();
  handler?.close();
});

const open = (path, options) => openIn(browser, gw.url + path, options);
const views = (page) => page.getByRole("dialog", { name: "My views" });
async function show(page) {
  await page.getByRole("button", { name: /^My views?/ }).click();
  await views(page).waitFor();
  return views(page);
}
async function save(page, name) {
  const list = await show(page);
  await list.getByRole("textbox", { name: "A name for what is shown now" }).fill(name);
  await button(list, "Save").click();
  await list.getByText("What is shown is saved as").waitFor();
  await page.keyboard.press("Escape");
  await list.waitFor({ state: "detached" });
}
const query = (page) => decodeURIComponent(new URL(page.url()).search);

savedTest("filters get a name, are chosen by it, renamed and deleted", async () => {
  const page = await open("/runs");
  const empty = await show(page);
  await empty.getByText("Choose some filters").waitFor();
  await empty.getByText("for the namespace default").waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("combobox", { name: "Function" }).selectOption("fails");
  await button(page, "Failed").click();
  await save(page, "Declined");
  await button(page, "My view: Declined").waitFor();
  await page.goto(`${gw.url}/runs?q=${encodeURIComponent(EVIL)}`);
  await save(page, EVIL);
  // They are there after all is closed, and the present one is marked.
  await page.reload();
  let list = await show(page);
  assert.equal(await list.locator("[aria-current=true]").innerText().then((text) => text.split("\n")[0]), EVIL.slice(0, 60));
  await list.getByRole("button", { name: /^Declined/ }).click();
  await page.locator(`#row-${failed.id}`).waitFor();
  assert.equal(query(page), "?function=fails&status=failed&status=timed_out");
  await button(page, "My view: Declined").waitFor();
  // Filters that are left are another view.
  await button(page, "Completed").click();
  list = await show(page);
  assert.equal(await list.locator("[aria-current=true]").count(), 0);
  // No two have one name.
  await button(list, "Rename Declined").click();
  const name = list.getByRole("textbox", { name: "New name of Declined" });
  await name.fill(EVIL.slice(0, 60));
  await list.getByText("Another view has this name.").waitFor();
  await name.fill("Cards");
  await name.press("Enter");
  await button(list, "Rename Cards").waitFor();
  await button(list, `Delete ${EVIL.slice(0, 60)}`).click();
  await button(list, "Delete").click();
  await eventually("one is left", async () => await list.getByRole("button", { name: /^Delete / }).count() === 1);
  await page.keyboard.press("Escape");
  // By the keyboard alone.
  await page.keyboard.press("Control+k");
  await page.getByRole("combobox", { name: "Search" }).fill("cards");
  await page.getByRole("option", { name: /Cards.*My views/ }).waitFor();
  await page.keyboard.press("Enter");
  await button(page, "My view: Cards").waitFor();
  assert.equal(query(page), "?function=fails&status=failed&status=timed_out");
  await page.keyboard.press("v");
  await views(page).waitFor();
  await close(page);
});

savedTest("each namespace has its own, and what is kept may be broken", async () => {
  await gw.post("/v1/namespaces", { name: "acme" });
  const { secret } = await gw.post("/v1/keys", { name: "ada", scopes: ["runs:read"], namespace: "acme" });
  const context = await browser.newContext();
  const page = await openIn(context, `${gw.url}/runs?status=failed`);
  await save(page, "Mine");
  await page.evaluate((key) => sessionStorage.setItem("stepwell.key", key), secret);
  await page.reload();
  const list = await show(page);
  await list.getByText("for the namespace acme").waitFor();
  assert.equal(await list.getByRole("button", { name: /^Delete / }).count(), 0);
  await page.evaluate(() => { localStorage.setItem("stepwell.views.acme", "{broken"); });
  await page.reload();
  await save(page, "Theirs");
  await page.evaluate(() => sessionStorage.clear());
  await page.reload();
  await button(page, "My view: Mine").waitFor();
  await close(page);
  await context.close();
});

for (const colorScheme of ["light", "dark"]) {
  savedTest(`axe finds nothing in saved views, in the ${colorScheme} theme`, async () => {
    const found = [];
    for (const viewport of [{ width: 1280, height: 800 }, { width: 400, height: 800 }]) {
      const page = await open("/runs?status=failed", { colorScheme, viewport });
      await save(page, `In ${colorScheme}`);
      const list = await show(page);
      found.push(...await axe(page));
      await button(list, `Rename In ${colorScheme}`).click();
      found.push(...await axe(page));
      await button(list, "Back").click();
      await button(list, `Delete In ${colorScheme}`).click();
      found.push(...await axe(page));
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth > innerWidth), false);
      await close(page);
    }
    assert.deepEqual(found, []);
  });
}

savedTest("a digit picks runs of a status, O opens one beside the list, Ctrl K pauses and copies the link", async () => {
  const context = await browser.newContext({ permissions: ["clipboard-read", "clipboard-write"] });
  const page = await openIn(context, `${gw.url}/runs`);
  await page.locator("[id^=row-]").nth(1).waitFor();
  await page.keyboard.press("8");
  await eventually("the failed one alone", async () => await page.locator("[id^=row-]").count() === 1);
  assert.equal(query(page), "?status=failed&status=timed_out");
  await page.keyboard.press("j");
  const [other] = await Promise.all([context.waitForEvent("page"), page.keyboard.press("o")]);
  assert.equal(new URL(other.url()).pathname, `/runs/${failed.id}`);
  await other.close();
  const palette = async (text) => {
    await page.keyboard.press("Control+k");
    await page.getByRole("combobox", { name: "Search" }).fill(text);
    await page.getByRole("option", { name: new RegExp(text, "i") }).first().waitFor();
    await page.keyboard.press("Enter");
    await page.getByRole("dialog").waitFor({ state: "detached" });
  };
  await palette("copy the link");
  assert.equal(await eventually("it is copied", () => page.evaluate(() => navigator.clipboard.readText())), page.url());
  await palette("pause what");
  await page.getByTitle("Go on (P)").waitFor();
  await page.keyboard.press("1");
  await page.waitForURL(`${gw.url}/runs`);
  await close(page);
  await context.close();
});
