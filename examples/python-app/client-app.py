"""The app of the demo: an HTTPS server, on Python's standard library alone.

What it needs comes from its session, never from the image or this repository:

- its certificate and key, as files in /run/cupel/tls. The owner's CA signed it.
  They are renewed while the app runs: it reads them anew when they changed;
- secrets, as environment variables or files. It shows that it has one by a
  digest, not by its value.

GET /        what answers, for people; `curl -H 'Accept: application/json'` for programs
GET /health  204
"""

import hashlib
import json
import os
import signal
import socket
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TLS = os.environ.get("APP_TLS", "/run/cupel/tls")
PORT = int(os.environ.get("APP_PORT", "8080"))
GREETING = os.environ.get("APP_GREETING", "Hello from inside")
SECRET_FILE = os.environ.get("APP_SECRET_FILE", "/run/cupel/app/secret")


def secret():
    """The app's secret, from its file or the environment; None where the session gives none."""
    try:
        with open(SECRET_FILE, "rb") as f:
            return f.read()
    except FileNotFoundError:
        value = os.environ.get("APP_SECRET")
        return value.encode() if value else None


def facts():
    s = secret()
    return {
        "message": GREETING,
        "instance": socket.gethostname(),
        "python": sys.version.split()[0],
        "user": os.getuid(),
        "secret_sha256": hashlib.sha256(s).hexdigest() if s else None,
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self):
        if self.path == "/health":
            self.send_response(204)
            self.end_headers()
            return
        if self.path != "/":
            self.send_error(404)
            return
        answer = facts()
        if "application/json" in self.headers.get("Accept", ""):
            body, kind = json.dumps(answer) + "\n", "application/json"
        else:
            body, kind = "{message}, this is instance {instance} (Python {python}, user {user}).\n".format(**answer), "text/plain"
        data = body.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind + "; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, form, *args):
        # Standard output belongs to the operator's log: no addresses, no headers.
        print(self.command, self.path.split("?")[0], args[1] if len(args) > 1 else "", flush=True)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address, handler):
        super().__init__(address, handler)
        self.reading = threading.Lock()
        self.context, self.read = self.load(), self.stamp()

    @staticmethod
    def load():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(os.path.join(TLS, "cert.pem"), os.path.join(TLS, "key.pem"))
        return context

    @staticmethod
    def stamp():
        return [os.stat(os.path.join(TLS, name)).st_ino for name in ("cert.pem", "key.pem")]

    def certificate(self):
        """The context of the newest certificate. Between the two files' renewals the old one goes on."""
        with self.reading:
            try:
                if (now := self.stamp()) != self.read:
                    self.context, self.read = self.load(), now
            except (OSError, ssl.SSLError):
                pass
            return self.context

    def finish_request(self, request, client_address):
        # In the connection's own thread: a client that never finishes its
        # handshake (a health check, say) holds up nobody else.
        request.settimeout(Handler.timeout)
        try:
            tls = self.certificate().wrap_socket(request, server_side=True)
        except (ssl.SSLError, OSError):
            return
        try:
            super().finish_request(tls, client_address)
        except OSError:
            pass  # the client went away
        finally:
            # shutdown_request() closes the plain socket, which no longer owns
            # the descriptor.
            try:
                tls.close()
            except OSError:
                pass


def main():
    server = Server(("0.0.0.0", PORT), Handler)
    for sig in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sig, lambda *_: threading.Thread(target=server.shutdown).start())
    print("serving on port", PORT, flush=True)
    server.serve_forever()
    print("stopped", flush=True)


if __name__ == "__main__":
    main()
