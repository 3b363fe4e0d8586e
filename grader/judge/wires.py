"""The far end of a submission's wires: what it sees at a port of its own is served out here."""

import asyncio
import contextlib
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

Address = Path | tuple[str, int]
PIECE = 65536


class Wires:
    """A thread that joins connections which a submission makes to what the judge has for it."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wires", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def join(self, door: socket.socket, address: Address) -> None:
        """Send on everything that comes through `door` from now on, until it is closed."""
        copy = door.dup()  # the loop's own, so that nobody closes it under its hands

        async def serve() -> None:
            async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await _forward(reader, writer, address)

            await asyncio.start_server(forward, sock=copy)

        asyncio.run_coroutine_threadsafe(serve(), self._loop).result()


async def _forward(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: Address
) -> None:
    try:
        far_reader, far_writer = await _connect(address)
    except OSError:
        writer.transport.abort()  # as if nothing listened
        return
    await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))


async def _connect(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(address, Path):
        return await asyncio.open_unix_connection(str(address))
    return await asyncio.open_connection(*address)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one side is through, and then tell the other."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(PIECE):
            writer.write(data)
            await writer.drain()
    writer.close()
