// Why the run does not move, first of all.
import { Link } from "@tanstack/react-router";
import { Hourglass, TriangleAlert, Hand } from "lucide-react";
import type { Run } from "../../api/types.ts";
import { visible } from "../../json/text.ts";
import type { Act } from "../../acts/act.ts";
import { searchOf } from "../../run/limits.ts";
import { errorOf } from "../../run/steps.ts";
import type { Why as Told } from "../../run/why.ts";
import { Prose } from "../../ui/bits.tsx";

const TONES = {
  info: ["border-line bg-panel", "text-accent", Hourglass],
  warn: ["border-warn bg-warn-bg", "text-warn", TriangleAlert],
  stop: ["border-warn bg-warn-bg", "text-warn", Hand],
} as const;

export function Why({ why, acts, onAct }: { why: Told; acts: Act[]; onAct: (act: Act) => void }) {
  const [box, tone, Icon] = TONES[why.tone];
  const helps = acts.find((a) => a.id === why.helps);
  const rerun = why.diff ? acts.find((a) => a.id === "rerun") : undefined;
  return (
    <section aria-label="Why is it not moving?" className={`mx-4 mt-3 flex gap-3 rounded-lg border px-4 py-3 ${box}`}>
      <Icon size={18} aria-hidden className={`mt-0.5 shrink-0 ${tone}`} />
      <div className="min-w-0 flex-1">
        <h2 className={tone}>{why.title}</h2>
        {why.lines.map((line, i) => <p key={i} className="breaks max-h-40 overflow-auto whitespace-pre-wrap"><Prose text={line} /></p>)}
        {why.diff && (
          <table className="mt-2 border-collapse text-[13px]">
            <tbody>
              <tr><th scope="row" className="pr-3 text-left font-medium text-dim">recorded</th><td className="bg-bad-bg px-2"><code className="breaks"><span aria-hidden>− </span>{why.diff.expected}</code></td></tr>
              <tr><th scope="row" className="pr-3 text-left font-medium text-dim">the handler now says</th><td className="bg-good-bg px-2"><code className="breaks"><span aria-hidden>+ </span>{why.diff.got}</code></td></tr>
            </tbody>
          </table>
        )}
        {why.answer && (
          <div className="mt-2 text-[13px]"><span className="text-dim">Its last answer{why.answer.status ? `, status ${why.answer.status}` : ""}:</span>
            <pre tabIndex={0} aria-label="The handler's last answer" className="breaks mt-1 max-h-28 overflow-auto whitespace-pre-wrap rounded border bg-bg px-2 py-1">{visible(why.answer.body)}</pre></div>
        )}
      </div>
      <div className="flex shrink-0 flex-col gap-2">
        {helps && <button type="button" className="btn primary justify-center" onClick={() => onAct(helps)}>{helps.label}</button>}
        {why.see && ("limit" in why.see ? <Link to="/limits" search={searchOf(why.see.limit) as never} className="btn justify-center">Show the limit</Link>
          : <Link to="/functions/$name" params={{ name: why.see.function }} className="btn justify-center">Show the function</Link>)}
        {rerun && <button type="button" className="btn justify-center" onClick={() => onAct(rerun)}>{rerun.label}</button>}
      </div>
    </section>
  );
}

/** The error that a run ended with. */
export function Failure({ run }: { run: Run }) {
  if (!run.error) return null;
  const { type, message, stack } = errorOf(run.error);
  const bad = run.status !== "cancelled";
  return (
    <section aria-label="How it ended" className={`mx-4 mt-3 rounded-lg border px-4 py-3 ${bad ? "border-bad bg-bad-bg" : "bg-panel"}`}>
      <h2 className={`breaks ${bad ? "text-bad" : ""}`}>{visible(type)}</h2>
      <p className="breaks max-h-40 overflow-auto whitespace-pre-wrap">{visible(message)}</p>
      {stack && <details className="mt-1"><summary className="cursor-pointer text-dim">Stack</summary><pre tabIndex={0} className="max-h-60 overflow-auto">{visible(stack)}</pre></details>}
    </section>
  );
}
