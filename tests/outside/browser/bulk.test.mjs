// Many runs at once as a person meets them: chosen or filtered, counted before anything is done, followed to
// the end; and what went wrong, put together.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { axe, close, launch, missing, open } from "./browser.mjs";
import { eventually, gateway } from "./gateway.mjs";
import { EVIL, serve } from "./handler.mjs";
import { begin, button } from "./person.mjs";

let handler, gw, browser;

before(async () => {
  if (missing) return;
  [handler, gw, browser] = await Promise.all([serve(), gateway(), launch()]);
  await gw.post("/v1/endpoints", { name: "shop", url: `http://127.0.0.1:${handler.address().port}/`, discover: false, functions: ["approval", "fails"].map((name) => ({ name })) });
});

after(async () => {
  await browser?.close();
  await gw?.stop();
  handler?.closeAllConnections();
  handler?.close();
});

const both = async (page) => {
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    assert.deepEqual(await axe(page), []);
  }
};

test("runs are chosen or filtered, counted, acted on, and followed to the end", { skip: missing, timeout: 900_000 }, async () => {
  for (let i = 0; i < 5; i++) await gw.start("approval", { key: `order-${i}`, input: {} });
  const count = async (status) => (await gw.get(`/v1/runs?function=approval&status=${status}`)).data.length;
  await eventually("all wait", async () => (await count("waiting")) === 5);
  const page = await open(browser, `${gw.url}/runs`);
  await page.getByLabel("Choose order-3").check();
  await page.getByRole("toolbar").getByText("1 chosen").waitFor();
  await page.getByLabel("Choose order-1").click({ modifiers: ["Shift"] });
  await page.getByRole("toolbar").getByText("3 chosen").waitFor();
  await page.getByLabel("Choose order-2").uncheck();
  await page.getByRole("toolbar").getByText("2 chosen").waitFor();
  await page.keyboard.press("j");
  await page.keyboard.press("x");
  await page.getByRole("toolbar").getByText("3 chosen").waitFor();
  assert.ok(await page.getByLabel("Choose order-4").isChecked());
  await page.keyboard.press("x");
  await page.getByRole("toolbar").getByText("2 chosen").waitFor();
  await both(page);
  let dialog = await begin(page, "Cancel…");
  await dialog.getByText("It would touch 2 runs.").waitFor();
  assert.equal(await count("waiting"), 5, "nothing has been done");
  await dialog.getByLabel("Reason").fill(EVIL);
  await button(dialog, "Show me the call").click();
  await dialog.getByRole("tabpanel").getByText(`curl -X POST ${gw.url}/v1/bulk`).waitFor();
  await button(dialog, "Cancel them").click();
  const progress = page.getByRole("region", { name: "How far it is" });
  await page.locator('[data-state="completed"]').waitFor();
  await progress.getByText("2", { exact: true }).waitFor();
  await page.getByText(EVIL).waitFor();
  await both(page);

  await page.goto(`${gw.url}/runs?function=approval&status=waiting`);
  await button(page, "All that match…").click();
  await page.getByRole("menuitem", { name: "Signal…" }).click();
  dialog = page.getByRole("dialog");
  await dialog.getByLabel("Name").fill("approved");
  await dialog.getByText("It would touch 3 runs.").waitFor();
  await button(dialog, "Send the signals").click();
  await page.locator('[data-state="completed"]').waitFor();
  await eventually("they have gone on", async () => (await count("completed")) === 3);
  await page.getByRole("link", { name: "Bulk operations" }).first().click();
  await page.getByRole("list", { name: "Bulk operations" }).getByText("3 done").waitFor();
  assert.equal(await page.getByRole("list", { name: "Bulk operations" }).getByRole("listitem").count(), 2);
  await both(page);
  await close(page);
});

test("what went wrong is put together, and all of it is done again", { skip: missing, timeout: 900_000 }, async () => {
  for (let i = 0; i < 3; i++) await gw.start("fails", { key: `card-${i}` });
  await eventually("they have failed", async () => (await gw.get("/v1/runs?function=fails&status=failed")).data.length === 3);
  const page = await open(browser, `${gw.url}/errors`);
  const group = page.getByRole("list", { name: "Errors" }).getByRole("listitem").filter({ hasText: "CardDeclined" });
  await group.getByText("The card was declined.").waitFor();
  await group.getByRole("img", { name: "3 runs in the last 24 hours, most of them in the last hour" }).waitFor();
  await both(page);
  await group.getByRole("link").click();
  await page.getByLabel("The message of one of them").getByText("The card was declined.").waitFor();
  await both(page);
  // From one of its runs back to all of them, and to them in the list.
  await page.getByRole("list", { name: "Runs" }).getByText("card-1").click();
  await page.getByRole("region", { name: "How it ended" }).getByRole("link", { name: "Others like it" }).click();
  await page.getByRole("link", { name: "All of them" }).click();
  await button(page, /^Remove the filter fingerprint/).waitFor();
  await page.getByLabel("Choose card-2").waitFor();
  await page.goBack();
  const dialog = await begin(page, "Run again…");
  await dialog.getByText("It would touch 3 runs.").waitFor();
  await button(dialog, "Start them again").click();
  await page.locator('[data-state="completed"]').waitFor();
  await eventually("all have failed again", async () => (await gw.get("/v1/runs?function=fails&status=failed")).data.length === 6);
  await close(page);
});

test("an error is resolved until it comes back, and ignored", { skip: missing, timeout: 900_000 }, async () => {
  await gw.start("fails", { key: "card-back" });
  const kind = async () => (await gw.get("/v1/errors?function=fails")).data[0];
  await eventually("it has failed", async () => await kind());
  const page = await open(browser, `${gw.url}/errors`);
  const states = page.getByRole("navigation", { name: "State" });
  const group = page.getByRole("list", { name: "Errors" }).getByRole("listitem").filter({ hasText: "CardDeclined" });
  await group.getByRole("link").click();
  let dialog = await begin(page, "Resolve…");
  await dialog.getByLabel("Reason").fill(EVIL);
  await button(dialog, "Show me the call").click();
  await dialog.getByRole("tabpanel").getByText(`curl -X POST ${gw.url}/v1/errors/`).waitFor();
  await dialog.getByRole("tab", { name: "CLI" }).click();
  await dialog.getByRole("tabpanel").getByText("stepwell error resolve").waitFor();
  await both(page);
  await button(dialog, "Resolve it").click();
  const made = page.getByRole("region", { name: "What was made of it" });
  await made.getByText("It is resolved, until it comes back").waitFor();
  await made.getByText(EVIL).waitFor();
  await both(page);
  assert.equal((await kind()).state, "resolved");

  // It is in its own list, which is in the address, and in no other.
  await page.goto(`${gw.url}/errors`);
  await page.getByText("Nothing that is open has gone wrong.").waitFor();
  await states.getByRole("link", { name: "Resolved" }).click();
  await group.getByText("The card was declined.").waitFor();
  await page.waitForURL(/state=resolved/);
  await page.reload();
  await group.waitFor();
  assert.equal(await states.getByRole("link", { name: "Resolved" }).getAttribute("aria-current"), "page");
  await both(page);

  // A run fails by it again.
  await gw.start("fails", { key: "card-again" });
  await eventually("it is back", async () => (await kind()).state === "open");
  await states.getByRole("link", { name: "Open" }).click();
  await group.getByText("Came back").waitFor();
  await both(page);
  await group.getByRole("link").click();
  await made.getByText("It came back").waitFor();
  await both(page);

  dialog = await begin(page, "Ignore…");
  await button(dialog, "Ignore it").click();
  await made.getByText("It is ignored").waitFor();
  await both(page);
  await gw.start("fails", { key: "card-more" });
  await eventually("one more has failed", async () => (await gw.get("/v1/runs?key=card-more&status=failed")).data.length === 1);
  assert.equal((await kind()).state, "ignored");
  // The overview asks nobody to look at it.
  await page.goto(`${gw.url}/`);
  await page.getByText("nothing has failed in the last 24 hours but by errors that are ignored").waitFor();
  await both(page);
  await page.getByRole("region", { name: "Needs a look" }).getByRole("link", { name: "ignored" }).click();
  await group.getByRole("link").click();
  dialog = await begin(page, "Reopen…");
  await button(dialog, "Reopen it").click();
  await made.waitFor({ state: "detached" });
  assert.deepEqual(await kind().then((e) => [e.state, e.ignored_at, e.returned_at]), ["open", null, null]);
  await close(page);
});
