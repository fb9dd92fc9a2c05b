"""Objects under a url, the same for a bucket and for a folder.

The chain: `open_store(url)` looks at the scheme and gives an S3 store or a local one; both hold to `Store`.
Everything that leaves this machine or reaches a disk in data sets and runs goes through here: whole objects,
byte ranges, conditional puts (what makes a run's log safe), bounded-memory uploads.

Does not cache, does not compress, and checks lengths only: whoever stores content also stores its checksum.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from data_pipeline.errors import AccessDenied, NotFound, StoreError, Unavailable
from data_pipeline.storage.local import LocalStore
from data_pipeline.storage.types import Bytes, Honours, ObjectInfo, Store, join_prefix

__all__ = [
    "AccessDenied",
    "Bytes",
    "Honours",
    "NotFound",
    "ObjectInfo",
    "Store",
    "StoreError",
    "Unavailable",
    "open_store",
]

PATIENCE_S = 60.0


def open_store(url: str | Path, *, patience_s: float = PATIENCE_S) -> Store:
    """The store at `s3://bucket/prefix`, `file:///path` or a path. Sends nothing yet.

    S3 endpoint and credentials come from the usual AWS places (AWS_ENDPOINT_URL, AWS_PROFILE, roles, ...). A
    request that fails for a passing reason is sent again for up to `patience_s` seconds; in a folder that is a
    write to a full disk. Raises StoreError for another scheme, a url with credentials in it, or when no
    credentials can be found.
    """
    text = str(url)
    scheme = text.partition("://")[0] if "://" in text else ""
    if scheme == "s3":
        return _open_s3(text, patience_s)
    if scheme == "file":
        return LocalStore(_file_path(text), patience_s=patience_s)
    if scheme:
        raise StoreError(
            f"cannot open {_shown(text)}: the scheme {scheme!r} is not known. "
            "Use s3://bucket/prefix, file:///path or a path"
        )
    if not text:
        raise StoreError(
            "cannot open a store at an empty url: give s3://bucket/prefix, file:///path or a path"
        )
    return LocalStore(Path(text).expanduser(), patience_s=patience_s)


def _open_s3(url: str, patience_s: float) -> Store:
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise StoreError(
            f"cannot open {_shown(url)}: credentials do not belong into a url. "
            "Put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", parts.netloc):
        raise StoreError(f"cannot open {url!r}: it names no valid bucket. Use s3://bucket/prefix")
    if parts.query or parts.fragment:
        raise StoreError(f"cannot open {url!r}: '?' and '#' are not allowed in it. Use s3://bucket/prefix")
    from data_pipeline.storage.s3 import S3Store  # boto3 takes a while to import; folders do not need it
    from data_pipeline.storage.s3_client import S3Client

    return S3Store(S3Client(parts.netloc, patience_s=patience_s), join_prefix("", parts.path))


def _file_path(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise StoreError(f"cannot open {_shown(url)}: a file url names an absolute path, as file:///data/set")
    return Path(unquote(parts.path))


def _shown(url: str) -> str:
    return repr(re.sub(r"//[^/]*@", "//***@", url))
