// Why the run does not move, first of all.
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { Hourglass, TriangleAlert, Hand } from "lucide-react";
import { data, read } from "../../api/client.ts";
import type { ListedRun, Page, Run } from "../../api/types.ts";
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

export function Why({ run, why, acts, onAct }: { run: Run; why: Told; acts: Act[]; onAct: (act: Act) => void }) {
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
        <Alike run={run} />
      </div>
    </section>
  );
}

/** Leads to all that went wrong in the same way; lists say which that is. */
function Alike({ run }: { run: Run }) {
  const wrong = ["failed", "timed_out", "paused"].includes(run.status);
  const listed = useQuery({ queryKey: ["run", run.id, "listed", run.status], enabled: wrong, retry: false, queryFn: ({ signal }) => data<Page<ListedRun>>(read("/v1/runs", { params: { query: { run: [run.id], limit: 1 } }, signal })) });
  const fingerprint = wrong ? listed.data?.data[0]?.fingerprint : undefined;
  return fingerprint ? <Link to="/errors/$fingerprint" params={{ fingerprint }} className="btn shrink-0 justify-center">Others like it</Link> : null;
}

/** The error that a run ended with. */
export function Failure({ run }: { run: Run }) {
  if (!run.error) return null;
  const { type, message, stack } = errorOf(run.error);
  const bad = run.status !== "cancelled";
  return (
    <section aria-label="How it ended" className={`mx-4 mt-3 rounded-lg border px-4 py-3 ${bad ? "border-bad bg-bad-bg" : "bg-panel"}`}>
      <div className="flex items-start gap-3"><h2 className={`breaks min-w-0 flex-1 ${bad ? "text-bad" : ""}`}>{visible(type)}</h2><Alike run={run} /></div>
      <p className="breaks max-h-40 overflow-auto whitespace-pre-wrap">{visible(message)}</p>
      {stack && <details className="mt-1"><summary className="cursor-pointer text-dim">Stack</summary><pre tabIndex={0} className="max-h-60 overflow-auto">{visible(stack)}</pre></details>}
    </section>
  );
}
