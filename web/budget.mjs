// What the dashboard may weigh. Fails the build where it weighs more.
import { readdirSync, readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const KIB = 1024;
const dist = new URL("dist/", import.meta.url);
const html = readFileSync(new URL("index.html", dist), "utf8");
const files = readdirSync(new URL("assets/", dist)).map((name) => {
  const data = readFileSync(new URL(`assets/${name}`, dist));
  return { name, raw: data.length, zipped: gzipSync(data).length, first: html.includes(name) };
});
const sum = (list, of) => list.reduce((total, file) => total + file[of], 0);
const first = sum(files.filter((f) => f.first), "zipped");
const faults = [];
if (first > 180 * KIB) faults.push(`the first load has ${Math.round(first / KIB)} KiB zipped; the limit is 180`);
for (const f of files) if (!f.first && f.zipped > 150 * KIB) faults.push(`${f.name} has ${Math.round(f.zipped / KIB)} KiB zipped; the limit is 150`);
if (sum(files, "raw") > 2.5 * KIB * KIB) faults.push("all files together have more than 2.5 MiB");
console.log(`dashboard: first load ${Math.round(first / KIB)} KiB zipped, ${Math.round(sum(files, "raw") / KIB)} KiB in all`);
if (faults.length) {
  console.error(faults.join("\n"));
  process.exit(1);
}
