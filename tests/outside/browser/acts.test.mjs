// What a person does with the dashboard: the first run, every act, a gateway that is killed meanwhile,
// and a gateway below a path that asks for a key.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { close, launch, missing, open } from "./browser.mjs";
import { eventually, gateway } from "./gateway.mjs";
import { broken, names, serve } from "./handler.mjs";
import { begin, button, status, type } from "./person.mjs";
import { below } from "./proxy.mjs";

const browserTest = (name, body) => test(name, { skip: missing, timeout: 900_000 }, body);
/** A test of a gateway that knows the handler. */
const actTest = (name, body) => browserTest(name, async () => {
  await gw.post("/v1/endpoints", { name: "shop", url, discover: false, functions: names.map((f) => ({ name: f })) });
  await body();
});
const dataDir = mkdtempSync(join(tmpdir(), "stepwell-pages-"));
let handler, gw, browser, url;

before(async () => {
  if (missing) return;
  [handler, gw, browser] = await Promise.all([serve(), gateway({ dataDir }), launch()]);
  url = `http://127.0.0.1:${handler.address().port}/`;
});

after(async () => {
  await browser?.close();
  await gw?.stop();
  handler?.closeAllConnections();
  handler?.close();
  rmSync(dataDir, { recursive: true, force: true });
});

const get = (run) => gw.get(`/v1/runs/${run.id}`);
const becomes = (run, word) => eventually(`${run.function} is ${word}`, async () => (await get(run)).status === word);

browserTest("from an empty install to the demo's end, without a handler; then on to one's own", async () => {
  const page = await open(browser, gw.url);
  const demo = page.getByRole("region", { name: "Try it without writing code" });
  await button(demo, "Show me the call").click();
  await demo.getByRole("tabpanel").getByText(`curl -X POST ${gw.url}/v1/demo`).waitFor();
  await button(demo, "Run the demo").click();
  // It fails once, is tried again, sleeps, and then waits for somebody.
  await page.getByRole("region", { name: "Why is it not moving?" }).getByText("approved").waitFor();
  const id = new URL(page.url()).pathname.split("/").at(-1);
  const dialog = await begin(page, "Signal…");
  await button(dialog, "Send the signal").click();
  await status(page, "Completed");
  await page.getByRole("tab", { name: "Input & output" }).click();
  await page.getByText('"Hello, world!"').waitFor();
  assert.equal((await gw.get(`/v1/runs/${id}/steps/fails-once`)).failed_attempts.length, 1);
  await page.getByRole("link", { name: "Overview" }).click();
  await page.getByRole("link", { name: "Start with your own handler" }).click();
  await page.getByRole("heading", { name: "Your first run" }).waitFor();
  await close(page);
});

browserTest("a first run of one's own handler, inside the page", async () => {
  const page = await open(browser, `${gw.url}/?begin=own`);
  await page.getByRole("heading", { name: "Your first run" }).waitFor();
  await page.getByLabel("URL").fill("http://127.0.0.1:1/");
  await button(page, "Try it").click();
  await page.getByRole("list", { name: "What was found" }).getByRole("img", { name: "failed" }).first().waitFor();
  await page.getByLabel("URL").fill(url);
  await page.getByLabel("Name").fill("shop");
  await page.getByLabel("Functions").fill(names.join(", "));
  await button(page, "Register").click();
  await page.getByText("shown this once").waitFor();
  assert.match(await page.locator("code", { hasText: "whsec_" }).first().innerText(), /^whsec_.{20,}/);
  await button(page, "Done").click();
  await page.getByRole("combobox", { name: "Function" }).selectOption("hello");
  await type(page, "Input", '{"name": "Ada", "n": 3544790567247868102}');
  await button(page, "Show me the call").click();
  await page.getByRole("tab", { name: "Python" }).click();
  await page.getByRole("tabpanel").getByText("3544790567247868102").waitFor();
  await button(page, "Start the run").click();
  await status(page, "Completed");
  await page.getByRole("tab", { name: "Input & output" }).click();
  await page.getByText('"Hello, Ada"').waitFor();
  await page.locator("pre[aria-label=input]", { hasText: "3544790567247868102" }).waitFor();
  await close(page);
});

actTest("a signal, from the run and from what waits", async () => {
  const run = await gw.start("approval", { key: "sig-1" });
  const page = await open(browser, `${gw.url}/runs/${run.id}`);
  await status(page, "Waiting");
  let dialog = await begin(page, "Signal…");
  assert.equal(await dialog.getByLabel("Name").inputValue(), "approved");
  await type(page, "Payload", '{"by": 1.0}');
  await button(dialog, "Show me the call").click();
  const call = await dialog.getByRole("tabpanel").innerText();
  assert.match(call, new RegExp(`curl -X POST ${gw.url}/v1/runs/${run.id}/signals/approved`));
  assert.ok(call.includes(`-d '{"payload": {"by": 1.0}}'`), call);
  await button(dialog, "Send the signal").click();
  await status(page, "Completed");
  assert.equal(await (await fetch(`${gw.url}/v1/runs/${run.id}/values/approval`)).text(), '{"by": 1.0}');

  const other = await gw.start("approval", { key: "sig-2" });
  await becomes(other, "waiting");
  await page.goto(`${gw.url}/waiting`);
  await page.getByRole("row", { name: /sig-2/ }).getByRole("button", { name: "Send signal" }).click();
  dialog = page.getByRole("dialog");
  await dialog.locator(".json-editor:not([hidden])").waitFor();
  await button(dialog, "Send the signal").click();
  await becomes(other, "completed");
  await page.getByRole("row", { name: /sig-2/ }).waitFor({ state: "detached" });
  await close(page);
});

actTest("cancel: a bad answer keeps the dialog and what was typed; then it is done", async () => {
  const run = await gw.start("approval", { key: "cancel-1" });
  const page = await open(browser, `${gw.url}/runs/${run.id}`);
  await status(page, "Waiting");
  const dialog = await begin(page, "Cancel");
  await dialog.getByLabel("Reason").fill("a test");
  await dialog.getByLabel("Time to undo").fill("soon");
  await button(dialog, "Cancel the run").click();
  await dialog.getByRole("alert").getByText("grace").first().waitFor();
  assert.equal(await dialog.getByLabel("Reason").inputValue(), "a test");
  await dialog.getByLabel("Time to undo").fill("30s");
  await page.keyboard.press("Control+Enter");
  await status(page, "Cancelled");
  await page.goto(`${gw.url}/runs/${run.id}?tab=journal&form=full`);
  await page.getByText("a test").first().waitFor();
  await close(page, /422/);
});

actTest("terminate, pause and resume", async () => {
  const run = await gw.start("naps");
  const page = await open(browser, `${gw.url}/runs/${run.id}`);
  await status(page, "Waiting");
  await button(await begin(page, "Pause"), "Pause the run").click();
  await status(page, "Paused");
  await page.getByRole("region", { name: "Why is it not moving?" }).getByText("Somebody paused it").waitFor();
  await button(await begin(page, "Resume"), "Resume the run").click();
  await status(page, "Waiting");
  await button(await begin(page, "Terminate"), "Terminate the run").click();
  await status(page, "Terminated");
  await close(page);
});

actTest("retry now, a step completed and a step failed by hand", async () => {
  const [first, second] = [await gw.start("flaky"), await gw.start("flaky")];
  await eventually("it has failed some times", async () => (await gw.get(`/v1/runs/${first.id}/steps/charge`)).attempts >= 5);
  const page = await open(browser, `${gw.url}/runs/${first.id}?step=charge`);
  await status(page, "Retrying");
  const { attempts } = await gw.get(`/v1/runs/${first.id}/steps/charge`);
  await button(await begin(page, "Retry now"), "Retry now").click();
  await eventually("another attempt", async () => (await gw.get(`/v1/runs/${first.id}/steps/charge`)).attempts > attempts);
  const dialog = await begin(page, "Complete…");
  await type(page, "Value", '"paid by hand"');
  await button(dialog, "Record the value").click();
  await status(page, "Completed");
  await page.getByRole("complementary", { name: "Step charge" }).getByText('"paid by hand"').waitFor();

  await page.goto(`${gw.url}/runs/${second.id}?step=charge`);
  await status(page, "Retrying");
  // The run is there before its steps are.
  await button(page, "Fail…").waitFor();
  await button(await begin(page, "Fail…"), "Let the step fail").click();
  await page.getByRole("complementary", { name: "Step charge" }).getByText("failed by an operator").first().waitFor();
  await close(page);
});

actTest("rewind under the same id, and run again from a step", async () => {
  broken.now = true;
  const run = await gw.start("brittle");
  await gw.post(`/v1/runs/${run.id}/steps/charge/fail`, { error: { message: "no funds" }, unasked: true }).catch(() => null);
  await becomes(run, "failed");
  broken.now = false;
  const page = await open(browser, `${gw.url}/runs/${run.id}`);
  await status(page, "Failed");
  await page.getByRole("region", { name: "How it ended" }).getByText("no funds").waitFor();
  await button(await begin(page, "Rewind"), "Rewind the run").click();
  await status(page, "Completed");

  const dialog = await begin(page, "Run again…");
  await dialog.getByLabel("Run again from").selectOption("charge");
  await dialog.getByText("Run again: charge and what follows.").waitFor();
  await button(dialog, "Start the new run").click();
  await eventually("it leads to the new run", () => !page.url().includes(run.id));
  await status(page, "Completed");
  await page.getByRole("tab", { name: "Family" }).click();
  await page.getByRole("link", { name: run.id }).waitFor();
  await close(page);
});

actTest("payloads are erased for good, and the page says so", async () => {
  const run = await gw.start("brittle", { key: "forget-me", input: { card: "4242" } });
  await becomes(run, "completed");
  const page = await open(browser, `${gw.url}/runs/${run.id}?tab=io`);
  await page.getByText("4242").first().waitFor();
  await button(await begin(page, "Erase payloads…"), "Erase them for good").click();
  await page.getByText("What was said to this run and by it was erased.").waitFor();
  assert.equal(await button(page, "Run again…").count(), 0, "there is nothing to do again");
  await page.getByRole("tab", { name: "Details" }).click();
  await page.getByText("Payloads erased").waitFor();
  await close(page);
});

actTest("an endpoint: tried, disabled, enabled, removed", async () => {
  await gw.post("/v1/endpoints", { name: "spare", url, discover: false, functions: [{ name: "spare" }] });
  const page = await open(browser, `${gw.url}/endpoints`);
  await page.getByRole("link", { name: "spare" }).click();
  await button(page, "Try it").click();
  await page.getByRole("list", { name: "What was found" }).waitFor();
  await button(await begin(page, "Disable"), "Disable").click();
  await page.getByText("Disabled", { exact: true }).waitFor();
  await button(await begin(page, "Enable"), "Enable").click();
  await page.getByText("Healthy", { exact: true }).waitFor();
  await button(await begin(page, "Remove"), "Remove the endpoint").click();
  await page.getByRole("heading", { name: "Endpoints" }).waitFor();
  await page.getByRole("link", { name: "spare" }).waitFor({ state: "detached" });
  // The page may have asked for it once more while it went away.
  await close(page, /404/);
});

actTest("below a path and with a key: sign in, and everything is found", async () => {
  const { secret } = await gw.post("/v1/keys", { name: "browser", scopes: ["admin"] });
  const run = await gw.start("approval", { key: "below" });
  await becomes(run, "waiting");
  const proxy = await below("/tools/stepwell", gw.url);
  const page = await open(browser, `${proxy.url}/runs/${run.id}?step=charge`);
  await page.getByRole("heading", { name: "Sign in to Stepwell" }).waitFor();
  await page.getByLabel("API key").fill("sw_nonsense");
  await button(page, "Sign in").click();
  await page.getByRole("alert").waitFor();
  await page.getByLabel("API key").fill(secret);
  await button(page, "Sign in").click();
  await status(page, "Waiting");
  await page.getByRole("complementary", { name: "Step charge" }).getByText('"charged": 42').waitFor();
  assert.equal(await page.getByText(secret).count(), 0);
  await page.getByRole("link", { name: "Endpoints" }).click();
  await page.getByRole("link", { name: "shop" }).click();
  await page.waitForURL(`${proxy.url}/endpoints/shop`);
  await page.reload();
  await page.getByRole("heading", { name: "Deployments" }).waitFor();
  await page.getByRole("link", { name: "Runs", exact: true }).first().click();
  await page.locator(`#row-${run.id}`).click();
  await status(page, "Waiting");
  await button(await begin(page, "Terminate"), "Terminate the run").click();
  await status(page, "Terminated");
  await page.getByRole("link", { name: "API reference" }).click();
  await page.locator("h2", { hasText: "/v1/functions/{name}/runs" }).first().waitFor();
  assert.equal(page.url(), `${proxy.url}/docs`);
  await page.goto(`${proxy.url}/problems/run-exists`);
  await page.getByRole("link", { name: "Dashboard" }).click();
  await page.getByRole("heading", { name: "Needs a look" }).waitFor();
  await close(page, /401/);
  proxy.close();
});

actTest("a gateway that is killed and comes back: the pages recover by themselves", async () => {
  const run = await gw.start("approval", { key: "survives" });
  await becomes(run, "waiting");
  const [one, list] = [await open(browser, `${gw.url}/runs/${run.id}`), await open(browser, `${gw.url}/runs`)];
  await status(one, "Waiting");
  await list.locator(`#row-${run.id}`).waitFor();
  await gw.kill();
  await one.getByText("The gateway is away").waitFor({ state: "attached" });
  await list.getByRole("alert").getByText("does not answer").waitFor();
  await status(one, "Waiting");
  await gw.again();
  await gw.post(`/v1/runs/${run.id}/signals/approved`, { payload: "again" });
  await status(one, "Completed");
  await list.locator(`#row-${run.id} [data-status=completed]`).waitFor();
  await list.getByRole("alert").waitFor({ state: "detached" });
  await close(one, /ERR_|502|503/);
  await close(list, /ERR_|502|503/);
});
