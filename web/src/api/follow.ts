// A run, live: the stream of one run, taken up again wherever it broke off.
import { Problem, request } from "./client.ts";
import { members } from "../json/text.ts";
import { open } from "./envelope.ts";

export type StreamEvent = { id: string; event: string; data: unknown };

/** One line of the stream. */
export function parse(line: string): StreamEvent {
  const parts: Record<string, string> = {};
  for (const [name, from, to] of members(line)) parts[name] = line.slice(from, to);
  return { id: JSON.parse(parts.id!), event: JSON.parse(parts.event!), data: open(parts.data!) };
}

/** Cuts what arrives into lines, wherever the pieces of it end. */
export function lineCutter(): (piece: string) => string[] {
  let rest = "";
  return (piece) => {
    const lines = (rest + piece).split("\n");
    rest = lines.pop()!;
    return lines.filter((line) => line !== "");
  };
}

export type Connection = "connecting" | "live" | "lost" | "ended";

export type Listener = {
  take(events: StreamEvent[]): void;
  state(now: Connection): void;
  refused(problem: Problem): void;
};

const REST = [250, 500, 1000, 2000, 4000];

/** Follows until the run has ended, the signal says stop, or the gateway refuses for good. */
export async function follow(run: string, listener: Listener, signal: AbortSignal, after: string | null = null): Promise<void> {
  let last = after;
  let failures = 0;
  while (!signal.aborted) {
    try {
      listener.state(failures ? "lost" : "connecting");
      const headers: Record<string, string> = { accept: "application/x-ndjson" };
      if (last) headers["last-event-id"] = last;
      const response = await request(`/v1/runs/${run}/stream`, { headers, signal });
      if (response.status === 204) return listener.state("ended");
      listener.state("live");
      const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
      const cut = lineCutter();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        failures = 0;
        const events = cut(value).map(parse);
        if (!events.length) continue;
        last = events.at(-1)!.id;
        listener.take(events);
        if (events.at(-1)!.event === "end") return listener.state("ended");
      }
      // It ends by itself when the gateway stops.
      listener.state("lost");
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Problem && error.status < 500 && error.status !== 429) return listener.refused(error);
      listener.state("lost");
    }
    await new Promise((done) => setTimeout(done, REST[Math.min(failures++, REST.length - 1)]));
  }
}
