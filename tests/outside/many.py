"""A handler whose runs come to every state there is, so that the API has something to show.

    PORT=3000 python3 many.py
"""

import json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def echo(call):
    steps = call["steps"]
    if "first" not in steps:
        say = {"op": "log", "level": "info", "message": "the first step", "fields": {"n": 1}}
        return {"ops": [{"op": "run", "id": "first", "value": call["input"]}, {"op": "tags", "value": {"kind": "echo"}}, say]}
    if "scope/second" not in steps:
        return {"ops": [{"op": "run", "id": "scope/second", "value": "x" * 40000}, {"op": "status", "value": {"at": "second"}}]}
    return {"result": call["input"]}


def fails(call):
    if "body" in call["steps"]:
        return {"error": call["steps"]["body"]["error"]}
    error = {"type": "Nope", "message": "it cannot be done", "retry": "never", "data": {"why": None}}
    return {"ops": [{"op": "run", "id": "body", "error": error}]}


def waits(call):
    if call["cancel"]:
        return {"error": {"type": "Cancelled", "message": "as you wish"}}
    print(f"{call['run']['id']} {call['links']['callback']}\n", end="", flush=True)  # for those who settle callbacks
    steps = call["steps"]
    if "value" in steps.get("go", {}):
        return {"result": steps["go"]["value"]}
    ops = [{"op": "signal", "id": "go", "name": "go"}, {"op": "callback", "id": "paid", "timeout": "1h"},
           {"op": "sleep", "id": "nap", "for": "1h"}]
    return {"ops": [op for op in ops if op["id"] not in steps], "await": {"any": ["go"]}}


def retries(call):
    error = {"type": "Later", "message": "not yet", "after_ms": 3600000}
    return {"ops": [{"op": "run", "id": "slow", "error": error}]}


def pauses(call):
    return {"ops": [{"op": "run", "id": "odd", "error": {"type": "Ask", "message": "a person", "retry": "pause"}}]}


def breaks(call):
    return {"ops": [{"op": "no-such-op", "id": "x"}]}


def counts(call):
    return {"ops": [{"op": "set", "key": "n", "value": call["object"]["state"].get("n", 0) + 1}], "result": None}


FUNCTIONS = {function.__name__: function for function in (echo, fails, waits, retries, pauses, breaks, counts)}
KINDS = {"counts": "object"}


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet

    def do_POST(self):
        call = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if call["type"] == "discover":
            answer = {"protocol": [1, 1], "pages": True, "functions": [{"name": name, "kind": KINDS.get(name, "function")} for name in FUNCTIONS]}
        elif call["type"] == "query":
            answer = {"result": call["query"]}
        else:
            answer = FUNCTIONS.get(call["function"], echo)(call)
        self.send(200, answer)

    def do_GET(self):
        self.send(405, {"message": "only POST"})

    def send(self, status, document):
        text = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Server).serve_forever()
