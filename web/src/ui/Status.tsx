// How a run stands: icon, colour and word, the same everywhere.
import { Ban, CalendarClock, Circle, CircleCheck, CircleDashed, CircleParking, CirclePause, CirclePlay, CircleX, Hourglass, OctagonX, RotateCw, TimerOff, type LucideIcon } from "lucide-react";
import { MEANING, word, type Status as Known } from "../run/status.ts";

const LOOKS: Record<Known, [LucideIcon, string]> = {
  scheduled: [CalendarClock, "text-dim"],
  queued: [CircleDashed, "text-dim"],
  running: [CirclePlay, "text-accent"],
  waiting: [Hourglass, "text-accent"],
  retrying: [RotateCw, "text-warn"],
  parked: [CircleParking, "text-warn"],
  paused: [CirclePause, "text-warn"],
  completed: [CircleCheck, "text-good"],
  failed: [CircleX, "text-bad"],
  cancelled: [Ban, "text-dim"],
  timed_out: [TimerOff, "text-bad"],
  terminated: [OctagonX, "text-bad"],
};

/** A status that is not known yet is shown by its word. */
export function Status({ status, large }: { status: string; large?: boolean }) {
  const [Icon, tone] = LOOKS[status as Known] ?? [Circle, "text-dim"];
  return (
    <span className={`inline-flex items-center gap-1.5 whitespace-nowrap font-medium ${tone} ${large ? "text-base" : ""}`} title={MEANING[status as Known]} data-status={status}>
      <Icon size={large ? 18 : 15} aria-hidden />
      {word(status)}
    </span>
  );
}

export function StatusIcon({ status, size = 14 }: { status: string; size?: number }) {
  const [Icon, tone] = LOOKS[status as Known] ?? [Circle, "text-dim"];
  return <Icon size={size} className={`shrink-0 ${tone}`} aria-hidden />;
}
