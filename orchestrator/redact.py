"""What must be taken out of a text before a person sees it: credentials, and bytes that command a terminal.

Credentials never reach a spec or a log of ours; but an error's text is somebody else's, and may hold a url
with a password, a signed url, or a key out of the environment.
"""

from __future__ import annotations

import os
import re

HIDDEN = "***"
_SECRET_NAMES = ("SECRET", "TOKEN", "PASSWORD", "ACCESS_KEY", "API_KEY", "CREDENTIAL")
_SHORTEST_SECRET = 8  # a shorter value would hide words
_PATTERNS = (
    (re.compile(r"(://)[^/@\s'\"<>]+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), HIDDEN),
    (
        re.compile(
            r"(?i)\b(X-Amz-(?:Signature|Credential|Security-Token)|Signature|AWSAccessKeyId)=[^&\s'\"<>]+"
        ),
        rf"\1={HIDDEN}",
    ),
    (
        re.compile(
            r"(?i)\b((?:aws_)?(?:secret_access_key|secret_key|session_token|access_key_id|password))"
            r"(['\"]?\s*[=:]\s*['\"]?)[^\s'\",;&]+"
        ),
        rf"\1\2{HIDDEN}",
    ),
    (re.compile(r"(?i)\b(authorization['\"]?\s*[=:]\s*['\"]?)[^'\"\r\n]+"), rf"\1{HIDDEN}"),
)
_TERMINAL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)


def redact(text: str) -> str:
    """`text` with `***` for its credentials, and without control characters but tab and newline."""
    text = _TERMINAL.sub("", text)
    for value in _secrets():
        text = text.replace(value, HIDDEN)
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


def first_line(text: str, limit: int = 200) -> str:
    """The first line of `text` that says something, redacted, at most `limit` characters."""
    lines = (" ".join(line.split()) for line in redact(text).splitlines())
    line = next((line for line in lines if line), "")
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _secrets() -> list[str]:
    """Values of this process's environment that are credentials, the longest first."""
    found = {
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST_SECRET and any(word in name.upper() for word in _SECRET_NAMES)
    }
    return sorted(found, key=len, reverse=True)
