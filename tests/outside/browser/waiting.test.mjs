// What waits for the world and is settled from the page; how a function does; what a step is known by outside.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { axe, close, launch, missing, open as openIn } from "./browser.mjs";
import { eventually, gateway } from "./gateway.mjs";
import { names, serve } from "./handler.mjs";
import { button, type } from "./person.mjs";

const waitingTest = (name, body) => test(name, { skip: missing, timeout: 900_000 }, body);
let handler, gw, browser, runs;

const becomes = (run, word) => eventually(`${run.function} is ${word}`, async () => (await gw.get(`/v1/runs/${run.id}`)).status === word);

before(async () => {
  if (missing) return;
  [handler, gw, browser] = await Promise.all([serve(), gateway(), launch()]);
  await gw.post("/v1/endpoints", { name: "shop", url: `http://127.0.0.1:${handler.address().port}/`, discover: false, functions: names.map((name) => ({ name })) });
  runs = {
    signal: await gw.start("approval", { key: "order/42" }), form: await gw.start("form", { key: "form-7" }), refused: await gw.start("form", { key: "form-8" }),
    event: await gw.start("paid", { input: { order: 42 }, key: "invoice-7" }),
  };
  await Promise.all(Object.values(runs).map((run) => becomes(run, "waiting")));
});

after(async () => {
  await browser?.close();
  await gw?.stop();
  handler?.closeAllConnections();
  handler?.close();
});

const open = (path, options) => openIn(browser, gw.url + path, options);

waitingTest("what waits is found by its kind, and settled by signals, events and values", async () => {
  const context = await browser.newContext({ permissions: ["clipboard-read", "clipboard-write"] });
  const page = await openIn(context, `${gw.url}/waiting`);
  const row = (text) => page.getByRole("row", { name: text });
  await row(/approved/).waitFor();
  assert.equal(await page.getByRole("row").count(), 5);
  // The address that takes the signal is one that works.
  await row(/approved/).getByRole("button", { name: /^Copy the address/ }).click();
  const address = await eventually("it is copied", () => page.evaluate(() => navigator.clipboard.readText()));
  assert.equal(address, `${gw.url}/v1/functions/approval/keys/order%2F42/signals/approved`);
  await gw.post(new URL(address).pathname, { payload: true });
  await becomes(runs.signal, "completed");
  await page.getByRole("group", { name: "Kind" }).getByRole("button", { name: "Callbacks 2" }).click();
  assert.match(page.url(), /op=callback/);
  await page.getByText("Only its handler knows the address").waitFor();
  await row(/form-7/).getByRole("button", { name: "Complete: form" }).click();
  await type(page, "Value", '{"huge": 3544790567247868102}');
  await button(page, "Record the value").click();
  await becomes(runs.form, "completed");
  assert.equal(await (await fetch(`${gw.url}/v1/runs/${runs.form.id}/values/form`)).text(), '{"huge": 3544790567247868102}');
  await row(/form-7/).waitFor({ state: "detached" });
  await row(/form-8/).getByRole("button", { name: "Fail: form" }).click();
  await page.getByRole("textbox", { name: "Message" }).fill("nobody came");
  await button(page, "Let the step fail").click();
  await becomes(runs.refused, "failed");
  await page.getByText("Nothing that waits is like this.").waitFor();
  await button(page, "Show all").click();
  await page.getByRole("searchbox", { name: "Name, run or key" }).fill("INVOICE");
  await row(/payment.received/).getByRole("button", { name: "Send event: payment.received" }).click();
  await type(page, "Data", '{"order": 42}');
  await button(page, "Send the event").click();
  await becomes(runs.event, "completed");
  await page.waitForURL("**/events/evt_*");
  await close(page);
  await context.close();
});

waitingTest("a function says how its last runs went", async () => {
  for (let n = 0; n < 3; n++) await becomes(await gw.start("hello", { input: { name: "Ada" } }), "completed");
  const page = await open("/functions/hello");
  const lately = page.getByRole("region", { name: "Lately" });
  await lately.getByText("100 %").waitFor();
  await lately.getByText("Of the last 3 runs that ended").waitFor();
  await page.goto(`${gw.url}/functions/fails`);
  await page.getByRole("heading", { name: "fails" }).waitFor();
  assert.equal(await lately.count(), 0);
  await becomes(await gw.start("fails"), "failed");
  await lately.getByText("0 %", { exact: true }).waitFor();
  await lately.getByRole("img", { name: /1 did not complete/ }).waitFor();
  await lately.getByRole("link", { name: "1 did not complete" }).click();
  await page.waitForURL("**/runs?*");
  await page.locator("[data-status=failed]").first().waitFor();
  await close(page);
});

waitingTest("a step says the key that the outside world knows it by", async () => {
  const run = await gw.start("hello", { input: { name: "Ada" } });
  await becomes(run, "completed");
  const page = await open(`/runs/${run.id}?step=greet`);
  await page.getByRole("complementary", { name: "Step greet" }).getByText(`${run.id}.1/greet`, { exact: true }).waitFor();
  await close(page);
});

for (const colorScheme of ["light", "dark"]) {
  waitingTest(`axe finds nothing in these, in the ${colorScheme} theme`, async () => {
    const run = await gw.start("form");
    await Promise.all([becomes(run, "waiting"), becomes(await gw.start("approval"), "waiting"), becomes(await gw.start("fails"), "failed")]);
    const found = [];
    for (const [path, there] of [["/waiting", "Only its handler knows"], ["/waiting?q=none", "Nothing that waits is like this."], ["/functions/fails", "Of the last"], ["/settings/gateway", "groups"]])
      for (const viewport of [{ width: 1280, height: 800 }, { width: 400, height: 800 }]) {
        const page = await open(path, { colorScheme, viewport });
        await page.getByText(there).first().waitFor();
        found.push(...(await axe(page)).map((fault) => `${path}: ${fault}`));
        assert.equal(await page.evaluate(() => document.documentElement.scrollWidth > innerWidth), false, path);
        await close(page);
      }
    assert.deepEqual(found, []);
  });
}
