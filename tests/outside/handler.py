"""A handler that trusts the official `standardwebhooks` package alone to tell what is the gateway's.

    PORT=3000 STEPWELL_SIGNING_SECRET=whsec_… CAPTURE=requests.jsonl python3 handler.py
"""

import base64, json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook

webhook = Webhook(os.environ["STEPWELL_SIGNING_SECRET"])


def answer(call):
    if call["type"] == "discover":
        return {"protocol": [1, 1], "functions": [{"name": "checked-python"}]}
    if "steps" not in call:  # what a webhook is told
        return {}
    if "step" not in call["steps"]:
        return {"ops": [{"op": "run", "id": "step", "value": call["input"]}]}
    return {"result": call["steps"]["step"]["value"]}


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            call = webhook.verify(body, dict(self.headers))
        except Exception as error:  # a body that is no UTF-8 any more is no `WebhookVerificationError`
            return self.send(401, {"message": f"{type(error).__name__}: {error}"})
        if path := os.environ.get("CAPTURE"):
            headers = {name.lower(): value for name, value in self.headers.items()}
            with open(path, "a") as file:
                file.write(json.dumps({"headers": headers, "body": base64.b64encode(body).decode()}) + "\n")
        self.send(200, answer(call))

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


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Server).serve_forever()
