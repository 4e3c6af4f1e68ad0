// A run in React: followed while somebody looks at it, taken in once a frame.
import { useEffect, useReducer, useRef, useState } from "react";
import { follow, type Connection, type StreamEvent } from "../../api/follow.ts";
import { data, read, type Problem } from "../../api/client.ts";
import type { Run } from "../../api/types.ts";
import { anew, empty, take, type RunLog } from "../../run/log.ts";
import { usePrefs } from "../../ui/prefs.ts";

export type Followed = { log: RunLog; state: Connection; refused: Problem | null; again: () => void };

/** How often a long journal is laid out while it is read, in milliseconds. */
const CATCHING_UP = 300;

/** In the next frame, or in the first after a while; gives what calls it off. */
function soon(then: () => void, wait: number): () => void {
  if (wait) { const later = setTimeout(then, wait); return () => clearTimeout(later); }
  const frame = requestAnimationFrame(then);
  return () => cancelAnimationFrame(frame);
}

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
  const caught = useRef(false);

  // Another run, or the same one read anew.
  useEffect(() => {
    last.current = null;
    ended.current = false;
    caught.current = false;
    setLog(anew);
    setRefused(null);
    setState("connecting");
  }, [id, round]);

  // The run itself is there at once; a long journal takes its time.
  useEffect(() => {
    const abort = new AbortController();
    void data<Run>(read("/v1/runs/{id}", { params: { path: { id } }, signal: abort.signal }))
      .then((run) => setLog((log) => (log.caught ? log : { ...log, run }))).catch(() => { /* The stream says why. */ });
    return () => abort.abort();
  }, [id, round]);

  useEffect(() => {
    // Paused or not, what there is is read once.
    if (((paused || !visible) && caught.current) || ended.current) return;
    const abort = new AbortController();
    let queue: StreamEvent[] = [];
    let first = !caught.current;
    let asked: (() => void) | null = null;
    const flush = () => {
      asked?.();
      asked = null;
      const events = queue;
      queue = [];
      if (events.length && !abort.signal.aborted) setLog((log) => take(log, events));
    };
    void follow(id, {
      take(events) {
        queue.push(...events);
        last.current = events.at(-1)!.id;
        if (events.some((e) => e.event === "run" || e.event === "end")) {
          caught.current = true;
          if (paused) { flush(); abort.abort(); return; }
        }
        asked ??= soon(flush, caught.current || first ? 0 : CATCHING_UP);
        first = false;
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
      asked?.();
      if (queue.length) setLog((log) => take(log, queue));
    };
  }, [id, round, paused, visible]);

  useEffect(() => { if (log.stale) again(); }, [log.stale]);
  return { log, state, refused, again };
}
