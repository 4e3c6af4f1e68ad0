// Each view in both themes, as PNG files in the directory that is given.
//
//     node screenshots.mjs DIRECTORY        STEPWELL=path/to/stepwell
import { mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { launch, open } from "./browser.mjs";
import { eventually, gateway } from "./gateway.mjs";
import { shop } from "./shop.mjs";

const to = resolve(process.argv[2] ?? ".");
mkdirSync(to, { recursive: true });
const [server, gw, browser] = await Promise.all([shop(), gateway(), launch()]);
const url = `http://127.0.0.1:${server.address().port}/`;

async function shoot(name, path, act) {
  for (const colorScheme of ["light", "dark"]) {
    const page = await open(browser, gw.url + path, { colorScheme, viewport: { width: 1280, height: 760 } });
    await eventually(`${path} is there`, () => page.evaluate(() => document.querySelector("h1, h2") !== null && !document.body.textContent.includes("Reading ")));
    await act?.(page);
    await page.evaluate(() => document.fonts.ready);
    await page.screenshot({ path: join(to, `${name}-${colorScheme}.png`) });
    await page.close();
  }
}

await shoot("onboarding", "/");
await gw.post("/v1/endpoints", { name: "shop", url, discover: false, functions: ["checkout", "refund", "newsletter"].map((name) => ({ name })) });
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
await shoot("function", "/functions/checkout", (page) => page.locator(".json-editor:not([hidden])").waitFor());
await shoot("endpoints", "/endpoints");
await shoot("endpoint", "/endpoints/billing", async (page) => {
  await page.getByRole("button", { name: "Try it" }).click();
  await page.getByRole("list", { name: "What was found" }).waitFor();
});
await browser.close();
await gw.stop();
server.closeAllConnections();
server.close();
