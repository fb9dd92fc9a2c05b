"""Images behind http:// and https:// urls, fetched whole.

What may pass (no connection, 429, 5xx, a body that breaks off) is asked for again, a few times, with growing pauses. What
does not pass is Unavailable: it says nothing about the image. What a server says of one image (404, 410, 403, ...) is NotFetched.
Proxies come from the usual variables (HTTPS_PROXY, NO_PROXY). Urls may hold passwords and signatures: `shown` leaves them out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from data_pipeline.errors import Unavailable
from data_pipeline.packing.items import NoImage

PAUSES_S = (0.5, 1.0, 2.0, 4.0)
CONNECT_S, READ_S = 10.0, 30.0
LARGEST_BYTES = 256 << 20
CHUNK_BYTES = 1 << 18
PASSING = {408, 425, 429, *range(500, 600)}


class NotFetched(NoImage):
    """The server did not give the image; the message says what it said."""


class _Again(Exception):
    """It may work when asked again."""


def is_web(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def shown(name: str) -> str:
    """A name as messages may hold it: UTF-8, and of a url without user, password and query."""
    if "://" not in name:
        return name.encode("utf-8", "backslashreplace").decode()
    parts = urlsplit(name)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class Web:
    """A connection pool per thread."""

    def __init__(self, pauses_s: tuple[float, ...] = PAUSES_S) -> None:
        self._pauses_s = pauses_s
        self._local = threading.local()

    def get(self, url: str) -> bytes:
        """The body. Raises NotFetched; Unavailable where no server gave a proper answer."""
        for pause in (*self._pauses_s, None):
            try:
                return self._ask(url)
            except _Again as error:
                if pause is None:
                    raise Unavailable(
                        f"{shown(url)}: {error}, {len(self._pauses_s) + 1} times; the same command goes on later; "
                        "if it is gone for good, take its urls out of the table and begin again with `--overwrite`"
                    ) from None
                time.sleep(pause)
        raise AssertionError

    def _ask(self, url: str) -> bytes:
        import requests

        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.headers["User-Agent"] = "mixer-pack"
        try:
            with self._local.session.get(url, stream=True, timeout=(CONNECT_S, READ_S)) as response:
                if response.status_code in PASSING:
                    raise _Again(f"the server answers {response.status_code}")
                if response.status_code != 200:
                    raise NotFetched(f"the server answers {response.status_code}")
                return _body(response.iter_content(CHUNK_BYTES))
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            raise _Again(f"{type(error).__name__} at {urlsplit(url).hostname}") from None
        except requests.RequestException as error:
            raise NotFetched(f"{type(error).__name__}: the url cannot be fetched") from None


def _body(chunks: Iterator[bytes]) -> bytes:
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > LARGEST_BYTES:
            raise NotFetched(f"more than {LARGEST_BYTES >> 20} MB came; that is no image to train on")
    return bytes(body)
