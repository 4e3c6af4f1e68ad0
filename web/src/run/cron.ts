// A cron expression in words, where words say all of it; nothing where they would not.

const MACROS = new Map([["@yearly", "0 0 1 1 *"], ["@annually", "0 0 1 1 *"], ["@monthly", "0 0 1 * *"], ["@weekly", "0 0 * * 0"], ["@daily", "0 0 * * *"], ["@midnight", "0 0 * * *"], ["@hourly", "0 * * * *"]]);
const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
/** More moments of a day than these are not listed. */
const LISTED = 4;

/** A field: every value, every so many, some single ones, or one range. */
type Field = { every: number } | { values: number[] } | { from: number; to: number };

function field(text: string, names: string[], first: number): Field | null {
  const step = /^\*(?:\/([1-9]\d?))?$/.exec(text);
  if (step) return { every: Number(step[1] ?? 1) };
  const number = (part: string) => {
    const at = names.findIndex((name) => name.slice(0, 3).toLowerCase() === part.toLowerCase());
    return at >= 0 ? at + first : /^\d{1,2}$/.test(part) ? Number(part) : null;
  };
  const range = /^(\w+)-(\w+)$/.exec(text);
  if (range) {
    const [from, to] = [number(range[1]!), number(range[2]!)];
    return from === null || to === null || from >= to ? null : { from, to };
  }
  const values = text.split(",").map(number);
  return values.some((v) => v === null) ? null : { values: (values as number[]).toSorted((a, b) => a - b) };
}

const and = (parts: string[]) => (parts.length < 2 ? parts.join("") : `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}`);
const two = (n: number) => String(n).padStart(2, "0");
const isAll = (f: Field) => "every" in f && f.every === 1;

/** The moments of a day, and whether they need a day to be said. */
function times(minute: Field, hour: Field): string | null {
  if ("every" in minute) {
    if (!isAll(hour)) return null;
    return minute.every === 1 ? "every minute" : 60 % minute.every === 0 ? `every ${minute.every} minutes` : null;
  }
  if (!("values" in minute)) return null;
  const at = minute.values.map(two);
  if ("every" in hour) {
    const each = hour.every === 1 ? "hour" : 24 % hour.every === 0 ? `${hour.every} hours` : null;
    if (!each) return null;
    return at.length === 1 && at[0] === "00" ? `every ${each}` : `every ${each}, at ${and(at.map((m) => `:${m}`))}`;
  }
  if ("from" in hour) return `at ${and(at.map((m) => `:${m}`))} of each hour from ${two(hour.from)}:00 to ${two(hour.to)}:00`;
  const all = hour.values.flatMap((h) => at.map((m) => `${two(h)}:${m}`));
  return all.length > LISTED ? null : `at ${and(all)}`;
}

function days(f: Field): string | null {
  if ("from" in f) return f.to < DAYS.length ? `${DAYS[f.from]} to ${DAYS[f.to]}` : null;
  return "values" in f && f.values.every((d) => d < DAYS.length) ? and([...new Set(f.values.map((d) => DAYS[d]!))]) : null;
}

/** `At 09:00, Monday to Friday`; null if it is more than that. */
export function inWords(cron: string): string | null {
  const text = cron.trim();
  const parts = (MACROS.get(text.toLowerCase()) ?? text).split(/\s+/);
  if (parts.length !== 5) return null;
  const [minute, hour, day, month, weekday] = [field(parts[0]!, [], 0), field(parts[1]!, [], 0), field(parts[2]!, [], 0), field(parts[3]!, MONTHS, 1), field(parts[4]!, DAYS.slice(0, 7), 0)];
  if (!minute || !hour || !day || !month || !weekday) return null;
  const time = times(minute, hour);
  if (!time) return null;
  let on: string | null = "";
  if (!isAll(day) && !isAll(weekday)) return null; // One of the two is enough: words would mislead.
  if (!isAll(weekday)) on = days(weekday);
  else if (!isAll(day)) on = "values" in day ? `on day ${and(day.values.map(String))} of the month` : null;
  else if (time.startsWith("at ") && isAll(month)) on = "every day";
  if (on === null) return null;
  let of = "";
  if (!isAll(month)) {
    if (!("values" in month)) return null;
    of = `in ${and(month.values.map((m) => MONTHS[m - 1] ?? String(m)))}`;
  }
  const words = [time, on, of].filter(Boolean).join(", ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}
