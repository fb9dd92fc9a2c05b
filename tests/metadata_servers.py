"""The three clouds' metadata servers on loopback, so that a test can announce, refuse, hang and talk nonsense.

Each wants what the real one wants (a token, a header) and serves `pages`, which a test changes while it runs.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar


class MetadataServer:
    """One server. `pages`: path -> text; what is not there is 404. `trouble`: None, "hang", "cut", "garbage" or a status for all."""

    variable: ClassVar[str]
    headers: ClassVar[dict[str, str]] = {}

    def __init__(self) -> None:
        self.pages: dict[str, str] = {}
        self.trouble: str | int | None = None
        self.asked: list[str] = []
        self.released = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.serve(self)

            do_PUT = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._http.server_port}"

    @property
    def address(self) -> str:
        return f"http://{self.host}"

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(f"{request.command} {request.path}")
        if self.trouble == "hang":
            self.released.wait(60)
        elif self.trouble == "garbage":
            request.wfile.write(b"\x00\xff nonsense\r\n\r\n")
        elif isinstance(self.trouble, int):
            self.answer(request, self.trouble, "")
        elif self.trouble is None:
            self.page(request)
        request.close_connection = True

    def page(self, request: BaseHTTPRequestHandler) -> None:
        known = request.path in self.pages
        self.answer(request, 200 if known else 404, self.pages.get(request.path, ""))

    def answer(self, request: BaseHTTPRequestHandler, status: int, text: str, **more: str) -> None:
        body = text.encode("latin-1")
        request.send_response(status)
        headers = {**self.headers, **{key.replace("_", "-"): value for key, value in more.items()}}
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(key, value)
        request.end_headers()
        request.wfile.write(body)

    def close(self) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()


class AwsServer(MetadataServer):
    """IMDSv2: no page without the token of this hour."""

    variable = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
    ACTION = "/latest/meta-data/spot/instance-action"
    REBALANCE = "/latest/meta-data/events/recommendations/rebalance"

    def __init__(self) -> None:
        super().__init__()
        self.token = "token-1"

    def page(self, request: BaseHTTPRequestHandler) -> None:
        if request.path == "/latest/api/token":
            ttl = request.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
            if request.command != "PUT" or ttl is None:
                return self.answer(request, 400, "")
            return self.answer(request, 200, self.token, X_aws_ec2_metadata_token_ttl_seconds=ttl)
        if request.headers.get("X-aws-ec2-metadata-token") != self.token:
            return self.answer(request, 401, "")
        return super().page(request)


class GcpServer(MetadataServer):
    """No page without the header, and the header in every answer."""

    variable = "GCE_METADATA_HOST"
    headers: ClassVar[dict[str, str]] = {"Metadata-Flavor": "Google"}
    PREEMPTED = "/computeMetadata/v1/instance/preempted"
    MAINTENANCE = "/computeMetadata/v1/instance/maintenance-event"

    def __init__(self) -> None:
        super().__init__()
        self.pages = {"/": "computeMetadata/\n", self.PREEMPTED: "FALSE", self.MAINTENANCE: "NONE"}

    @property
    def address(self) -> str:
        return self.host

    def page(self, request: BaseHTTPRequestHandler) -> None:
        if request.headers.get("Metadata-Flavor") != "Google":
            return self.answer(request, 403, "")
        return super().page(request)


class AzureServer(MetadataServer):
    """One document of scheduled events, and this machine's name."""

    variable = "MIXER_AZURE_METADATA_ENDPOINT"
    NAME = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
    EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"

    def __init__(self) -> None:
        super().__init__()
        self.pages[self.NAME] = "train_3"
        self.schedule()

    def schedule(self, *events: dict[str, Any]) -> None:
        self.pages[self.EVENTS] = json.dumps({"DocumentIncarnation": 1, "Events": events})

    def page(self, request: BaseHTTPRequestHandler) -> None:
        if request.headers.get("Metadata") != "true":
            return self.answer(request, 400, "")
        return super().page(request)


@contextmanager
def serving(server: MetadataServer) -> Iterator[MetadataServer]:
    """The server, until the block ends."""
    try:
        yield server
    finally:
        server.close()
