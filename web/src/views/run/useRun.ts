// A run in React: followed while somebody looks at it, taken in once a frame.
import { useEffect, useReducer, useRef, useState } from "react";
import { follow, type Connection, type StreamEvent } from "../../api/follow.ts";
import type { Problem } from "../../api/client.ts";
import { empty, take, type RunLog } from "../../run/log.ts";
import { usePrefs } from "../../ui/prefs.ts";

export type Followed = { log: RunLog; state: Connection; refused: Problem | null; again: () => void };

function useVisible() {
  const [visible, set] = useState(!document.hidden);
  useEffect(() => {
    const tell = () => set(!document.hidden);
    document.addEventListener("visibilitychange", tell);
    return () => document.removeEventListener("visibilitychange", tell);
  }, []);
  return visible;
}

export function useRun(id: string): Followed {
  const { paused } = usePrefs();
  const visible = useVisible();
  const [round, again] = useReducer((n: number) => n + 1, 0);
  const [log, setLog] = useState<RunLog>(empty);
  const [state, setState] = useState<Connection>("connecting");
  const [refused, setRefused] = useState<Problem | null>(null);
  const last = useRef<string | null>(null);
  const ended = useRef(false);

  // Another run, or the same one read anew.
  useEffect(() => {
    last.current = null;
    ended.current = false;
    setLog(empty());
    setRefused(null);
    setState("connecting");
  }, [id, round]);

  useEffect(() => {
    if (paused || !visible || ended.current) return;
    const abort = new AbortController();
    let queue: StreamEvent[] = [];
    let asked: number | null = null;
    const flush = () => {
      asked = null;
      const events = queue;
      queue = [];
      if (events.length && !abort.signal.aborted) setLog((log) => take(log, events));
    };
    void follow(id, {
      take(events) {
        queue.push(...events);
        last.current = events.at(-1)!.id;
        asked ??= requestAnimationFrame(flush);
      },
      state(now) {
        if (abort.signal.aborted) return;
        if (now === "ended") ended.current = true;
        setState(now);
      },
      refused(problem) { if (!abort.signal.aborted) setRefused(problem); },
    }, abort.signal, last.current);
    return () => {
      abort.abort();
      // What has come is not asked for again, so it is taken in now.
      if (asked !== null) cancelAnimationFrame(asked);
      if (queue.length) setLog((log) => take(log, queue));
    };
  }, [id, round, paused, visible]);

  useEffect(() => { if (log.stale) again(); }, [log.stale]);
  return { log, state, refused, again };
}
