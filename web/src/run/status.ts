// The words for how a run stands: the same as in the API, with what they mean.

export const LIVE = ["scheduled", "queued", "running", "waiting", "retrying", "parked", "paused"] as const;
export const ENDED = ["completed", "failed", "cancelled", "timed_out", "terminated"] as const;
export const STATUSES = [...LIVE, ...ENDED];

export type Status = (typeof STATUSES)[number];

export const isEnded = (status: string) => (ENDED as readonly string[]).includes(status);
export const word = (status: string) => {
  const text = status.replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
};

export const MEANING: Record<Status, string> = {
  scheduled: "It begins at a moment to come.",
  queued: "It is on its way to its handler, or kept back by a limit.",
  running: "Its handler is at work.",
  waiting: "It waits for a timer, a signal, a callback or another run. Nothing is wrong.",
  retrying: "Something failed and is tried again by itself.",
  parked: "Its endpoint is unhealthy. It goes on by itself when that is well.",
  paused: "It waits for a person: trying again alone would not help.",
  completed: "It ended with an output.",
  failed: "It ended with an error.",
  cancelled: "It ended after a cancel.",
  timed_out: "Its deadline has passed.",
  terminated: "An operator ended it; the handler was not asked.",
};
