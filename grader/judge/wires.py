"""The far end of a submission's wires: what it sees at a port of its own is served out here."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

Result = TypeVar("Result")
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
        self._loop.run_until_complete(_end(asyncio.all_tasks(self._loop)))
        self._loop.close()

    @contextmanager
    def joined(self, door: socket.socket, address: Address) -> Iterator[None]:
        """While the block lasts, everything that comes through `door` goes on to `address`."""

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _forward(reader, writer, address)

        server = self._run(asyncio.start_server(forward, sock=door))
        try:
            yield
        finally:
            self._run(_close(server))

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)  # in which transports close their sockets


async def _close(server: asyncio.Server) -> None:
    server.close()


async def _forward(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: Address
) -> None:
    try:
        far_reader, far_writer = await _connect(address)
    except OSError:
        writer.transport.abort()  # as if nothing listened
        return
    try:
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        with contextlib.suppress(OSError):  # until all of it is sent
            await asyncio.gather(writer.wait_closed(), far_writer.wait_closed())
    finally:
        writer.transport.abort()
        far_writer.transport.abort()


async def _connect(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(address, Path):
        return await asyncio.open_unix_connection(str(address))
    return await asyncio.open_connection(*address)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one side is through, and then tell the other."""
    with contextlib.suppress(OSError):
        while data := await reader.read(PIECE):
            writer.write(data)
            await writer.drain()
    writer.close()
