// From an empty install to a first run, inside the page. Each step ticks itself.
import { CircleCheck, Circle } from "lucide-react";
import { useState, type ReactNode } from "react";
import type { Endpoint } from "../api/types.ts";
import { CopyButton } from "../ui/bits.tsx";
import { Demo } from "./Demo.tsx";
import { RegisterForm } from "./Register.tsx";
import { StartForm } from "./StartForm.tsx";

/** A handler of one step in nothing but Node: what the protocol is, on a screen. */
const HANDLER = `// handler.mjs: node handler.mjs
import { createServer } from "node:http";

createServer(async (request, response) => {
  let body = "";
  for await (const part of request) body += part;
  const { input, steps } = JSON.parse(body);
  const greeting = steps.greet?.value;
  const answer = greeting === undefined
    ? { ops: [{ op: "run", id: "greet", value: \`Hello, \${input?.name ?? "world"}\` }] }
    : { result: { greeting } };
  response.writeHead(200, { "content-type": "application/json" });
  response.end(JSON.stringify(answer));
}).listen(3000);
`;

export function Onboarding({ endpoints, started }: { endpoints: Endpoint[]; started: boolean }) {
  const functions = endpoints.flatMap((e) => e.functions);
  const [name, setName] = useState<string | null>(null);
  const [secret, setSecret] = useState(false);
  const registered = endpoints.length > 0 && !secret;
  const chosen = name ?? functions[0] ?? null;
  return (
    <div className="mx-auto max-w-3xl p-6">
      <h1 className="mb-1">Your first run</h1>
      <p className="mb-5 text-dim">A function is an ordinary HTTP handler. Stepwell calls it, records each step that it reports, and calls it again after sleeps, signals, failures and crashes.</p>
      {!registered && !started && <Demo />}
      <ol className="flex flex-col gap-4">
        <Step done={registered} title="Start a handler">
          {!registered && <>
            <p className="mb-2 text-dim">Any language will do. This one needs nothing but Node, and has one function, <code>hello</code>:</p>
            <div className="relative"><pre tabIndex={0} aria-label="A handler" className="overflow-auto rounded-md border bg-panel px-3 py-2">{HANDLER}</pre><span className="absolute right-1 top-1"><CopyButton text={HANDLER} label="Copy the handler" /></span></div>
          </>}
        </Step>
        <Step done={registered} title={registered ? `${endpoints[0]!.name} is registered` : "Register it"}>
          {!registered && <><p className="mb-2 text-dim">For the handler above, <code>hello</code> goes into “Functions”. A handler that says itself what it has needs nothing there.</p><RegisterForm focus={false} onMade={() => setSecret(true)} onDone={() => setSecret(false)} /></>}
        </Step>
        <Step done={started} title="Start a run">
          {registered && chosen ? <>
            {functions.length > 1 && <label className="mb-3 block font-medium">Function<select className="field mt-1 block w-full font-normal" value={chosen} onChange={(e) => setName(e.target.value)}>{functions.map((f) => <option key={f}>{f}</option>)}</select></label>}
            <StartForm key={chosen} name={chosen} />
          </> : <p className="text-dim">Then the page turns into that run, live.</p>}
        </Step>
      </ol>
    </div>
  );
}

function Step({ done, title, children }: { done: boolean; title: string; children: ReactNode }) {
  const Icon = done ? CircleCheck : Circle;
  return (
    <li className="rounded-lg border p-4">
      <h2 className="flex items-center gap-2"><Icon size={18} className={done ? "text-good" : "text-dim"} aria-label={done ? "done" : "to do"} role="img" />{title}</h2>
      <div className="mt-2 empty:hidden">{children}</div>
    </li>
  );
}
