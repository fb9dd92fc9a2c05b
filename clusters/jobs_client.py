"""The door to a cluster's Ray Jobs server: which url, which token, and whose exceptions.

The chain: `dashboard_url` makes an http url of any address -> `client` is Ray's JobSubmissionClient for
exactly that url, with the token as it stands now -> what it raises becomes JobError or one of the kinds
under it:

    JobError
      Unreachable       no dashboard answers
      NotAllowed        the cluster wants a token, or another one
      NoSuchJob         it knows no job of this id
      AlreadySubmitted  the submission id was used before

ray is imported on first use only.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHATTER = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)


class JobError(Exception):
    """Something about a Ray job; the message says what and what to do."""


class Unreachable(JobError):
    """No dashboard answers at the address."""


class NotAllowed(JobError):
    """The cluster wants a token, or another one."""


class NoSuchJob(JobError):
    """The cluster knows no job of this id."""


class AlreadySubmitted(JobError):
    """The submission id was used before on this cluster."""


@contextmanager
def client(address: str | None) -> Iterator[Any]:
    """Ray's client for an address; what it raises becomes ours. Ray's constructor is passed over: there
    RAY_ADDRESS would win over the address we were given."""
    from ray.job_submission import JobSubmissionClient

    url = dashboard_url(address)
    door = JobSubmissionClient.__new__(JobSubmissionClient)
    for name in CHATTER:
        logging.getLogger(name).setLevel(logging.WARNING)
    with _translated(url):
        super(JobSubmissionClient, door).__init__(address=url, headers=_headers())
        door._client_ray_version = _ray_version()
        door._ssl_context = True  # its own None makes aiohttp warn; both mean: verify
        door._check_connection_and_version()
        yield door


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Foreign exceptions become ours, at this one border."""
    from ray.exceptions import AuthenticationError
    from requests.exceptions import RequestException

    try:
        yield
    except AuthenticationError as error:
        first = str(error).splitlines()[0]
        raise NotAllowed(
            f"the cluster at {url} refused us: {first} "
            "Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN)"
        ) from None
    except (ConnectionError, RequestException) as error:
        raise Unreachable(f"no Ray dashboard answers at {url} ({error}); is the cluster up?") from None
    except RuntimeError as error:
        raise _error(str(error), url) from None


def _error(text: str, url: str) -> JobError:
    """Ray's client raises RuntimeError for everything; the text tells which."""
    if "already exists" in text:
        return AlreadySubmitted(f"this submission id was used before on the cluster at {url}; take another")
    if "does not exist" in text or "status code 404" in text:
        return NoSuchJob(f"no such job on the cluster at {url}")
    if "WebSocket" in text:
        return Unreachable(f"the connection to {url} was lost: {text}")
    return JobError(f"the cluster at {url} said: {text}")


def dashboard_url(address: str | None) -> str:
    """The dashboard's http url of an address."""
    address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    if not address:
        raise JobError(
            "no cluster was named; give the dashboard's address (http://host:8265) or set RAY_ADDRESS"
        )
    if address.startswith(("http://", "https://")):
        return address.rstrip("/")
    from ray.dashboard.utils import ray_address_to_api_server_url, ray_client_address_to_api_server_url

    convert: Callable[[str], str] = ray_address_to_api_server_url
    if "://" in address:
        convert = ray_client_address_to_api_server_url
    try:
        return convert(address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise Unreachable(f"no Ray cluster answers at {address}: {error}") from error


def _headers() -> dict[str, str]:
    """The token, read as Ray reads it, at every call: Ray's own reader keeps the first one it saw."""
    if os.environ.get("RAY_AUTH_MODE") != "token":
        return {}
    token = os.environ.get("RAY_AUTH_TOKEN")
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not token:
        if not path.is_file():
            raise NotAllowed(f"RAY_AUTH_MODE=token, but there is no RAY_AUTH_TOKEN and no file {path}")
        token = path.read_text().strip()
    return {"Authorization": f"Bearer {token}"}


def _ray_version() -> str:
    import ray

    return str(ray.__version__)
