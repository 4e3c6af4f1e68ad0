import { CircleCheck, CirclePlay, CircleX, Hourglass, RotateCw } from "lucide-react";
import type { StepLine } from "../../run/steps.ts";

const LOOKS = {
  done: [CircleCheck, "text-good", "Done"], failed: [CircleX, "text-bad", "Failed"], retrying: [RotateCw, "text-warn", "Waits for its next attempt"],
  waiting: [Hourglass, "text-accent", "Waiting"], running: [CirclePlay, "text-accent", "At work"],
} as const;

export function StepIcon({ step, word }: { step: Pick<StepLine, "state">; word?: boolean }) {
  const [Icon, tone, name] = LOOKS[step.state];
  return word ? <span className={`inline-flex items-center gap-1.5 font-medium ${tone}`}><Icon size={15} aria-hidden />{name}</span>
    : <Icon size={14} className={`shrink-0 ${tone}`} aria-hidden />;
}
