// An object as a person meets it: who has it, who waits, its state, and that written by hand.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { axe, close, launch, missing, open } from "./browser.mjs";
import { eventually, gateway } from "./gateway.mjs";
import { serve } from "./handler.mjs";
import { begin, button, type } from "./person.mjs";

let handler, gw, browser;

before(async () => {
  if (missing) return;
  [handler, gw, browser] = await Promise.all([serve(), gateway(), launch()]);
  await gw.post("/v1/endpoints", { name: "shop", url: `http://127.0.0.1:${handler.address().port}/`, discover: false, functions: [{ name: "cart", kind: "object" }] });
});

after(async () => {
  await browser?.close();
  await gw?.stop();
  handler?.closeAllConnections();
  handler?.close();
});

test("an object shows its holder, its queue and its state, which can be written while nobody has it", { skip: missing, timeout: 900_000 }, async () => {
  const first = await gw.start("cart", { key: "ada/1", input: { item: "a book" } });
  await eventually("it waits", async () => (await gw.get(`/v1/runs/${first.id}`)).status === "waiting");
  const second = await gw.start("cart", { key: "ada/1", input: { item: "a pen" } });
  const page = await open(browser, `${gw.url}/functions/cart`);
  await page.getByText("No object has a state yet.").waitFor();
  await page.getByLabel("Key of an object").fill("ada/1");
  await button(page, "Open").click();
  const who = page.getByRole("region", { name: "Who has it" });
  await who.getByText(first.id).waitFor();
  await who.getByText("1 run waits for it").waitFor();
  assert.ok(await button(page, "Edit the state…").isDisabled());
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    assert.deepEqual(await axe(page), []);
  }
  await gw.post(`/v1/runs/${first.id}/signals/go`);
  await who.getByText(second.id).waitFor();
  await page.getByLabel("state", { exact: true }).getByText('"a book"').waitFor();
  await gw.post(`/v1/runs/${second.id}/signals/go`);
  await who.getByText("No run has it.").waitFor();
  const dialog = await begin(page, "Edit the state…");
  await type(page, "State", '{"items": [3544790567247868102]}');
  await button(dialog, "Show me the call").click();
  assert.match(await dialog.getByRole("tabpanel").innerText(), /curl -X PUT \S+\/v1\/objects\/cart\/ada%2F1 [^]*-H 'if-match: "/);
  await button(dialog, "Write the state").click();
  await page.getByLabel("state", { exact: true }).getByText("3544790567247868102").waitFor();
  await page.reload();
  await page.getByLabel("state", { exact: true }).getByText("3544790567247868102").waitFor();
  await page.getByRole("link", { name: "cart", exact: true }).first().click();
  await page.getByRole("list", { name: "Objects" }).getByRole("link", { name: "ada/1" }).waitFor();
  await close(page);
});
