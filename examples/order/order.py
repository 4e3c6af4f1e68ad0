"""A durable function in Python, with the standard library alone.

    PORT=3000 STEPWELL_SIGNING_SECRET=whsec_… python3 order.py

An order is charged, packed (the machine jams twice), approved by somebody, left to cool off and
shipped. The gateway calls this program again and again with the steps that are recorded so far;
each time it does the first one that is missing, and answers. What is recorded never runs again.
"""

import base64, hashlib, hmac, json, os, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def order(call):
    order, steps, key = call["input"], call["steps"], call["run"]["idempotency_prefix"]

    if call["cancel"]:
        return {"error": {"type": "Cancelled", "message": "the order was cancelled"}}
    for id, step in steps.items():
        if step.get("pending"):  # asked for and not settled yet: nothing to do until it is
            return {}
        if "error" in step:  # its retries are used up, or nobody approved in time
            return {"error": {"type": step["error"]["type"], "message": f"{id}: {step['error']['message']}"}}

    if "charge" not in steps:
        return work(call, "charge", lambda: charge(order, key + "charge"))
    if "pack" not in steps:
        return work(call, "pack", lambda: pack(order, call["run"]["id"]))
    if "approved" not in steps:
        return {"ops": [{"op": "signal", "id": "approved", "name": "approved", "timeout": "1h"}]}
    if "cool-off" not in steps:
        return {"ops": [{"op": "sleep", "id": "cool-off", "for": order.get("cool_off", "2s")}]}
    if "ship" not in steps:
        return work(call, "ship", lambda: ship(order, key + "ship"))

    value = {id: step["value"] for id, step in steps.items()}
    return {"result": {"order": order["order"], "charged": value["charge"]["amount"], "packed": value["pack"]["parcel"],
                       "approved_by": (value["approved"] or {}).get("by"), "shipped": value["ship"]["tracking"]}}


# The work itself. A step that is cut off by a crash before its answer is recorded runs again, so
# what it does to the outside world is given a key that is the same each time.

def charge(order, key):
    return {"id": f"ch_{order['order']}", "amount": order["amount"]}


jams = {}  # by run: how often the packing machine has jammed


def pack(order, run):
    jams[run] = jams.get(run, 0) + 1
    if jams[run] <= 2:
        raise RuntimeError("the packing machine is jammed")
    del jams[run]
    return {"parcel": f"pa_{order['order']}"}


def ship(order, key):
    return {"tracking": f"tr_{order['order']}"}


def work(call, id, body):
    """Does a step and reports how it ended. A failure is tried again by the gateway, later."""
    op = {"op": "run", "id": id}
    if call["invocation"]["reason"] == "replay":  # only asks what we would do: do nothing
        return {"ops": [op]}
    log(f"{call['run']['id']} {id}")
    try:
        op["value"] = body()
    except Exception as error:
        op["error"] = {"type": type(error).__name__, "message": str(error)}
    return {"ops": [op]}


def log(line):
    print(line, flush=True)
    if path := os.environ.get("ORDER_LOG"):
        with open(path, "a") as file:
            file.write(line + "\n")


# Serving it.

FUNCTIONS = {"order": order}


def answer(call):
    """The HTTP status and the JSON that answer a call."""
    if call["type"] == "discover":
        return 200, {"protocol": [1, 1], "transports": ["respond"], "functions": [{"name": name} for name in FUNCTIONS]}
    if call["type"] == "run" and call["function"] in FUNCTIONS:
        return 200, FUNCTIONS[call["function"]](call)
    return 404, {"message": f"no {call['type']} of {call.get('function')} here"}


def is_signed(headers, body, secret):
    """Whether the call is the gateway's: Standard Webhooks, HMAC-SHA256 over the body as it came."""
    id, at, signatures = (headers.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
    if not at.isascii() or not at.isdigit() or abs(time.time() - int(at)) > 300:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.new(key, f"{id}.{at}.".encode() + body, hashlib.sha256).digest()
    ours = b"v1," + base64.b64encode(mac)
    return any(hmac.compare_digest(ours, theirs.encode()) for theirs in signatures.split())


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        secret = os.environ.get("STEPWELL_SIGNING_SECRET")
        if secret and not is_signed(self.headers, body, secret):
            status, reply = 401, {"message": "the signature is not right"}
        else:
            status, reply = answer(json.loads(body))
        reply = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", 3000))), Server).serve_forever()
