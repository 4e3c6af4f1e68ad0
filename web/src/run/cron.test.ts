import fc from "fast-check";
import { expect, test } from "vitest";
import { inWords } from "./cron.ts";

test.each([
  ["0 9 * * 1-5", "At 09:00, Monday to Friday"],
  ["0 9 * * MON-fri", "At 09:00, Monday to Friday"],
  ["30 6,18 * * *", "At 06:30 and 18:30, every day"],
  ["* * * * *", "Every minute"],
  ["*/15 * * * *", "Every 15 minutes"],
  ["0 */2 * * *", "Every 2 hours"],
  ["5,35 * * * *", "Every hour, at :05 and :35"],
  ["0 8-17 * * 1-5", "At :00 of each hour from 08:00 to 17:00, Monday to Friday"],
  ["0 0 1,15 * *", "At 00:00, on day 1 and 15 of the month"],
  ["0 0 1 JAN,7 *", "At 00:00, on day 1 of the month, in January and July"],
  ["0 0 * * 0,7", "At 00:00, Sunday"],
  ["@daily", "At 00:00, every day"],
  ["@hourly", "Every hour"],
])("%s is told as it is", (cron, words) => expect(inWords(cron)).toBe(words));

test.each(["0 0 13 * 5", "*/7 * * * *", "0 */5 * * *", "1-5 * * * *", "0 0 * 1-3 *", "0 0 */2 * *", "0 1,2,3,4,5 * * *", "0 9 * *", "x y z a b", "0 0 * * 5-1", "0 0 * * 1-9", "constructor", "__proto__", ""])(
  "%s is not told in words that say something else", (cron) => expect(inWords(cron)).toBeNull());

test("nothing that somebody types breaks it", () => {
  fc.assert(fc.property(fc.string(), (text) => { inWords(text); }));
  fc.assert(fc.property(fc.array(fc.constantFrom("*", "*/5", "0", "1-5", "1,2", "MON", "7", "/", "-", "99"), { minLength: 5, maxLength: 5 }), (parts) => {
    expect(String(inWords(parts.join(" ")))).not.toMatch(/undefined|NaN/);
  }));
});
