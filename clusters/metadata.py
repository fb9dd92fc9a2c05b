"""Clients of the three clouds' metadata servers: which cloud is here, and what it announces about this machine.

`find` asks once which server answers; `Cloud.look` reads its pages and gives Events (announcements.py says what an answer means). Plain
http to a link-local address, no proxy, 1 s for an answer, no redirects. Where a server lies comes from AWS_EC2_METADATA_SERVICE_ENDPOINT,
GCE_METADATA_HOST (host or host:port), as in the clouds' own SDKs, and MIXER_AZURE_METADATA_ENDPOINT (a url; Azure's SDKs have none);
AWS_EC2_METADATA_DISABLED=true is obeyed. AWS: IMDSv2 only, so that in a container the instance's hop limit must be 2. Azure: the first
answer may take two minutes, since the first question turns the service on.
"""

from __future__ import annotations

import os
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, ClassVar

from clusters.announcements import Event, maintenance, preempted, rebalance, scheduled, spot_action

TIMEOUT_S = 1.0
_LOCAL = "http://169.254.169.254"
_MOST_BYTES = 1 << 20


class MetadataError(Exception):
    """A metadata server did not answer, or not as documented. `url` and `kind` stay the same while the trouble does."""

    def __init__(self, url: str, kind: str, detail: object = "") -> None:
        self.url, self.kind = url, kind
        super().__init__(f"{url}: {kind}" + (f" ({str(detail)[:200]})" if str(detail) else ""))


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str


Parser = Callable[[str, float], list[Event]]


class _AsTheyAre(urllib.request.HTTPErrorProcessor):
    """Every status is an answer, and no redirect is followed."""

    def http_response(self, request: Any, response: Any) -> Any:
        return response


_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _AsTheyAre())


def _ask(url: str, headers: Mapping[str, str], method: str = "GET") -> Answer:
    try:
        request = urllib.request.Request(url, headers=dict(headers), method=method)
        with _opener.open(request, timeout=TIMEOUT_S) as reply:
            text = reply.read(_MOST_BYTES).decode(errors="replace")
            return Answer(reply.status, reply.headers, text)
    except (OSError, HTTPException, ValueError) as error:
        raise MetadataError(url, "no answer", error) from None


class Cloud(ABC):
    """The metadata server of one cloud."""

    name: ClassVar[str]
    variable: ClassVar[str]  # of the environment, that says where the server is

    @abstractmethod
    def is_here(self) -> bool:
        """Whether this cloud's server answers. MetadataError when nothing does."""

    @abstractmethod
    def pages(self) -> list[tuple[str, Parser]]:
        """What to read: path and parser."""

    @abstractmethod
    def get(self, path: str) -> str | None:
        """A page's text; None where a missing page means that nothing is announced. MetadataError."""

    def look(self, now: float) -> tuple[list[Event], list[MetadataError]]:
        """What is announced now, and what could not be read: one page that fails hides no other."""
        events: list[Event] = []
        problems: list[MetadataError] = []
        for path, parse in self.pages():
            try:
                text = self.get(path)
                events += parse(text, now) if text is not None else []
            except MetadataError as error:
                problems.append(error)
            except (ValueError, TypeError, LookupError, OverflowError) as error:
                problems.append(MetadataError(path, "not understood", f"{error} in {text!r}"))
        return events, problems


class Aws(Cloud):
    """IMDSv2: a session token, then pages that are 404 until there is something to say."""

    name, variable = "aws", "AWS_EC2_METADATA_SERVICE_ENDPOINT"
    _TTL = "X-aws-ec2-metadata-token-ttl-seconds"

    def __init__(self) -> None:
        self._base = (os.environ.get(self.variable) or _LOCAL).rstrip("/")
        self._token = ""

    def is_here(self) -> bool:
        answer = self._renew()
        return answer.status == 200 and self._TTL in answer.headers

    def pages(self) -> list[tuple[str, Parser]]:
        return [("spot/instance-action", spot_action), ("events/recommendations/rebalance", rebalance)]

    def get(self, path: str) -> str | None:
        answer = self._read(path) if self._token else None
        if answer is None or answer.status == 401:
            self._renew()
            answer = self._read(path)
        if answer.status not in (200, 404):
            raise MetadataError(self._url(path), f"status {answer.status}")
        return answer.text if answer.status == 200 else None

    def _read(self, path: str) -> Answer:
        return _ask(self._url(path), {"X-aws-ec2-metadata-token": self._token})

    def _url(self, path: str) -> str:
        return f"{self._base}/latest/meta-data/{path}"

    def _renew(self) -> Answer:
        answer = _ask(f"{self._base}/latest/api/token", {self._TTL: "21600"}, "PUT")
        self._token = answer.text.strip() if answer.status == 200 and answer.text.isascii() else ""
        return answer


class Gcp(Cloud):
    """Two values of the instance; every true answer carries the header that every question must carry."""

    name, variable = "gcp", "GCE_METADATA_HOST"
    _FLAVOR: ClassVar[dict[str, str]] = {"Metadata-Flavor": "Google"}

    def __init__(self) -> None:
        self._base = f"http://{os.environ.get(self.variable) or '169.254.169.254'}"

    def is_here(self) -> bool:
        return _ask(f"{self._base}/", self._FLAVOR).headers.get("Metadata-Flavor") == "Google"

    def pages(self) -> list[tuple[str, Parser]]:
        return [("preempted", preempted), ("maintenance-event", maintenance)]

    def get(self, path: str) -> str | None:
        url = f"{self._base}/computeMetadata/v1/instance/{path}"
        answer = _ask(url, self._FLAVOR)
        if answer.status != 200:
            raise MetadataError(url, f"status {answer.status}")
        if answer.headers.get("Metadata-Flavor") != "Google":
            raise MetadataError(url, "not Google's metadata server")
        return answer.text


class Azure(Cloud):
    """One document for the scale set; this machine's name says which of its events are ours."""

    name, variable = "azure", "MIXER_AZURE_METADATA_ENDPOINT"
    _NAME = "instance/compute/name?api-version=2021-02-01&format=text"

    def __init__(self) -> None:
        self._base = (os.environ.get(self.variable) or _LOCAL).rstrip("/")
        self._name = ""

    def is_here(self) -> bool:
        answer = _ask(f"{self._base}/metadata/{self._NAME}", {"Metadata": "true"})
        return answer.status == 200 and bool(answer.text.strip())

    def pages(self) -> list[tuple[str, Parser]]:
        return [("scheduledevents?api-version=2020-07-01", self._ours)]

    def get(self, path: str) -> str | None:
        url = f"{self._base}/metadata/{path}"
        answer = _ask(url, {"Metadata": "true"})
        if answer.status != 200:
            raise MetadataError(url, f"status {answer.status}")
        return answer.text

    def _ours(self, text: str, now: float) -> list[Event]:
        self._name = self._name or (self.get(self._NAME) or "").strip()
        if not self._name:
            raise MetadataError(self._NAME, "no name of this machine")
        return scheduled(text, now, machine=self._name)


CLOUDS: dict[str, Callable[[], Cloud]] = {"aws": Aws, "gcp": Gcp, "azure": Azure}


def find() -> Cloud | None:
    """The cloud whose metadata server answers here. Where an address is set in the environment, only that cloud is asked (3 s at most)."""
    off = os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true"
    known = [make() for name, make in CLOUDS.items() if not (off and name == "aws")]
    told = [cloud for cloud in known if os.environ.get(cloud.variable)]
    for cloud in told or known:
        try:
            if cloud.is_here():
                return cloud
        except MetadataError:
            continue
    return None
