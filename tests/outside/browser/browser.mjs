// A real Chromium, and pages whose complaints fail the test.
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
export const missing = existsSync(CHROMIUM) ? false : `there is no ${CHROMIUM}: apt-get install chromium, or set CHROMIUM`;
if (missing && process.env.CI === "true") throw new Error(missing);
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

export const launch = () => chromium.launch({
  executablePath: CHROMIUM,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});

/** Opens a page; whatever its console complains of fails the test. */
export async function open(browser, url, options = {}) {
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, ...options });
  // A busy machine is no fault of the page.
  page.setDefaultTimeout(Number(process.env.PATIENCE ?? 90_000));
  page.setDefaultNavigationTimeout(120_000);
  page.complaints = [];
  page.on("console", (m) => { if (["error", "warning"].includes(m.type())) page.complaints.push(m.text()); });
  page.on("pageerror", (e) => page.complaints.push(e.message));
  await page.goto(url);
  return page;
}

/** `allow`: what it may have complained of. */
export async function close(page, allow = /^$/) {
  assert.deepEqual(page.complaints.filter((c) => !allow.test(c)), []);
  assert.equal(await page.evaluate(() => window.pwned), undefined, "a payload was run");
  await page.close();
}

/** What axe finds on the page as it is. */
export async function axe(page) {
  // By the debugger's door: the page's own policy lets nothing in.
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  return violations.flatMap((v) => v.nodes.map((n) => `${v.id}: ${n.html} ${n.failureSummary}`));
}
