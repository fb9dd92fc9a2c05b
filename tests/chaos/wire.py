"""One HTTP/1.1 message at a time, whole in memory: what the faulty proxy needs to read, pass on and spoil one."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass, field

LIMIT = 1 << 20  # of a head, or of a line
NO_BODY = (204, 304)
HOP = ("expect", "connection", "keep-alive", "transfer-encoding", "content-length")


@dataclass
class Message:
    """A request or a reply. `first` is its first line; `promised` its Content-Length where it comes without a body."""

    first: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    promised: int | None = None
    words: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.words = self.first.split(" ", 2)

    @property
    def status(self) -> int:
        """Of a reply."""
        return int(self.words[1])

    def header(self, name: str) -> str:
        """The value of a header, empty when it is not there."""
        return next((value for key, value in self.headers if key.lower() == name), "")

    def to_bytes(self, *, close: bool) -> bytes:
        """The message with its body, and with a length in place of chunks."""
        lines = [self.first] + [f"{key}: {value}" for key, value in self.headers if key.lower() not in HOP]
        length = len(self.body) if self.promised is None else self.promised
        if not (self.first.startswith("HTTP/") and self.status in NO_BODY):
            lines.append(f"Content-Length: {length}")
        lines.append(f"Connection: {'close' if close else 'keep-alive'}")
        return "\r\n".join([*lines, "", ""]).encode("latin1") + self.body


def error_reply(status: int, code: str, method: str) -> Message:
    """What an S3 server refuses a request of `method` with."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>chaos</Message></Error>".encode()
    first, headers = f"HTTP/1.1 {status} {code}", [("Content-Type", "application/xml")]
    return Message(first, headers, b"", len(body)) if method == "HEAD" else Message(first, headers, body)


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Message:
    """The next request with its body; a client that waits for "100 Continue" is told to go on."""
    message = await _head(reader)
    if message.header("expect").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
    message.body = await _body(reader, message)
    return message


async def read_reply(reader: asyncio.StreamReader, method: str) -> Message:
    """The final reply to a request of `method`."""
    while True:
        message = await _head(reader)
        if message.status == 100:
            continue
        if method == "HEAD" or message.status in NO_BODY:
            message.promised = int(message.header("content-length") or 0)
        else:
            message.body = await _body(reader, message)
        return message


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST, as a machine that crashed would."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _head(reader: asyncio.StreamReader) -> Message:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return Message(first, [(key, value.strip()) for key, _, value in pairs])


async def _body(reader: asyncio.StreamReader, message: Message) -> bytes:
    if message.header("transfer-encoding").lower() == "chunked":
        return await _chunks(reader)
    return await reader.readexactly(int(message.header("content-length") or 0))


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    whole = bytearray()
    while size := int((await reader.readline()).split(b";")[0], 16):
        whole += (await reader.readexactly(size + 2))[:-2]
    while (await reader.readline()).strip():
        pass
    return bytes(whole)
