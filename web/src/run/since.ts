// How far back a list looks.

/** As it is in the address, in words, and in milliseconds. */
export const SINCE: [string, string, number][] = [["", "Any time", 0], ["15m", "Last 15 minutes", 900e3], ["1h", "Last hour", 3600e3], ["24h", "Last 24 hours", 864e5], ["7d", "Last 7 days", 6048e5]];
