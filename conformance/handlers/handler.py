"""The functions of the conformance suite in Python, with the standard library alone.

    PORT=3000 STEPWELL_SIGNING_SECRET=whsec_… python3 handler.py
"""

import base64, hashlib, hmac, json, os, time, urllib.parse, urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Answer(Exception):
    """Ends the invocation with this answer."""


class StepError(Exception):
    """A step has settled as an error."""


class Run:
    def __init__(self, call):
        self.call, self.input, self.steps = call, call["input"], dict(call["steps"])
        upto = call["journal"]["upto"]
        while call["journal"]["more"]:  # the rest of the journal comes in pages
            page = self.fetch(f"{call['links']['journal']}?after={upto}")
            self.steps.update((step["id"], step) for step in page["data"])
            upto = max([upto] + [step["seq"] for step in page["data"] if "seq" in step])
            call["journal"]["more"] = upto < page["upto"]

    def fetch(self, url):
        request = urllib.request.Request(url, headers={"authorization": f"bearer {self.call['token']}"})
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)

    def step(self, id, op, body=lambda: None):
        """The recorded value of a step; asks for it, or does it, where there is none."""
        step = self.steps.get(id)
        if step is None:
            op = {**op, "id": id}
            if op["op"] == "run" and self.call["invocation"]["reason"] != "replay":
                try:
                    op["value"] = body()
                except StepError as error:
                    op["error"] = error.args[0]
            raise Answer({"ops": [op]})
        if step.get("pending"):
            raise Answer({"await": id})
        if "error" in step:
            raise StepError(step["error"])
        if "ref" in step:
            step["value"] = self.fetch(self.call["links"]["values"] + urllib.parse.quote(id))
        return step["value"]

    def run(self, id, body, **fields):
        return self.step(id, {"op": "run", **fields}, body)


def three_steps(run):
    a = run.run("a", lambda: run.input["n"] + 1)
    b = run.run("b", lambda: a + 1)
    c = run.run("c", lambda: b + 1)
    return [a, b, c]


def names(run):
    ids = ["constructor", "__proto__", "größe/名", "a b%c?d#e", "map/3", "name#2"]
    return [run.run(id, lambda: id) for id in ids]


def refuse(run):
    raise Answer({"error": {"type": "Refused", "message": "as asked", "data": {"n": 1}}})


def tell(run):
    if "work" not in run.steps:
        raise Answer({"ops": [
            {"op": "status", "value": {"at": "work"}}, {"op": "tags", "value": {"stage": "one"}},
            {"op": "log", "level": "info", "message": "hello", "fields": {"n": 1}},
            {"op": "run", "id": "work", "value": 1}]})


tries = Counter()  # by run: how often the body ran


def fail(run):
    def work():
        tries[run.call["run"]["id"]] += 1
        if tries[run.call["run"]["id"]] > run.input["times"]:
            return "worked"
        error = {"type": "Broken", "message": "on purpose"}
        raise StepError(error | {name: run.input[name] for name in ("retry", "after_ms") if name in run.input})

    try:
        policy = {"max_attempts": run.input.get("max_attempts", 10), "initial": "1s"}
        return {"value": run.run("work", work, retry=policy)}
    except StepError as error:
        run.run("undo", lambda: None)
        return {"caught": error.args[0]["type"], "attempts": error.args[0]["attempts"]}


def once(run):
    step = run.steps.get("charge")
    if step is None:
        raise Answer({"ops": [{"op": "start", "id": "charge"}]})
    if step.get("started"):
        raise Answer({"ops": [{"op": "run", "id": "charge", "value": "charged"}]})
    return outcome(run, "charge", {})


def outcome(run, id, op):
    try:
        return {"value": run.step(id, op)}
    except StepError as error:
        return {"caught": error.args[0]["type"]}


def nap(run):
    run.step("nap", {"op": "sleep", "for": run.input["for"]})
    return "awake"


def signals(run):
    def take(id, name):
        got = outcome(run, id, {"op": "signal", "name": name, "timeout": run.input["timeout"]})
        return got.get("caught", got.get("value"))

    return [take("a/1", "a"), take("a/2", "a"), take("b", "b")]


def callback(run):
    run.run("told", lambda: run.call["links"]["callback"] + "approval")
    return outcome(run, "approval", {"op": "callback", "timeout": run.input["timeout"]})


def parallel(run):
    mode, ids = run.input["mode"], ["p/1", "p/2", "p/3"]
    settled = {id: run.steps[id] for id in ids if id in run.steps and "seq" in run.steps[id]}
    failed = any("error" in step for step in settled.values())
    if len(settled) < 3 and not (settled and mode == "any") and not (failed and mode == "all"):
        raise Answer({"ops": [{"op": "callback", "id": id} for id in ids if id not in run.steps], "await": {mode: ids}})
    return {id[2:]: {"error": step["error"]["type"]} if "error" in step else step["value"] for id, step in settled.items()}


def compensate(run):
    run.run("reserve", lambda: None)
    if not run.call["cancel"]:
        run.step("wait", {"op": "signal", "name": "never"})
    run.run("release", lambda: None)
    raise Answer({"error": {"type": "Cancelled", "message": "as asked"}})


def big(run):
    blob = run.run("blob", lambda: "x" * run.input["bytes"])
    return run.run("size", lambda: len(blob))


def count(run):
    seen = run.input["seen"] + [run.run("tick", lambda: run.call["run"]["idempotency_prefix"] + "tick")]
    if run.input["left"]:
        raise Answer({"continue": {"input": {"left": run.input["left"] - 1, "seen": seen}}})
    return seen


def chain(run):
    sum = run.input["sum"]
    for k in range(run.input["from"], run.input["to"] + 1):
        if f"s/{k}" not in run.steps and run.call["journal"].get("continue_suggested"):
            raise Answer({"continue": {"input": {"from": k, "to": run.input["to"], "sum": sum}}})
        sum += run.run(f"s/{k}", lambda: k)
    return sum


FUNCTIONS = {
    "echo": lambda run: run.input,
    "facts": lambda run: {"seed": run.call["run"]["seed"], "created_at": run.call["run"]["created_at"],
                          "key": run.call["run"]["idempotency_prefix"] + "pay"},
    "three-steps": three_steps, "names": names, "refuse": refuse, "tell": tell, "fail": fail, "once": once,
    "nap": nap, "signals": signals, "callback": callback, "parallel": parallel, "compensate": compensate, "big": big,
    "count": count, "chain": chain,
    "many": lambda run: sum(run.run(f"s/{n}", lambda: n) for n in range(1, run.input["count"] + 1)),
}


def answer(call):
    if call["type"] == "discover":
        return 200, {"protocol": [1, 1], "pages": True, "functions": [{"name": name} for name in FUNCTIONS]}
    if call["type"] != "run" or call["function"] not in FUNCTIONS:
        return 404, {}
    try:
        return 200, {"result": FUNCTIONS[call["function"]](Run(call))}
    except Answer as answer:
        return 200, answer.args[0]


def is_signed(headers, body, secret):
    """Standard Webhooks: HMAC-SHA256 over the body as it came."""
    id, at, signatures = (headers.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
    if not at.isascii() or not at.isdigit() or abs(time.time() - int(at)) > 300:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.new(key, f"{id}.{at}.".encode() + body, hashlib.sha256).digest()
    ours = b"v1," + base64.b64encode(mac)
    return any(hmac.compare_digest(ours, theirs.encode()) for theirs in signatures.split())


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        signed = is_signed(self.headers, body, os.environ["STEPWELL_SIGNING_SECRET"])
        status, reply = answer(json.loads(body)) if signed else (401, {})
        reply = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", 3000))), Server).serve_forever()
