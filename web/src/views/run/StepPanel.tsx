// One step: how it stands, every attempt, what it gave, and what can be done with it.
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { X } from "lucide-react";
import type { ReactNode } from "react";
import { data, read, request } from "../../api/client.ts";
import type { Run, Step } from "../../api/types.ts";
import { Json } from "../../json/Json.tsx";
import { members, visible, type Raw } from "../../json/text.ts";
import type { Act } from "../../acts/act.ts";
import { actsOnStep } from "../../acts/run.ts";
import { askOf, eventOf, statusOf, type Ask } from "../../run/ask.ts";
import { errorOf, isAttempted, type StepLine } from "../../run/steps.ts";
import { bytes, duration } from "../../run/time.ts";
import { CopyButton, Facts, Failed, Id, Loading } from "../../ui/bits.tsx";
import { Ago, Moment } from "../../ui/Time.tsx";
import { StepIcon } from "./StepIcon.tsx";

export function StepPanel({ run, step, steps, onAct, onClose }: { run: Run; step: StepLine; steps: StepLine[]; onAct: (act: Act) => void; onClose: () => void }) {
  // Read anew when another attempt has failed, or it has settled.
  const whole = useQuery({
    queryKey: ["step", run.id, step.id, step.failures.length, step.settled, step.op],
    queryFn: ({ signal }) => data<Step>(read("/v1/runs/{id}/steps/{step}", { params: { path: { id: run.id, step: step.id } }, signal })),
    enabled: step.settled === null || step.failures.length > 0,
    placeholderData: (before) => (before?.id === step.id ? before : undefined),
  });
  const ask = askOf(step.request);
  const acts = actsOnStep(run, step, steps);
  const error = step.entry?.error ?? (step.settled === null ? whole.data?.last_error : null);
  const status = isAttempted(step.op) ? statusOf(error ?? step.entry?.value) : null;
  const event = eventOf(step.op, step.entry?.value);
  return (
    <aside aria-label={`Step ${step.id}`} className="flex min-h-0 flex-col overflow-auto border-l bg-bg max-lg:border-l-0 max-lg:border-t lg:w-[400px] xl:w-[460px]">
      <header className="sticky top-0 flex items-start gap-2 border-b bg-bg px-4 py-2.5">
        <div className="min-w-0 flex-1"><h2 className="breaks font-mono">{step.id}</h2><div className="flex items-center gap-3"><StepIcon step={step} word /><span className="text-dim">{step.op}</span></div></div>
        <CopyButton text={step.id} label="Copy the step's id" />
        <button type="button" className="btn bare" aria-label="Close the step" onClick={onClose}><X size={16} aria-hidden /></button>
      </header>
      <div className="flex flex-col gap-4 px-4 py-3">
        {acts.length > 0 && <div className="flex flex-wrap gap-2">{acts.map((act) => <button key={act.id} type="button" className={`btn ${act.danger ? "danger" : ""}`} onClick={() => onAct(act)}>{act.label}</button>)}</div>}
        <Facts facts={[
          [ABOUT[step.op] ?? "For", ask?.about && <code>{visible(ask.about)}</code>],
          ["Match", ask !== null && ask.match.length > 0 && <Match of={ask.match} />],
          ["Asked for", step.asked !== null && step.op !== "run" && <Moment at={new Date(step.asked).toISOString()} />],
          ["Settled", step.settled !== null && <><Moment at={new Date(step.settled).toISOString()} />{step.entry ? <span className="text-dim"> as number {step.entry.seq}</span> : null}</>],
          [step.state === "retrying" ? "Next attempt" : step.op === "sleep" ? "Due" : "Times out", step.settled === null && step.due !== null && <Ago at={new Date(step.due).toISOString()} />],
          ["Waits for", !ask?.about && step.waiting?.name && <>{step.op} <code>{step.waiting.name}</code></>],
          ["Status", status !== null && <Http status={status} />],
          ["Event", event !== null && <Link to="/events/$id" params={{ id: event }}><code>{event}</code></Link>],
          ["Took", step.ms > 0 && <>{duration(step.ms)} <span className="text-dim">{isAttempted(step.op) ? "in its last attempt" : "as the handler says"}</span></>],
          ["Attempts", (step.op === "run" || isAttempted(step.op)) && attemptsOf(step)],
          ["Idempotency key", OUTWARD.has(step.op) && <Id id={`${run.id}.${run.generation}/${step.id}`} />],
          ["Accepted", step.settled === null && step.held !== null && <>with 202, <Ago at={new Date(step.held.at).toISOString()} />; it settles later{step.held.until !== null && <>. Without a sign of life it has failed <Ago at={new Date(step.held.until).toISOString()} /></>}</>],
          ["Last sign of life", step.settled === null && step.beat !== null && <Ago at={new Date(step.beat.at).toISOString()} />],
        ]} />
        {step.settled === null && step.beat?.entry.data && <Part title="What it last said"><Json raw={member(step.beat.entry.data, "details") ?? "null"} name={`${step.id} details`} /></Part>}
        {error ? <Part title="Error"><StepError raw={error} /></Part> : null}
        {step.entry && step.entry.error === null && <Part title="Value"><Value run={run.id} step={step} /></Part>}
        {ask && <Part title="Asked for with"><Json raw={ask.raw} name={`${step.id} ask`} /></Part>}
        {step.failures.length > 0 && (
          <Part title={`Failed attempts (${step.failures.length})`}>
            {whole.isPending ? <Loading what="the attempts" rows={3} /> : whole.isError ? <Failed error={whole.error} /> : (
              <ol className="flex flex-col gap-1.5">
                {[...whole.data.failed_attempts].reverse().map((attempt) => {
                  const timed = step.failures.find((f) => f.attempt === attempt.attempt);
                  const what = attempt.error ? errorOf(attempt.error) : null;
                  return (
                    <li key={attempt.attempt} className="rounded-md border">
                      <details>
                        <summary className="flex cursor-pointer gap-2 px-3 py-1.5"><span className="font-medium">Attempt {attempt.attempt}</span><span className="min-w-0 flex-1 truncate text-dim">{what && visible(what.message.split("\n")[0]!)}</span><span className="text-dim"><Ago at={attempt.at} /></span></summary>
                        <div className="border-t px-3 py-2">
                          {timed && <p className="mb-1 text-[13px] text-dim">{timed.ms > 0 && <>Took {duration(timed.ms)}. </>}{timed.next !== null && <>The next was due after {duration(timed.next - timed.at)}.</>}</p>}
                          {attempt.error && <StepError raw={attempt.error} />}
                        </div>
                      </details>
                    </li>
                  );
                })}
              </ol>
            )}
          </Part>
        )}
      </div>
    </aside>
  );
}

/** What it is that an op names. */
const ABOUT: Record<string, string> = { event: "Waits for event", task: "Task", call: "Call", signal: "Signal", invoke: "Function", publish: "Event", send: "Signal" };

/** Ops whose work reaches the outside world, which knows each step by one key, whatever its attempt (P2.10). */
const OUTWARD = new Set(["run", "start", "task", "call"]);

function attemptsOf(step: StepLine): string {
  const made = step.entry?.attempts ?? step.failures.length;
  if (step.settled !== null || step.state === "retrying") return `${made}${step.failures.length ? `, ${step.failures.length === made ? "all" : step.failures.length} failed` : ""}`;
  return step.failures.length ? `${made} failed, number ${made + 1} is out` : "the first is out";
}

/** Status of HTTP, by its kind too and not by its colour alone. */
const Http = ({ status }: { status: number }) => <span className={`font-medium ${status < 300 ? "text-good" : status < 400 ? "text-warn" : "text-bad"}`}><code>{status}</code> {status < 300 ? "success" : status < 400 ? "redirect, not followed" : status < 500 ? "client error" : "server error"}</span>;

/** Fields of the event, and what each must be equal to. */
const Match = ({ of }: { of: Ask["match"] }) => (
  <ul>{of.map(([path, value]) => <li key={path}><code className="breaks">{visible(path)}</code> <span className="text-dim">is</span> <code className="breaks">{visible(value)}</code></li>)}</ul>
);

/** The text of a member of a history entry's data. */
function member(dataText: Raw, name: string): Raw | null {
  for (const [key, from, to] of members(dataText)) if (key === name) return dataText.slice(from, to);
  return null;
}

const Part = ({ title, children }: { title: string; children: ReactNode }) => <section><h3 className="mb-1 font-semibold">{title}</h3>{children}</section>;

export function StepError({ raw }: { raw: Raw }) {
  const { type, message, stack, rest } = errorOf(raw);
  return (
    <div className="flex flex-col gap-1.5">
      <p className="breaks whitespace-pre-wrap text-bad"><strong>{visible(type)}:</strong> {visible(message)}</p>
      {stack && <pre tabIndex={0} aria-label="Stack" className="max-h-60 overflow-auto rounded-md border bg-panel px-3 py-2 text-[12px]">{visible(stack)}</pre>}
      {rest && <Json raw={rest} name="error" />}
    </div>
  );
}

/** A value, fetched on its own where the journal has only a reference. */
export function Value({ run, step }: { run: string; step: Pick<StepLine, "id" | "entry"> }) {
  const ref = step.entry?.ref;
  const loaded = useQuery({
    queryKey: ["value", run, step.id, ref?.sha256], enabled: false, staleTime: Infinity,
    queryFn: async ({ signal }) => (await request(`/v1/runs/${run}/values/${encodeURIComponent(step.id)}`, { signal })).text(),
  });
  if (!ref) return <Json raw={step.entry?.value ?? "null"} name={step.id} />;
  if (loaded.data !== undefined) return <Json raw={loaded.data} name={step.id} />;
  return <>{loaded.isError && <Failed error={loaded.error} />}<button type="button" className="btn" disabled={loaded.isFetching} onClick={() => loaded.refetch()}>{loaded.isFetching ? "Loading…" : `Load ${bytes(ref.bytes)}`}</button></>;
}
