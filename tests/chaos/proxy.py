"""A proxy between a run and its S3 store that does to requests what networks and overloaded stores do.

`python -m tests.chaos.proxy UPSTREAM PORT SOCKET [SEED]`. The client signs for the proxy's address and the proxy passes headers on
untouched, so signatures stay valid. Rules come as JSON lines over the unix socket; the first rule that matches a request and has
hits left is applied. Every request and every deed is counted: a fault that nobody met is not a fault.

What a rule can do: `503` (refused, not passed on), `reset` (RST, not passed on), `cut` (half of the upload passed on, then RST to
both), `lost` (passed on and done, the reply dropped), `latency` (late by `seconds`), `freeze` (requests wait until the rule is
over). And to the body of a reply, at byte `at` of it (from the end where negative, else in the middle): `truncate` (it ends there,
in a RST where `abrupt`), `short` (it ends there, and its length says so), `stall` (for `seconds`, then it ends), `flip` (one bit),
`swap` (what follows is turned round).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import unquote

from tests.chaos.wire import LIMIT, Message, error_reply, read_reply, read_request, reset

DEEDS = ("503", "reset", "cut", "lost", "latency", "freeze", "truncate", "short", "stall", "flip", "swap")


@dataclass
class Rule:
    """What happens to requests whose method and path match (regular expressions), until `until` (Unix seconds)."""

    deed: str
    method: str = ".*"
    path: str = ""
    share: float = 1.0  # of the matching requests
    times: int = -1  # hits left; negative: no limit
    seconds: float = 0.0  # of `latency` and `stall`
    until: float = float("inf")
    conditional: bool = False  # only puts with If-None-Match
    number: int = 0  # of the fault it belongs to; deeds are counted under it
    at: int | None = None  # byte of the reply's body
    abrupt: bool = False

    def __post_init__(self) -> None:
        if self.deed not in DEEDS:
            raise ValueError(f"deed got {self.deed!r}; allowed are {', '.join(DEEDS)}")

    def place(self, body: bytes) -> int:
        """The byte of the body where it happens."""
        if self.at is None:
            return len(body) // 2
        return max(0, min(len(body) - 1, self.at if self.at >= 0 else len(body) + self.at))

    def meets(self, method: str, path: str, conditional: bool) -> bool:
        """Whether it is about this request, now."""
        asked = re.fullmatch(self.method, method) and re.search(self.path, path)
        return bool(asked and self.times and time.time() < self.until and conditional >= self.conditional)


class Proxy:
    """Its rules and its counts."""

    def __init__(self, host: str, port: int, seed: int = 0) -> None:
        self._upstream = (host, port)
        self._random = random.Random(seed)
        self.rules: list[Rule] = []
        self.asked: Counter[str] = Counter()  # by method and first folder below the run, as "PUT checkpoints"
        self.done: Counter[int] = Counter()  # deeds by the number of the fault

    def take(self, request: Message) -> Rule | None:
        """The rule for this request, its hit counted."""
        method, path = request.words[0], unquote(request.words[1].partition("?")[0])
        self.asked[f"{method} {_folder(path)}"] += 1
        conditional = bool(request.header("if-none-match"))
        for rule in self.rules:
            if rule.meets(method, path, conditional) and self._random.random() < rule.share:
                rule.times -= 1
                self.done[rule.number] += 1
                return rule
        return None

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client, request after request."""
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while await self._one(reader, writer):
                pass
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection goes on."""
        request = await read_request(reader, writer)
        rule = self.take(request)
        deed = rule.deed if rule else ""
        if rule and deed in ("latency", "freeze"):
            await asyncio.sleep(rule.seconds if deed == "latency" else max(0.0, rule.until - time.time()))
        if deed == "503":
            return await _answer(writer, error_reply(503, "SlowDown", request.words[0]), None)
        if deed == "reset":
            reset(writer)
            return False
        reply = await self._pass_on(request, cut=deed == "cut")
        if reply is None or deed == "lost":
            reset(writer)
            return False
        return await _answer(writer, reply, rule)

    async def _pass_on(self, request: Message, *, cut: bool) -> Message | None:
        """The store's reply. None where the upload was cut, or the store is gone."""
        try:
            reader, writer = await asyncio.open_connection(*self._upstream, limit=LIMIT)
        except OSError:
            return None
        try:
            whole = request.to_bytes(close=True)
            writer.write(whole[: len(whole) - (len(request.body) + 1) // 2] if cut else whole)
            await writer.drain()
            if cut:
                reset(writer)
                return None
            return await read_reply(reader, request.words[0])
        except (asyncio.IncompleteReadError, OSError):
            return None
        finally:
            writer.close()

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One order per line: {"add": rule}, {"end": number} or {}; each is answered with the counts."""
        while line := await reader.readline():
            order = json.loads(line)
            if "add" in order:
                self.rules.append(Rule(**order["add"]))
            if "end" in order:
                self.rules = [rule for rule in self.rules if rule.number != order["end"]]
            told = {"asked": self.asked, "done": self.done, "rules": [asdict(rule) for rule in self.rules]}
            writer.write(json.dumps(told).encode() + b"\n")
            await writer.drain()
        writer.close()


async def _answer(writer: asyncio.StreamWriter, reply: Message, rule: Rule | None) -> bool:
    """Send the reply, spoiled where asked for; whether the connection goes on."""
    deed, at = (rule.deed, rule.place(reply.body)) if rule and reply.body else ("", 0)
    _spoil(reply, deed, at)
    whole = reply.to_bytes(close=False)
    broken = deed in ("truncate", "stall")
    writer.write(whole[: len(whole) - len(reply.body) + at] if broken else whole)
    await writer.drain()
    if rule and deed == "stall":
        await asyncio.sleep(rule.seconds)
    if rule and broken and rule.abrupt:
        reset(writer)
    return not broken


def _spoil(reply: Message, deed: str, at: int) -> None:
    body = bytearray(reply.body)
    if deed == "flip":
        body[at] ^= 1
    elif deed == "swap":
        body[at:] = body[at:][::-1]
    elif deed == "short":
        del body[at:]
    reply.body = bytes(body)


def _folder(path: str) -> str:
    """`checkpoints` of `/bucket/runs/name/checkpoints/...`; the first folder of what lies elsewhere."""
    parts = path.strip("/").split("/")
    return parts[3] if len(parts) > 3 and parts[1] == "runs" else (parts[1] if len(parts) > 1 else "")


async def serve(upstream: tuple[str, int], port: int, control: str, seed: int = 0) -> None:
    """Serve until this process is ended."""
    proxy = Proxy(*upstream, seed)
    await asyncio.start_server(proxy.client, "127.0.0.1", port, limit=LIMIT)
    await asyncio.start_unix_server(proxy.control, control)
    await asyncio.Event().wait()


def main(argv: list[str]) -> None:
    host, _, upstream = argv[0].rpartition(":")
    seed: Any = argv[3] if len(argv) > 3 else 0
    asyncio.run(serve((host, int(upstream)), int(argv[1]), argv[2], int(seed)))


if __name__ == "__main__":
    main(sys.argv[1:])
