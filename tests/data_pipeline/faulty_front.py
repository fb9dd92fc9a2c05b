"""A small HTTP front for an S3 server that does one asked-for fault at a time and passes everything else on.

The client signs for the front's address and the front passes headers on untouched, so signatures stay valid.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Act = Callable[[], None]

NOTHING = {"connection", "transfer-encoding", "keep-alive"}


@dataclass
class Fault:
    """What happens to the next request of `method` whose path holds `path`.

    what: "503" (refused, not passed on), "412" (the same), "403" (the same), "lost" (passed on,
    the reply dropped), "cut" (the body of the reply ends halfway). `before` runs first.
    """

    method: str
    path: str
    what: str
    before: Act | None = None


@dataclass
class Front:
    """The front's address, the faults still to come, and every (method, path) that was asked."""

    host: str
    port: int
    faults: list[Fault] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, method: str, path: str) -> Fault | None:
        with self.lock:
            self.asked.append((method, path))
            for fault in self.faults:
                if fault.method == method and fault.path in path:
                    self.faults.remove(fault)
                    return fault
        return None


def serve(front: Front) -> ThreadingHTTPServer:
    """A server on a free port of loopback that passes on to `front`. The caller runs and closes it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: requests hold signatures."""

        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = front.take(self.command, self.path)
            if fault and fault.before:
                fault.before()
            if fault and fault.what in ("503", "412", "403"):
                return self.refuse(int(fault.what))
            status, headers, reply = self.pass_on(body)
            if fault and fault.what == "lost":
                self.close_connection = True
                return None
            return self.reply(status, headers, reply, cut=bool(fault))

        def pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            upstream = http.client.HTTPConnection(front.host, front.port, timeout=30)
            try:
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() != "expect":
                        upstream.putheader(name, value)
                upstream.endheaders(body)
                response = upstream.getresponse()
                return response.status, response.getheaders(), response.read()
            finally:
                upstream.close()

        def reply(self, status: int, headers: list[tuple[str, str]], body: bytes, cut: bool) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in NOTHING | {"content-length"}:
                    self.send_header(name, value)
            length = {name.lower(): value for name, value in headers}.get("content-length", len(body))
            self.send_header("Content-Length", str(length if self.command == "HEAD" else len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)
            self.close_connection = self.close_connection or cut

        def refuse(self, status: int) -> None:
            code = {503: "SlowDown", 412: "PreconditionFailed", 403: "SignatureDoesNotMatch"}[status]
            body = f"<Error><Code>{code}</Code><AWSAccessKeyId>echoed-id</AWSAccessKeyId></Error>".encode()
            self.reply(status, [("Content-Type", "application/xml")], body, cut=False)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_one

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)
