// What went over the wire to an endpoint: listed live, opened, and not moved while it is read.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { close, launch, missing, open as openIn } from "./browser.mjs";
import { eventually, gateway } from "./gateway.mjs";
import { EVIL, names, serve } from "./handler.mjs";
import { button } from "./person.mjs";

const browserTest = (name, body) => test(name, { skip: missing, timeout: 300_000 }, body);
let handler, gw, browser;

before(async () => {
  if (missing) return;
  [handler, gw, browser] = await Promise.all([serve(), gateway(), launch()]);
  const url = `http://127.0.0.1:${handler.address().port}/`;
  await gw.post("/v1/endpoints", { name: "shop", url, discover: false, headers: { "x-pass": "hunter2" }, functions: names.map((name) => ({ name })) });
});

after(async () => {
  await browser?.close();
  await gw?.stop();
  handler?.closeAllConnections();
  handler?.close();
});

const ended = async (name, body) => {
  const run = await gw.start(name, body);
  await eventually("it has been invoked", async () => (await gw.get("/v1/endpoints/shop/invocations")).data.some((i) => i.run === run.id));
  return run;
};

browserTest("an endpoint shows its last invocations, each as it went over the wire", async () => {
  const page = await openIn(browser, gw.url + "/endpoints/shop", {});
  const section = page.getByRole("region", { name: "Last invocations" });
  await section.getByText("Nothing was sent there yet.").waitFor();
  await ended("hello", { input: { name: EVIL } });
  const rows = section.getByRole("list", { name: "Invocations" }).getByRole("listitem");
  await rows.filter({ hasText: "200 answered" }).first().waitFor();
  await rows.first().getByRole("button").click();
  const body = section.locator("pre[aria-label='the request’s body']");
  await body.getByText("<script>").first().waitFor();
  const text = await section.textContent();
  assert.ok(text.includes("(hidden)") && !text.includes("hunter2"), "the registration's header is hidden");
  assert.match(await body.textContent(), /"token": "…"/);
  assert.equal(await page.locator("main script, main img").count(), 0);
  await section.getByRole("heading", { name: /Answer 200/ }).waitFor();
  // The link leads back to the same invocation.
  await page.reload();
  await body.waitFor();

  // Who reads is not moved: what is newer waits above.
  const before = await rows.count();
  const failing = await ended("broken");
  await button(section, /newer/).waitFor();
  assert.equal(await rows.count(), before);
  await button(section, /newer/).click();
  await rows.filter({ hasText: "500 failed" }).first().getByText("the handler answered 500").waitFor();
  await button(section, "Failed").click();
  await rows.filter({ hasText: "200 answered" }).first().waitFor({ state: "detached" });
  await rows.first().getByRole("button").click();
  await section.locator("pre[aria-label='the answer’s body']").getByText("out of order").waitFor();
  await rows.first().getByRole("link").click();
  await page.waitForURL((url) => url.pathname === `/runs/${failing.id}`);
  await close(page);
});
