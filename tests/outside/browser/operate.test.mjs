// What somebody does who runs functions: events, deployments, tasks and calls, runs with other values,
// a form from a schema, keys and secrets.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { close, launch, missing, open as openIn } from "./browser.mjs";
import { eventually, gateway } from "./gateway.mjs";
import { EVIL, manifest, names, serve } from "./handler.mjs";
import { begin, button, status, type } from "./person.mjs";

const browserTest = (name, body) => test(name, { skip: missing, timeout: 900_000 }, body);
let handler, gw, browser, url;

before(async () => {
  if (missing) return;
  [handler, gw, browser] = await Promise.all([serve(), gateway(), launch()]);
  url = `http://127.0.0.1:${handler.address().port}/`;
  await gw.post("/v1/endpoints", { name: "shop", url, discover: false, functions: names.map((name) => ({ name })) });
  await gw.post("/v1/endpoints", { name: "mail", url: `${url}mail` });
});

after(async () => {
  await browser?.close();
  await gw?.stop();
  handler?.closeAllConnections();
  handler?.close();
});

const open = (path, options) => openIn(browser, gw.url + path, options);
const becomes = (run, word) => eventually(`${run.function} is ${word}`, async () => (await gw.get(`/v1/runs/${run.id}`)).status === word);
const step = (page, id) => page.getByRole("complementary", { name: `Step ${id}` });

browserTest("an event: sent, exact, and with what it came to", async () => {
  const waiting = await gw.start("paid", { input: { order: 42 }, key: "order-42" });
  await becomes(waiting, "waiting");
  const page = await open("/events");
  await page.getByText("No events yet.").waitFor();
  let dialog = await begin(page, "Send event");
  await dialog.getByLabel("Name").fill("user.signed-up");
  await type(page, "Data", `{"plan": "pro", "huge": 3544790567247868102, "evil": ${JSON.stringify(EVIL)}}`);
  await dialog.getByLabel("Source", { exact: true }).fill(EVIL);
  await button(dialog, "Show me the call").click();
  await dialog.getByRole("tab", { name: "CLI" }).click();
  await dialog.getByRole("tabpanel").getByText("stepwell event send user.signed-up").waitFor();
  await button(dialog, "Send the event").click();
  await page.getByRole("heading", { name: "user.signed-up" }).waitFor();
  await page.locator("pre[aria-label=data]", { hasText: '"huge": 3544790567247868102' }).waitFor();
  assert.equal(await page.locator("main script, main img").count(), 0);
  await page.getByRole("list", { name: "Runs" }).getByText("welcome").waitFor();
  await page.getByRole("list", { name: "Runs" }).getByRole("link").click();
  await status(page, "Completed");
  // The run leads back to what began it.
  await page.getByRole("link", { name: "an event" }).click();
  await page.getByRole("heading", { name: "user.signed-up" }).waitFor();

  // One that reaches a step, and one that nobody takes.
  await gw.post("/v1/events", { name: "payment.received", data: { order: 42 } });
  await gw.post("/v1/events", '{"name": "nobody.cares", "data": [1.0]}');
  await page.getByRole("link", { name: "Events" }).first().click();
  const row = (name) => page.getByRole("list", { name: "Events" }).getByRole("link", { name: new RegExp(name) });
  await row("user.signed-up").getByText("started 1 run").waitFor();
  await row("user.signed-up").getByText("<script>").waitFor();
  await row("payment.received").getByText("reached 1 run").waitFor();
  await row("nobody.cares").getByText("nobody took it").waitFor();
  await page.getByRole("searchbox", { name: "Name" }).fill("nobody.cares");
  await page.keyboard.press("Enter");
  await eventually("that alone", async () => await row("").count() === 1);
  assert.equal(new URL(page.url()).search, "?name=nobody.cares");
  await page.reload();
  await row("nobody.cares").click();
  await page.getByText("No function or run matched.").waitFor();
  await page.locator("pre[aria-label=data]", { hasText: "1.0" }).waitFor();
  await becomes(waiting, "completed");
  await close(page);
});

browserTest("a run that waits for an event says for which; afterwards, which it was", async () => {
  const run = await gw.start("paid", { input: { order: 7 } });
  const page = await open(`/runs/${run.id}?step=payment`);
  await status(page, "Waiting");
  await page.getByRole("region", { name: "Why is it not moving?" }).getByText("It waits for the event payment.received in step payment whose data.order is 7. It times out in").waitFor();
  await step(page, "payment").getByText("data.order").first().waitFor();
  const sent = await gw.post("/v1/events", { name: "payment.received", data: { order: 7 } });
  await status(page, "Completed");
  await step(page, "payment").getByRole("link", { name: sent.id }).click();
  await page.getByText("reached step payment").waitFor();
  await close(page);
});

browserTest("tasks and calls: attempts, a 202 with its signs of life, the status of HTTP", async () => {
  const album = await gw.start("album");
  const page = await open(`/runs/${album.id}?step=resize%2Fheld`);
  const held = step(page, "resize/held");
  await held.getByText("with 202").waitFor();
  await held.locator("pre", { hasText: '"percent": 40.0' }).waitFor();
  await held.getByText("the first is out").waitFor();
  await page.getByRole("button", { name: /resize\/fails/ }).click();
  await step(page, "resize/fails").getByText("OutOfMemory").first().waitFor();
  await step(page, "resize/fails").getByText("Attempt 2", { exact: true }).waitFor();
  await close(page);
  const bills = await gw.start("bills", { input: { url } });
  const other = await open(`/runs/${bills.id}?step=bill`);
  await step(other, "bill").getByText("200 success").waitFor();
  await step(other, "bill").getByText(`POST ${url}bank/ok`).waitFor();
  await other.getByRole("button", { name: /receipt/ }).click();
  await step(other, "receipt").getByText("418 client error").waitFor();
  await close(other);
});

browserTest("a run that continued as new shows its generation, and nothing of those before", async () => {
  const run = await gw.start("counter");
  const page = await open(`/runs/${run.id}`);
  await status(page, "Waiting");
  await page.getByText("Run, generation 3").waitFor();
  await page.getByRole("button", { name: /count-3/ }).waitFor();
  assert.equal(await page.getByRole("button", { name: /count-1/ }).count(), 0);
  await page.getByRole("link", { name: "Generation 3" }).click();
  await page.getByText("Generation 2", { exact: true }).waitFor();
  await close(page);
});

browserTest("deployments: what is left, moved, pruned; the endpoint edited, drained, removed", async () => {
  const run = await gw.start("welcome", { input: { wait: true } });
  await becomes(run, "waiting");
  manifest.version = "8d2f";
  const page = await open("/endpoints/mail");
  await button(await begin(page, "Sync"), "Sync").click();
  const old = page.getByRole("list", { name: "Deployments" }).getByRole("listitem").filter({ hasText: "7c1e" });
  await old.getByText("1 run left").waitFor();
  let dialog = await begin(page, "Move its runs…");
  await dialog.getByLabel("Deployment").selectOption({ label: "8d2f, the newest" });
  await dialog.getByLabel("Reason").fill("the old one goes");
  await button(dialog, "Show me the call").click();
  await dialog.getByRole("tabpanel").getByText("/repin").waitFor();
  await button(dialog, "Move the runs").click();
  await page.getByText("1 run moves.").waitFor();
  await old.getByText("Drained").waitFor();
  await button(await begin(page, "Prune…"), "Prune").click();
  await old.waitFor({ state: "detached" });

  dialog = await begin(page, "Edit…");
  await dialog.getByLabel("Name").fill("shop");
  await dialog.getByLabel("Extra request headers to set").fill("X-Tenant: acme");
  await button(dialog, "Save").click();
  await dialog.getByRole("alert").waitFor();
  assert.equal(await dialog.getByLabel("Extra request headers to set").inputValue(), "X-Tenant: acme");
  await dialog.getByLabel("Name").fill("post");
  await button(dialog, "Save").click();
  await page.waitForURL("**/endpoints/post");
  await page.getByText("X-Tenant", { exact: false }).first().waitFor();

  await button(await begin(page, "Drain"), "Drain").click();
  await page.getByText("No new runs start here; 1 run is left.").waitFor();
  await button(await begin(page, "Enable"), "Enable").click();
  await page.getByText("Healthy", { exact: true }).waitFor();
  dialog = await begin(page, "Remove…");
  await button(dialog, "Remove the endpoint").click();
  await dialog.getByRole("alert").getByText(run.id).waitFor();
  await dialog.getByLabel("Its live runs").selectOption("park");
  await button(dialog, "Remove the endpoint").click();
  await page.getByRole("heading", { name: "Endpoints" }).waitFor();
  await page.getByRole("link", { name: "post" }).waitFor({ state: "detached" });
  await gw.post("/v1/endpoints", { name: "mail", url: `${url}mail` });
  await close(page, /404|409|422/);
});

browserTest("a run is put on another deployment", async () => {
  const run = await gw.start("approval");
  await becomes(run, "waiting");
  const page = await open(`/runs/${run.id}`);
  await status(page, "Waiting");
  const dialog = await begin(page, "Repin…");
  const current = (await gw.get("/v1/endpoints/shop")).deployment;
  await eventually("its deployments are read", async () => await dialog.getByLabel("Deployment").locator("option").count() > 1);
  await dialog.getByLabel("Deployment").selectOption(current);
  await dialog.getByLabel("Reason").fill("to stay there");
  await button(dialog, "Repin the run").click();
  await dialog.waitFor({ state: "detached" });
  await page.goto(`${gw.url}/runs/${run.id}?tab=journal&form=full`);
  await page.getByText("to stay there").waitFor();
  await close(page);
});

browserTest("a run is done again with another value of one step", async () => {
  const run = await gw.start("approval", { input: { amount: 42 } });
  await becomes(run, "waiting");
  await gw.post(`/v1/runs/${run.id}/signals/approved`, { payload: true });
  await becomes(run, "completed");
  const page = await open("/runs");
  // The run is there before its steps are: the dialog is open by then, and takes them in.
  let go;
  const opened = new Promise((resolve) => { go = resolve; });
  await page.route("**/stream*", async (route) => { await opened; await route.continue(); });
  await page.goto(`${gw.url}/runs/${run.id}`);
  await status(page, "Completed");
  const dialog = await begin(page, "Run again…");
  assert.equal(await dialog.getByLabel("Run again from").locator("option").count(), 1);
  go();
  await dialog.getByLabel("Run again from").selectOption("approval");
  await dialog.getByLabel("Step to edit").fill("charge");
  await button(dialog, "Edit it").click();
  await dialog.locator('.json-editor:not([hidden]) [aria-label="Value of charge"]', { hasText: '"charged": 42' }).waitFor();
  await type(page, "Value of charge", '{"charged": 3544790567247868102}');
  await button(dialog, "Show me the call").click();
  await dialog.getByRole("tabpanel").getByText('"edits": {"charge": {"charged": 3544790567247868102}}').waitFor();
  await button(dialog, "Start the new run").click();
  await eventually("it leads to the new run", () => !page.url().includes(run.id));
  await status(page, "Waiting");
  await page.getByRole("button", { name: /charge/ }).first().click();
  await step(page, "charge").locator("pre", { hasText: '"charged": 3544790567247868102' }).waitFor();
  await close(page);
});

browserTest("a function with a schema has a form, in step with the JSON", async () => {
  const page = await open("/functions/welcome");
  await page.getByRole("list", { name: "Triggers" }).getByText("user.signed-up").waitFor();
  assert.equal(await page.getByLabel("seats").inputValue(), "3");
  await button(page, "Start the run").click();
  await page.getByText("It is required.").first().waitFor();
  await page.getByLabel("Name").fill("Žofie");
  await page.getByLabel("plan").selectOption({ label: "pro" });
  await page.getByLabel("seats").fill("0");
  await page.getByText("It is less than 1.").waitFor();
  await page.getByLabel("seats").fill("3544790567247868102");
  await button(page, "JSON").click();
  await page.locator(".json-editor:not([hidden])").waitFor();
  await type(page, "Input", '{"name": "Žofie", "plan": "pro", "seats": 3544790567247868102, "more": 1.0}');
  await button(page, "Form").click();
  assert.equal(await page.getByLabel("seats").inputValue(), "3544790567247868102");
  await page.getByLabel("trial").selectOption("true");
  await button(page, "Start the run").click();
  await status(page, "Completed");
  await page.getByRole("tab", { name: "Input & output" }).click();
  await page.locator("pre[aria-label=input]", { hasText: '"seats": 3544790567247868102' }).waitFor();
  await page.locator("pre[aria-label=input]", { hasText: '"more": 1.0' }).waitFor();
  await page.locator("pre[aria-label=input]", { hasText: '"trial": true' }).waitFor();
  await close(page);
});

browserTest("keys are shown once and revoked; secrets are set, never shown, and deleted", async () => {
  const page = await open("/settings");
  let dialog = await begin(page, "Create a key");
  await dialog.getByLabel("Name").fill("ci");
  assert.equal(await button(dialog, "Create the key").isDisabled(), true);
  await dialog.getByLabel("runs:read").check();
  await dialog.getByLabel("signals:write").check();
  await button(dialog, "Create the key").click();
  const secret = await dialog.locator("code", { hasText: "sw_" }).innerText();
  const asked = (path) => fetch(gw.url + path, { headers: { authorization: `Bearer ${secret}` } });
  assert.equal((await asked("/v1/runs")).status, 200);
  assert.equal((await asked("/v1/secrets")).status, 403);
  await button(dialog, "Done").click();
  assert.equal((await page.content()).includes(secret), false);
  await page.getByRole("row", { name: /ci.*runs:read.*signals:write/ }).waitFor();
  await button(page, "Revoke ci").click();
  dialog = page.getByRole("dialog");
  await button(dialog, "Revoke the key").click();
  await page.getByText("All keys are revoked.").waitFor();
  await page.getByLabel("Show 1 revoked key too").check();
  await page.getByRole("row", { name: /ci.*revoked/ }).waitFor();

  await page.getByRole("link", { name: "Secrets for calls" }).click();
  dialog = await begin(page, "Set a secret");
  await dialog.getByLabel("Name").fill("stripe");
  await dialog.getByLabel("Value").fill("sk_live_nobody_sees_this");
  await button(dialog, "Show me the call").click();
  assert.equal((await dialog.innerText()).includes("sk_live"), false);
  await button(dialog, "Set the secret").click();
  await page.getByRole("row", { name: /stripe/ }).waitFor();
  assert.equal((await page.content()).includes("sk_live"), false);
  await button(page, "Delete stripe").click();
  await button(page.getByRole("dialog"), "Delete the secret").click();
  await page.getByText("There are no secrets yet.").waitFor();
  await close(page);
});

browserTest("a namespace is made, gets a key, is limited and deleted", async () => {
  const page = await open("/settings/namespaces");
  await page.getByRole("row", { name: /default.*any number/ }).waitFor();
  let dialog = await begin(page, "Make a namespace");
  await dialog.getByLabel("Name").fill("tenant");
  await dialog.getByLabel("Starts").fill("often");
  await button(dialog, "Make the namespace").click();
  await dialog.getByRole("alert").getByText("/limits/starts").waitFor();
  await dialog.getByLabel("Starts").fill("200/1s");
  await button(dialog, "Make the namespace").click();
  await page.getByRole("heading", { name: "tenant" }).waitFor();
  await page.getByText("200/1s").waitFor();
  await page.getByText("There are no keys yet.").waitFor();
  dialog = await begin(page, "Create a key");
  await dialog.getByLabel("Name").fill("worker");
  await dialog.getByLabel("runs:read").check();
  await button(dialog, "Create the key").click();
  const secret = await dialog.locator("code", { hasText: "sw_" }).innerText();
  await button(dialog, "Done").click();
  await page.getByRole("row", { name: /worker.*runs:read/ }).waitFor();
  const seen = await fetch(`${gw.url}/v1/namespaces`, { headers: { authorization: `Bearer ${secret}` } });
  assert.deepEqual((await seen.json()).data.map((n) => n.name), ["tenant"]);
  dialog = await begin(page, "Change limits…");
  await dialog.getByLabel("Live runs").fill("7");
  await dialog.getByLabel("Starts").fill("");
  await dialog.getByLabel("Ended runs are kept").fill("completed=1d");
  await button(dialog, "Show me the call").click();
  await dialog.getByRole("tab", { name: "CLI" }).click();
  await dialog.getByRole("tabpanel").getByText("stepwell namespace set tenant --live-runs 7 --starts off --keep completed=1d").waitFor();
  await button(dialog, "Change them").click();
  await page.getByText("0 of 7").waitFor();
  await page.getByText("completed 1 d").waitFor();
  await page.getByText("200/1s").waitFor({ state: "detached" });

  // What a key without the scope is shown: why there is nothing to see, and what is its own.
  await page.evaluate((key) => sessionStorage.setItem("stepwell.key", key), secret);
  await page.goto(`${gw.url}/settings/audit`);
  await page.getByRole("alert").getByText("This needs the scope admin.").waitFor();
  await page.getByRole("link", { name: "Namespaces" }).click();
  await page.getByRole("row", { name: /tenant.*at most 7/ }).waitFor();
  await page.getByText("You see the one of your key").waitFor();
  await page.getByRole("link", { name: "Namespace tenant" }).waitFor();
  assert.equal(await page.getByRole("row", { name: /default/ }).count(), 0);
  await page.evaluate(() => sessionStorage.removeItem("stepwell.key"));

  await page.goto(`${gw.url}/settings/namespaces?name=tenant`);
  dialog = await begin(page, "Delete…");
  await button(dialog, "Delete the namespace").click();
  await page.getByRole("row", { name: /default/ }).waitFor();
  await page.getByRole("row", { name: /tenant/ }).waitFor({ state: "detached" });
  // What is deleted may have been asked for once more meanwhile.
  await close(page, /403|404|422/);
});

browserTest("the audit log tells who did what, why, and what came of it", async () => {
  await gw.post("/v1/functions/naps/pause", { reason: EVIL });
  await gw.post("/v1/functions/naps/resume");
  await fetch(`${gw.url}/v1/endpoints/nobody`, { method: "DELETE" });
  const page = await open("/settings/audit");
  const list = page.getByRole("list", { name: "Audit log" });
  const entry = (text) => list.getByRole("listitem").filter({ hasText: text });
  await entry("/v1/functions/naps/pause").getByText(EVIL).first().waitFor();
  assert.equal(await page.locator("main script, main img").count(), 0);
  await entry("/v1/endpoints/nobody").getByText("refused").first().waitFor();
  await entry("/v1/endpoints/nobody").locator("summary").click();
  await entry("/v1/endpoints/nobody").getByRole("link", { name: "endpoint-not-found" }).waitFor();
  await page.getByRole("searchbox", { name: "What it was about" }).fill("/v1/functions/naps");
  await eventually("these alone", async () => await list.getByRole("listitem").count() === 2);
  await entry("naps/resume").locator("summary").click();
  await button(entry("naps/resume"), "All of this operation").click();
  await eventually("this alone", async () => await list.getByRole("listitem").count() === 1);
  assert.deepEqual(Object.fromEntries(new URL(page.url()).searchParams), { target: "/v1/functions/naps", action: "POST /v1/functions/{name}/resume" });
  await page.reload();
  await entry("naps/resume").locator("summary").click();
  await entry("naps/resume").getByRole("link", { name: "Show naps" }).click();
  await page.getByRole("heading", { name: "naps" }).waitFor();
  await close(page);
});

browserTest("a run of ten thousand steps opens, and is scrolled to its end", async () => {
  const run = await gw.start("huge");
  await becomes(run, "completed");
  const page = await open(`/runs/${run.id}`);
  await page.getByText("10,000 steps", { exact: true }).waitFor();
  const rows = page.getByTestId("timeline");
  assert.ok(await rows.locator("li").count() < 100);
  await rows.evaluate((box) => box.scrollTo(0, box.scrollHeight));
  await page.getByRole("button", { name: "item/9999" }).click();
  await step(page, "item/9999").getByText("9999").last().waitFor();
  await page.getByRole("tab", { name: "Journal" }).click();
  await page.getByRole("searchbox", { name: "Filter the journal" }).fill("item/7777");
  await page.getByRole("button", { name: /item\/7777/ }).waitFor();
  await close(page);
});
