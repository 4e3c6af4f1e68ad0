// Each view in both themes, as PNG files in the directory that is given.
//
//     node screenshots.mjs DIRECTORY [NAME…]        STEPWELL=path/to/stepwell
//
// With names only those.
import { mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { launch, open } from "./browser.mjs";
import { eventually, gateway } from "./gateway.mjs";
import { begin } from "./person.mjs";
import { manifest, shop } from "./shop.mjs";
import { small } from "./small.mjs";

const to = resolve(process.argv[2] ?? ".");
const only = process.argv.slice(3);
mkdirSync(to, { recursive: true });
const [server, gw, browser] = await Promise.all([shop(), gateway(), launch()]);
const url = `http://127.0.0.1:${server.address().port}/`;

async function shoot(name, path, act) {
  if (only.length && !only.includes(name)) return;
  for (const colorScheme of ["light", "dark"]) {
    const page = await open(browser, gw.url + path, { colorScheme, viewport: { width: 1280, height: 760 } });
    await eventually(`${path} is there`, () => page.evaluate(() => document.querySelector("h1, h2") !== null && !document.body.textContent.includes("Reading ")));
    await act?.(page);
    // What is around every view comes by itself: the sign, the version.
    await page.getByText(/^Version /).waitFor();
    await page.waitForFunction(() => [...document.images].every((image) => image.complete && image.naturalWidth));
    await page.evaluate(() => document.fonts.ready);
    writeFileSync(join(to, `${name}-${colorScheme}.png`), small(await page.screenshot()));
    await page.close();
  }
}

await shoot("onboarding", "/", (page) => page.getByRole("button", { name: "Run the demo" }).waitFor());
await gw.post("/v1/endpoints", { name: "shop", url });
await gw.post("/v1/endpoints", { name: "billing", url: `${url}away`, discover: false, functions: [{ name: "invoice" }] });
for (let order = 4701; order < 4711; order++) await gw.start("checkout", { key: `order-${order}`, input: { order, amount: 1990 + order }, tags: { customer: `c${order % 7}` } });
const stuck = await gw.start("checkout", { key: "order-4712", input: { order: 4712, amount: 12_900, trouble: true }, tags: { customer: "c7" } });
const changed = await gw.start("refund", { key: "refund-31", input: { order: 4699 } });
await gw.start("invoice", { key: "invoice-88" });
await gw.start("newsletter", { input: { to: "nobody" } });
await gw.start("newsletter", { delay: "6h" });
const status = (run, word) => eventually(`${run.function} is ${word}`, async () => (await gw.get(`/v1/runs/${run.id}`)).status === word, 60_000);
await Promise.all([status(stuck, "retrying"), status(changed, "paused")]);
await eventually("it has failed some times", async () => (await gw.get(`/v1/runs/${stuck.id}/steps/charge-card`)).attempts >= 4, 60_000);
const waiting = (await gw.get("/v1/runs?key=order-4705")).data[0];
await status(waiting, "waiting");

// Events, and what they begin; tasks, calls and generations; a deployment that runs still stay on.
const publish = (name, source, data) => gw.post("/v1/events?wait=30", { name, source, data });
const created = await publish("customer.created", "crm", { id: "cus_20417", plan: "pro", region: "eu-central" });
for (let i = 20418; i < 20421; i++) await publish("customer.created", "crm", { id: `cus_${i}`, plan: i % 2 ? "pro" : "free" });
const untaken = await publish("invoice.voided", "billing", { invoice: "inv_8812", reason: "duplicate", by: "ada@example.com" });
await publish("order.shipped", "warehouse", { order: 4701, parcels: 1 });
const onboard = { id: created.matches[0].run, function: "onboard" };
await status(onboard, "waiting");
const gallery = await gw.start("gallery", { key: "album-611", input: { pictures: ["beach.jpg", "harbour.jpg", "panorama.tif", "scan-0007.png", "tram.jpg"] } });
const payout = await gw.start("payout", { key: "payout-2026-11", input: { url } });
const digest = await gw.start("digest", { key: "daily-digest" });
await Promise.all([status(gallery, "retrying"), status(payout, "retrying"), status(digest, "waiting")]);
await eventually("it has failed some times", async () => (await gw.get(`/v1/runs/${gallery.id}/steps/thumbnail%2Fscan-0007.png`)).attempts >= 3, 60_000);
manifest.version = "2026.11.2";
await gw.post("/v1/endpoints/shop/sync");
const secrets = {};
for (const [name, scopes] of [["checkout-service", ["runs:read", "runs:write"]], ["ci", ["endpoints:write"]], ["ada", ["admin"]]]) {
  const { secret } = await gw.post("/v1/keys", { name, scopes });
  secrets[name] = secret;
  if (name !== "ci") await fetch(`${gw.url}/v1/runs?limit=1`, { headers: { authorization: `Bearer ${secret}` } });
}
for (const name of ["stripe", "fio-bank"]) await gw.post("/v1/secrets", { name, value: "sk_test_of_nobody" });

await shoot("overview", "/");
await shoot("runs", "/runs");
await shoot("run", `/runs/${stuck.id}?step=charge-card`);
await shoot("run-waiting", `/runs/${waiting.id}`);
await shoot("run-mismatch", `/runs/${changed.id}`);
await shoot("journal", `/runs/${stuck.id}?tab=journal&form=full`);
await shoot("input-output", `/runs/${stuck.id}?tab=io`);
await shoot("signal", `/runs/${waiting.id}`, async (page) => {
  await page.getByRole("button", { name: "Signal…" }).first().click();
  await page.locator(".json-editor:not([hidden])").waitFor();
  await page.getByRole("button", { name: "Show me the call" }).click();
});
await shoot("waiting", "/waiting");
await shoot("functions", "/functions");
const editor = (page) => page.locator(".json-editor:not([hidden])").first().waitFor();
await shoot("function", "/functions/onboard");
await shoot("function-json", "/functions/checkout", editor);
await shoot("events", "/events", (page) => page.waitForFunction(() => { const rows = [...document.querySelectorAll("[aria-label=Events] li")]; return rows.length > 5 && rows.every((row) => /nobody took it|started|reached/.test(row.textContent)); }));
await shoot("event", `/events/${created.id}`, (page) => page.getByRole("list", { name: "Runs" }).getByText("Waiting").waitFor());
await shoot("event-untaken", `/events/${untaken.id}`);
await shoot("event-send", "/events", async (page) => {
  await page.getByRole("button", { name: "Send event" }).click();
  await editor(page);
});
await shoot("run-event", `/runs/${onboard.id}?step=verified`);
await shoot("run-tasks", `/runs/${gallery.id}?step=thumbnail%2Fpanorama.tif`);
await shoot("run-calls", `/runs/${payout.id}?step=notify-bank`);
await shoot("run-generations", `/runs/${digest.id}`);
await shoot("run-details", `/runs/${digest.id}?tab=details`);
await shoot("rerun", `/runs/${(await gw.get("/v1/runs?key=order-4705")).data[0].id}`, async (page) => {
  await begin(page, "Run again…");
  await page.getByLabel("Run again from").selectOption("charge-card");
  await page.getByLabel("Step to edit").fill("reserve-stock");
  await page.getByRole("button", { name: "Edit it" }).click();
  await page.locator('.json-editor:not([hidden]) [aria-label="Value of reserve-stock"]').waitFor();
});
await shoot("deployments", "/endpoints/shop");
await shoot("repin", "/endpoints/shop", (page) => page.getByRole("button", { name: "Move its runs…" }).click());
await gw.post("/v1/schedules", { name: "catalogue-sync", function: "newsletter", every: "1s", input: { to: "nobody" } });
await gw.post("/v1/schedules", { name: "daily-digest", function: "digest", cron: "0 9 * * 1-5", time_zone: "Europe/Prague", jitter: "5m" });
await gw.post("/v1/schedules", { name: "month-end", function: "invoice", cron: "30 6 1 * *", paused: true, note: "Until the ledger has moved" });
await eventually("it has started some", async () => (await gw.get("/v1/schedules/catalogue-sync")).counts.started > 6);
await shoot("schedules", "/schedules");
await shoot("schedule", "/schedules/catalogue-sync");
await gw.post("/v1/schedules/catalogue-sync/pause", { note: "done" });
const reports = [];
for (const tenant of ["acme", "acme", "acme", "globex", "initech", "acme", "acme", "globex"]) reports.push(await gw.start("render-report", { key: `${tenant}-${reports.length + 1}`, input: { tenant } }));
for (let i = 0; i < 6; i++) await gw.start("remind", { input: { invoice: i } });
const asAda = (method, path, body) => fetch(gw.url + path, { method, headers: { authorization: `Bearer ${secrets.ada}`, "content-type": "application/json" }, body: JSON.stringify(body) });
await asAda("POST", "/v1/limits/pause", { function: "render-report", key: "input.tenant", value: "umbrella", reason: "Invoice 2026-0917 is overdue" });
await gw.start("render-report", { key: "umbrella-1", input: { tenant: "umbrella" } });
await asAda("POST", "/v1/functions/newsletter/pause", { reason: "The template is wrong: see the ticket" });
const queued = async () => (await gw.get("/v1/limits?function=render-report")).data.filter((l) => l.queued).length;
await eventually("they wait", async () => (await queued()) === 2);
await shoot("limits", "/limits", (page) => page.getByText("All taken").first().waitFor());
await shoot("limit-pause", "/limits", (page) => page.getByRole("button", { name: "Pause render-report, input.tenant acme" }).click());
await shoot("run-queued", `/runs/${reports[6].id}`, (page) => page.getByText("It waits for its turn").waitFor());
await shoot("metrics", "/charts", (page) => page.getByRole("region", { name: "Runs", exact: true }).waitFor());
await shoot("runs-chosen", "/runs?function=checkout", async (page) => {
  await page.getByLabel("Choose order-4709").check();
  await page.getByLabel("Choose order-4706").click({ modifiers: ["Shift"] });
});
await shoot("bulk-ask", "/runs?function=checkout&status=waiting", async (page) => {
  await page.getByRole("button", { name: "All that match…" }).click();
  await page.getByRole("menuitem", { name: "Cancel…" }).click();
  await page.getByText(/It would touch/).waitFor();
});
const bulk = await gw.post("/v1/bulk", { filter: { function: ["newsletter", "refund"] }, action: "rewind", rate: 1, reason: "The list is not empty any more" });
await eventually("it is on its way", async () => (await gw.get(`/v1/bulk/${bulk.id}`)).matched > 2);
await shoot("bulk", `/bulk/${bulk.id}`);
await shoot("bulk-list", "/bulk");
for (let i = 0; i < 16; i++) await gw.start("import-orders", { key: `2026-11-2${i % 7}/${i}`, input: { file: `orders-2026-11-2${i % 7}.csv`, row: 117 + 31 * i } });
await eventually("they have failed", async () => (await gw.get("/v1/runs?function=import-orders&status=failed&limit=100")).data.length === 16);
await shoot("errors", "/errors", (page) => page.getByRole("listitem").filter({ hasText: "InvalidRow" }).waitFor());
const [kind] = (await gw.get("/v1/errors?function=import-orders")).data.filter((e) => e.code === "InvalidRow");
await shoot("error", `/errors/${kind.fingerprint}`, (page) => page.getByRole("list", { name: "Runs" }).getByText("2026-11-21/15", { exact: true }).waitFor());
await shoot("error-rewind", `/errors/${kind.fingerprint}`, async (page) => {
  await begin(page, "Rewind…");
  await page.getByText(/It would touch/).waitFor();
});
await gw.post("/v1/namespaces", { name: "acme", limits: { live_runs: 10_000, starts: "200/1s", requests: "1000/1s" }, hosts: ["*.acme.example", "hooks.acme.example"] });
await gw.post("/v1/namespaces", { name: "globex", limits: { live_runs: 500 } });
await gw.post("/v1/keys", { name: "acme-orders", scopes: ["runs:read", "runs:write"], namespace: "acme" });
await asAda("DELETE", "/v1/namespaces/default");
await asAda("PATCH", "/v1/namespaces/globex", { limits: { live_runs: 800 } });
await shoot("settings-namespaces", "/settings/namespaces", (page) => page.getByText("globex").waitFor());
await shoot("settings-namespace", "/settings/namespaces?name=acme", (page) => page.getByText("acme-orders").waitFor());
await shoot("settings-limits", "/settings/namespaces?name=acme", (page) => begin(page, "Change limits…"));
await shoot("settings-audit", "/settings/audit", async (page) => {
  await page.getByRole("listitem").filter({ hasText: "/v1/namespaces/default" }).locator("summary").click();
});
await shoot("settings-keys", "/settings/keys");
await shoot("settings-secrets", "/settings/secrets");
await shoot("settings-gateway", "/settings/gateway");
await shoot("endpoints", "/endpoints");
await shoot("endpoint", "/endpoints/billing", async (page) => {
  await page.getByRole("button", { name: "Try it" }).click();
  await page.getByRole("list", { name: "What was found" }).waitFor();
});
const sent = (await gw.get("/v1/endpoints/shop/invocations")).data;
const [invocation] = sent.filter((i) => i.outcome === "answered");
await shoot("endpoint-wire", `/endpoints/shop?invocation=${invocation.id}`, async (page) => {
  await page.getByRole("heading", { name: /^Answer/ }).waitFor();
  await page.getByRole("region", { name: "Last invocations" }).scrollIntoViewIfNeeded();
});
await browser.close();
await gw.stop();
server.closeAllConnections();
server.close();
