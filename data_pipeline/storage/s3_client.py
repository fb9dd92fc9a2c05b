"""One connection to one bucket: boto3 with a retry budget of our own and errors in our own words.

botocore is told to try once (`total_max_attempts`; its `max_attempts: 1` would mean two), because it neither
retries a body that breaks off nor knows about a conditional put whose reply was lost. Here a request is sent
again, after a jittered pause, while the failure is a passing one and the patience is not used up.

What the server says is translated by code and status only: bodies of S3 errors can echo key ids and signed
strings.
"""

from __future__ import annotations

import functools
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore import exceptions as aws
from botocore.config import Config
from botocore.loaders import create_loader

from data_pipeline.errors import AccessDenied, NotFound, StoreError, Unavailable
from data_pipeline.storage.s3_ranges import range_gets

T = TypeVar("T")

FIRST_PAUSE_S, LONGEST_PAUSE_S, MIN_TRIES = 0.1, 5.0, 3
MISSING = {"NoSuchKey", "404", "NotFound", "NoSuchUpload"}
DENIED = {
    "403",
    "401",
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
}
PASSING = {
    "SlowDown",
    "RequestTimeout",
    "RequestTimeoutException",
    "Throttling",
    "ThrottlingException",
    "429",
}
PASSING |= {
    "ConditionalRequestConflict",
    "OperationAborted",
    "InternalError",
    "ServiceUnavailable",
    "BadDigest",
}
EXISTS = {"PreconditionFailed", "412"}
BROKEN_WIRE = (
    aws.HTTPClientError,
    aws.ConnectionError,
    aws.IncompleteReadError,
    aws.ResponseStreamingError,
    OSError,
)
NO_CREDENTIALS = (aws.NoCredentialsError, aws.PartialCredentialsError, aws.ProfileNotFound)
CREDENTIALS_HINT = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give this machine a role"


class Taken(StoreError):
    """A conditional put found something there."""


class Unsupported(StoreError):
    """The server does not implement what was asked (501)."""


class S3Client:
    """A boto3 client for `bucket`. `call` is the only way to it. Safe to use from several threads."""

    def __init__(self, bucket: str, *, patience_s: float) -> None:
        self.bucket = bucket
        self.patience_s = patience_s
        self.retries = 0
        self._lock = threading.Lock()
        try:
            session, self._client, amazon = _connect()
            self.ranges = range_gets(session, self._client, bucket, amazon=amazon)
        except (*NO_CREDENTIALS, aws.CredentialRetrievalError) as error:
            raise AccessDenied(
                f"cannot open s3://{bucket}: {type(error).__name__}; {CREDENTIALS_HINT}"
            ) from None
        except (aws.BotoCoreError, ValueError) as error:
            raise StoreError(
                f"cannot open s3://{bucket}: {type(error).__name__} from the AWS configuration; "
                "check AWS_ENDPOINT_URL (http://host:port), AWS_REGION and ~/.aws/config"
            ) from None
        self.endpoint = _without_user(self._client.meta.endpoint_url)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.bucket, self.patience_s)

    def call(self, operation: str, key: str, finish: Callable[[Any], T], **parameters: Any) -> T:
        """`finish` of the response of one S3 operation on the bucket, sent again while that may help.

        `finish` reads the body, so that a body that breaks off is asked for again too. Raises NotFound,
        AccessDenied, Taken, Unsupported, Unavailable, or StoreError for all else.
        """
        return self.again(operation, key, lambda: self.once(operation, finish, **parameters))

    def once(self, operation: str, finish: Callable[[Any], T], **parameters: Any) -> T:
        """The same, sent once. Raises what boto3 does; inside `again` that is translated."""
        return finish(getattr(self._client, operation)(Bucket=self.bucket, **parameters))

    def again(self, operation: str, key: str, attempt: Callable[[], T]) -> T:
        """What `attempt` gives, tried until it works, fails for good, or the patience is used up."""
        started, pause = time.monotonic(), FIRST_PAUSE_S
        tries = 1
        while True:
            failure = None
            try:
                return attempt()
            except (aws.ClientError, aws.BotoCoreError, Unavailable, OSError) as error:
                failure = self._translate(operation, key, error)
            spent = time.monotonic() - started
            if not isinstance(failure, Unavailable):
                raise failure
            if spent + pause > self.patience_s and tries >= MIN_TRIES:
                raise Unavailable(f"{failure}; given up after {tries} tries in {spent:.0f} s")
            with self._lock:
                self.retries += 1
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause, tries = min(LONGEST_PAUSE_S, pause * 2), tries + 1

    def _translate(self, operation: str, key: str, error: Exception) -> StoreError:
        where = f"s3://{self.bucket}/{key}".rstrip("/")
        if isinstance(error, Unavailable):
            return error
        if isinstance(error, aws.ClientError):
            return self._translate_reply(f"{operation} {where}", error.response)
        if isinstance(error, NO_CREDENTIALS):
            return AccessDenied(f"{operation} {where}: no credentials were found; {CREDENTIALS_HINT}")
        if isinstance(error, BROKEN_WIRE):
            return Unavailable(f"{operation} {where}: {type(error).__name__} talking to {self.endpoint}")
        return StoreError(f"{operation} {where}: {type(error).__name__} (before anything was sent)")

    def _translate_reply(self, what: str, response: Any) -> StoreError:
        code = str(response.get("Error", {}).get("Code", ""))
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        said = f"{what}: {self.endpoint} said {code or 'nothing'} (HTTP {status})"
        if code == "NoSuchBucket":
            return StoreError(
                f"there is no bucket {self.bucket!r} at {self.endpoint}: create it, or correct the url"
            )
        if code in MISSING or status == 404:
            return NotFound(f"there is no {what.partition(' ')[2]}")
        if code in DENIED or status in (401, 403):
            return AccessDenied(
                f"{said}; check the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE, ...) and their rights"
            )
        if code in EXISTS or status == 412:
            return Taken(said)
        if status == 416:
            return StoreError(
                f"{what.partition(' ')[2]}: the object is shorter than the bytes that were asked for"
            )
        if status == 501:
            return Unsupported(said)
        return Unavailable(said) if code in PASSING or status >= 500 or status == 429 else StoreError(said)


def _connect() -> tuple[Any, Any, bool]:
    """Session and client from the usual AWS chain, and whether it is Amazon's; elsewhere addresses are path-style."""
    session = new_session()
    client = _client(session, {})
    if session.get_credentials() is None:
        raise aws.NoCredentialsError
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    amazon = host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
    return session, client if amazon else _client(session, {"addressing_style": "path"}), amazon


def new_session() -> Any:
    """A boto3 session of this moment's environment.

    Sessions share one reader of botocore's descriptions of services: parsing them again for each takes a quarter of a second, and a
    rank opens several stores.
    """
    core = botocore.session.Session()
    session = boto3.session.Session(botocore_session=core)
    # Not before: boto3 adds a path of its own to the reader that it finds, and a shared one would grow with each session.
    core.register_component("data_loader", _loader(core.get_config_variable("data_path")))
    return session


@functools.cache
def _loader(data_path: str | None) -> Any:
    return create_loader(data_path)


def _client(session: Any, s3: dict[str, str]) -> Any:
    config = Config(
        retries={"total_max_attempts": 1, "mode": "standard"},
        s3=s3,
        request_checksum_calculation="when_required",  # rclone and others send wrong ones back on ranges
        response_checksum_validation="when_required",
        connect_timeout=5,
        read_timeout=30,
        max_pool_connections=64,
        tcp_keepalive=True,
    )
    return session.client("s3", config=config)


def _without_user(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _reopen(bucket: str, patience_s: float) -> S3Client:
    return S3Client(bucket, patience_s=patience_s)
