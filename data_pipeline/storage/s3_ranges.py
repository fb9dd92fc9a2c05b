"""GETs of byte ranges without boto3's overhead: signed by botocore, sent through http.client, read in one piece.

boto3 spends 0.5 to 1 ms of CPU on a GET; a loader sends thousands. Only the plain success is dealt with here: an answer
with exactly the bytes asked for. What else a server may answer goes to boto3, which knows redirects, clock skew and
errors; what it refuses for the moment (5xx, 429) and a connection that breaks are Unavailable, for the caller to
send again. Where a proxy or an unusual endpoint is configured there are no such GETs at all.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import time
import weakref
from collections import deque
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from data_pipeline.errors import Unavailable

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5.0, 30.0
KEPT, KEPT_S = 64, 15.0  # idle connections; seconds after which the way to the server may have forgotten one
UNUSUAL = ("use_accelerate_endpoint", "use_dualstack_endpoint", "use_fips_endpoint")
REFUSED_FOR_NOW = (429, 500, 502, 503, 504)


class RangeGets:
    """GETs of ranges of the objects in one bucket. Safe to use from several threads, and after a fork."""

    def __init__(self, base: str, region: str, credentials: Any, cafile: str | None) -> None:
        """`base`: url of the bucket, without a slash at its end."""
        parts = urlsplit(base)
        self._secure, self._address, self._path = parts.scheme == "https", parts.netloc, parts.path
        self._base, self._region, self._credentials = base, region, credentials
        self._tls = ssl.create_default_context(cafile=cafile) if self._secure else None
        self._idle: deque[tuple[float, http.client.HTTPConnection]] = deque()  # and since when
        self._process = os.getpid()
        weakref.finalize(self, _close, self._idle)

    def get(self, name: str, start: int, length: int) -> bytes | None:
        """Bytes start..start+length-1 of an object; None for an answer that boto3 should see. Raises Unavailable."""
        headers = self._signed(name, start, length)
        path = f"{self._path}/{quote(name, safe='/~')}"
        try:
            connection, response = self._ask(path, headers)
            return self._answer(connection, response, name, start, length)
        except ssl.SSLCertVerificationError:  # boto3 may have been told more
            return None
        except (OSError, http.client.HTTPException) as error:
            _close(self._idle)  # what broke one may have broken all: the next try has a new one
            where = f"{self._base}/{name}, bytes {start}+{length}"
            raise Unavailable(f"GET {where}: {type(error).__name__} talking to {self._address}") from None

    def _signed(self, name: str, start: int, length: int) -> dict[str, str]:
        request = AWSRequest(
            "GET",
            f"{self._base}/{quote(name, safe='/~')}",
            headers={"Range": f"bytes={start}-{start + length - 1}"},
        )
        S3SigV4Auth(self._credentials.get_frozen_credentials(), "s3", self._region).add_auth(request)
        return dict(request.headers.items())

    def _ask(
        self, path: str, headers: dict[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """The head of the answer. A kept connection that the server has closed meanwhile is replaced."""
        while kept := self._kept():
            try:
                kept.request("GET", path, headers=headers)
                return kept, kept.getresponse()
            except (ConnectionError, http.client.BadStatusLine):
                kept.close()
            except BaseException:
                kept.close()
                raise
        made = self._connection()
        try:
            made.request("GET", path, headers=headers)
            return made, made.getresponse()
        except BaseException:
            made.close()
            raise

    def _kept(self) -> http.client.HTTPConnection | None:
        if self._process != os.getpid():  # a connection of the parent's is the parent's
            _close(self._idle)
            self._process = os.getpid()
        with suppress(IndexError):
            since, connection = self._idle.pop()
            if time.monotonic() - since < KEPT_S:
                return connection
            connection.close()
            _close(self._idle)  # the others are older
        return None

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is None:
            made = http.client.HTTPConnection(self._address, timeout=CONNECT_TIMEOUT_S)
        else:
            made = http.client.HTTPSConnection(self._address, timeout=CONNECT_TIMEOUT_S, context=self._tls)
        made.connect()
        made.sock.settimeout(READ_TIMEOUT_S)
        made.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return made

    def _answer(
        self,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
        name: str,
        start: int,
        length: int,
    ) -> bytes | None:
        whole = False
        try:
            if response.status in REFUSED_FOR_NOW:
                raise Unavailable(
                    f"GET {self._base}/{name}: {self._address} said {response.reason} (HTTP {response.status})"
                )
            given = str(response.headers.get("Content-Range"))
            exact = response.length == length and given.startswith(f"bytes {start}-")
            if response.status not in (200, 206) or not exact:  # rclone sends ranges as 200
                return None
            data = response.read()  # IncompleteRead, an HTTPException, when the body breaks off
            whole = not response.will_close
            return data
        finally:
            if whole and len(self._idle) < KEPT:
                self._idle.append((time.monotonic(), connection))
            else:
                connection.close()


def _close(connections: deque[tuple[float, http.client.HTTPConnection]]) -> None:
    with suppress(IndexError):
        while True:
            connections.pop()[1].close()


def range_gets(session: Any, client: Any, bucket: str, *, amazon: bool) -> RangeGets | None:
    """The RangeGets for a bucket of a boto3 client; None where only boto3 knows the way."""
    endpoint, options = client.meta.endpoint_url, client.meta.config
    unusual = any((options.s3 or {}).get(one) for one in UNUSUAL) or any(
        getattr(options, one, False) for one in UNUSUAL
    )
    if unusual or options.proxies or get_environ_proxies(endpoint) or "@" in urlsplit(endpoint).netloc:
        return None
    parts = urlsplit(endpoint)
    virtual = amazon and "." not in bucket
    base = f"{parts.scheme}://{bucket}.{parts.netloc}" if virtual else f"{endpoint.rstrip('/')}/{bucket}"
    cafile = session._session.get_config_variable("ca_bundle") or get_cert_path(True)
    return RangeGets(base, client.meta.region_name or "us-east-1", session.get_credentials(), cafile)
