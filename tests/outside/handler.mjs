// A handler that trusts the official `standardwebhooks` package alone to tell what is the gateway's.
//
//     PORT=3000 STEPWELL_SIGNING_SECRET=whsec_… CAPTURE=requests.jsonl node handler.mjs

import { appendFileSync } from "node:fs";
import { createServer } from "node:http";
import { Webhook } from "standardwebhooks";

const webhook = new Webhook(process.env.STEPWELL_SIGNING_SECRET);

function answer(call) {
  if (call.type === "discover") {
    return { protocol: [1, 1], functions: [{ name: "checked-node" }] };
  }
  if (!("steps" in call)) return {}; // what a webhook is told
  if (!("step" in call.steps)) {
    return { ops: [{ op: "run", id: "step", value: call.input }] };
  }
  return { result: call.steps.step.value };
}

function send(response, status, document) {
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(document));
}

const server = createServer(async (request, response) => {
  if (request.method !== "POST") return send(response, 405, { message: "only POST" });
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  let call;
  try {
    call = webhook.verify(body, request.headers);
  } catch (error) {
    return send(response, 401, { message: `${error.name}: ${error.message}` });
  }
  if (process.env.CAPTURE) {
    const captured = { headers: request.headers, body: body.toString("base64") };
    appendFileSync(process.env.CAPTURE, JSON.stringify(captured) + "\n");
  }
  send(response, 200, answer(call));
});

server.listen(Number(process.env.PORT), "127.0.0.1");
