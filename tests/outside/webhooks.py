"""What the gateway sends is verified by the official `standardwebhooks` packages of PyPI and npm, and
rejected by both as soon as one byte of it is another.

    python3 webhooks.py path/to/stepwell
"""

import base64, datetime, http.client, json, pathlib, sys, tempfile, time

from standardwebhooks import Webhook

from gateway import HERE, Gateway, Process

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SIGNED = ("webhook-id", "webhook-timestamp", "webhook-signature")
# More than ASCII, escapes, and what looks like the end of something.
INPUT = {"input": {"who": "Zoë 🧶", "text": "a \"quoted\" line\n\u2028 end", "n": [1.5, -0, None, True]}}
LANGUAGES = {"python": [sys.executable, HERE / "handler.py"], "node": ["node", HERE / "handler.mjs"]}


class Handler(Process):
    """A handler of one language with one secret."""

    def __init__(self, language, secret, log_dir, name):
        self.captured_in = pathlib.Path(log_dir) / f"{name}.jsonl"
        env = {"STEPWELL_SIGNING_SECRET": secret, "CAPTURE": str(self.captured_in)}
        super().__init__(name, LANGUAGES[language], log_dir, **env)
        self.language, self.connection = language, None
        self.wait_until_up()

    def captured(self):
        """The requests that were verified, as (headers, body)."""
        lines = self.captured_in.read_text().splitlines() if self.captured_in.exists() else []
        return [(one["headers"], base64.b64decode(one["body"])) for one in map(json.loads, lines)]

    def says(self, headers, body):
        """The status that it gives to a request."""
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        wanted = {name: headers[name] for name in SIGNED if name in headers}
        self.connection.request("POST", "/", body, {**wanted, "content-type": "application/json"})
        answer = self.connection.getresponse()
        answer.read()
        return answer.status


def changed(text, at):
    """`text` with another byte at one place, which never means the same: of base64 the high bits."""
    old = text[at]
    return text[:at] + ("A" if old != "A" else "Q") + text[at + 1:]


def tampered(headers, body):
    """Every request that differs in one byte of what is signed, or lacks a header."""
    for at in range(len(body)):
        yield f"byte {at} of the body", headers, body[:at] + bytes([body[at] ^ 1]) + body[at + 1:]
    yield "a byte more", headers, body + b" "
    yield "a byte less", headers, body[:-1]
    for name in SIGNED:
        for at in range(len(headers[name])):
            other = changed(headers[name], at)
            if name == "webhook-timestamp":  # the packages read numbers, which must stay some
                other = headers[name][:at] + str(9 - int(headers[name][at])) + headers[name][at + 1:]
            yield f"byte {at} of {name}", {**headers, name: other}, body
        yield f"no {name}", {key: value for key, value in headers.items() if key != name}, body


def signed_at(headers, body, secret, seconds):
    """The request as if it had been sent so many seconds from now, with a good signature."""
    at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    signature = Webhook(secret).sign(headers["webhook-id"], at, body.decode())
    return {**headers, "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signature}


def check(gateway, handler, others):
    """A handler that runs against the gateway, and others with the same secret."""
    function, before = f"checked-{handler.language}", len(handler.captured())
    # With discovery: its request is signed too.
    gateway.call("POST", "/v1/endpoints", {"name": handler.language, "url": handler.url + "/", "secret": SECRET})
    done = gateway.call("GET", f"/v1/runs/{gateway.run(function, INPUT)}?wait=30s")
    assert done["status"] == "completed", done
    assert done["output"] == INPUT["input"], done
    requests = handler.captured()[before:]
    kinds = [json.loads(body)["type"] for _, body in requests]
    assert kinds.count("discover") >= 1 and kinds.count("run") >= 2, kinds
    ids = {headers["webhook-id"] for headers, _ in requests}
    assert len(ids) == len(requests), "each request has an id of its own"
    tried = 0
    for by in (handler, *others):
        for headers, body in requests:
            assert by.says(headers, body) == 200, f"{by.language} does not verify {body}"
        headers, body = requests[-1]
        for what, bad_headers, bad_body in tampered(headers, body):
            assert by.says(bad_headers, bad_body) == 401, f"{by.language} takes a request with {what} changed"
            tried += 1
        for seconds, status in ((-290, 200), (-310, 401), (290, 200), (310, 401)):
            shifted = signed_at(headers, body, SECRET, seconds)
            assert by.says(shifted, body) == status, f"{by.language}, {seconds} s away"
    print(f"  {handler.language}: {len(requests)} requests verified, {tried} changed ones rejected")


def check_rotation(gateway, handlers, log_dir):
    """While the secret is rotated, a handler with the old and one with the new one verify."""
    for handler in handlers:
        before = len(handler.captured())
        new = gateway.call("POST", f"/v1/endpoints/{handler.language}/rotate-secret", {})["secret"]
        assert new != SECRET and new.startswith("whsec_"), new
        run = gateway.run(f"checked-{handler.language}", INPUT)
        # The handler still has the old one.
        done = gateway.call("GET", f"/v1/runs/{run}?wait=30s")
        assert done["status"] == "completed", done
        requests = handler.captured()[before:]
        assert len(requests) >= 2, "the handler was called"
        for language in LANGUAGES:
            with Handler(language, new, log_dir, f"rotated-{handler.language}-{language}") as rotated:
                for headers, body in requests:
                    assert len(headers["webhook-signature"].split(" ")) == 2, headers
                    assert rotated.says(headers, body) == 200, f"{language} with the new secret"
                headers, body = requests[0]
                first, second = headers["webhook-signature"].split(" ")
                for signatures, name in ((first, "first"), (second, "second")):
                    alone = {**headers, "webhook-signature": signatures}
                    verdicts = {handler.says(alone, body), rotated.says(alone, body)}
                    assert verdicts == {200, 401}, f"the {name} signature is of one secret: {verdicts}"
                other = body.replace(b"1", b"2", 1)
                assert (handler.says(headers, other), rotated.says(headers, other)) == (401, 401)
        # A secret that neither has.
        with Handler(handler.language, "whsec_" + base64.b64encode(bytes(32)).decode(), log_dir, "stranger") as stranger:
            assert stranger.says(*requests[0]) == 401
    print("  rotation: the old and the new secret verify, a third does not")


def check_told(gateway, handlers, log_dir):
    """What webhooks and receivers of single runs are told is verified by both packages, as invocations are."""
    gateway.call("POST", "/v1/secrets", {"name": "hook", "value": SECRET})
    for language in LANGUAGES:
        with Handler(language, SECRET, log_dir, f"told-{language}") as receiver:
            gateway.call("POST", "/v1/webhooks", {"name": f"told-{language}", "url": receiver.url + "/", "secret": SECRET, "payloads": True})
            run = gateway.run(f"checked-{language}", {**INPUT, "on_complete": [{"url": receiver.url + "/", "secret": "hook"}]})
            end = time.monotonic() + 30
            while len(told := [r for r in receiver.captured() if run.encode() in r[1]]) < 2:
                assert time.monotonic() < end, f"{language} was told {len(told)} times"
                time.sleep(0.05)
            assert {json.loads(body)["type"] for _, body in told} == {"run.completed"}, told
            assert sum("output" in json.loads(body)["data"] for _, body in told) == 1, "payloads where they are wanted"
            for headers, body in told:
                assert all(handler.says(headers, body) == 200 for handler in handlers)
                assert receiver.says(headers, body.replace(b"completed", b"complated", 1)) == 401
            gateway.call("DELETE", f"/v1/webhooks/told-{language}")
    print("  webhooks: what they are told verifies")


def main(binary):
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as logs, Gateway(binary, logs) as gateway:
        with Handler("python", SECRET, logs, "python") as python, Handler("node", SECRET, logs, "node") as node:
            check(gateway, python, [node])
            check(gateway, node, [python])
            check_told(gateway, [python, node], logs)
            check_rotation(gateway, [python, node], logs)
    print(f"Standard Webhooks: all good in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1])
