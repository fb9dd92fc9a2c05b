"""A server of this machine, seen from a host (tests/hosts.py) at the host's own address, until its cable is cut.

`relay(host.listen(9000), endpoint_of_the_server)` passes bytes both ways, unchanged, so that signatures of
S3 requests stay valid: they are made for the address the client uses.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit


@contextmanager
def relay(listening: socket.socket, endpoint: str) -> Iterator[str]:
    """Serve for the length of the block; yields the url that clients use instead of `endpoint`."""
    there, (ip, port) = urlsplit(endpoint), listening.getsockname()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=_run, args=(loop, listening, there.hostname, there.port), daemon=True)
    thread.start()
    try:
        yield f"http://{ip}:{port}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        listening.close()


def _run(loop: asyncio.AbstractEventLoop, listening: socket.socket, ip: str, port: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there = await asyncio.open_connection(ip, port)
            await asyncio.gather(_pump(reader, there[1]), _pump(there[0], writer))

    listening.setblocking(False)
    server = loop.run_until_complete(asyncio.start_server(serve, sock=listening))
    loop.run_forever()
    server.close()
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
