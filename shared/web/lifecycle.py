"""Start and stop: a refusal to start is one sentence, and a shutdown lets open answers end."""

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from pydantic import ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import ConfigurationError
from shared.turns import Turns

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 5.0
"""How long open answers may go on once the process has been told to stop."""

LAST_SECONDS = 2.0
"""How long after that a client that neither reads nor finishes may keep the process."""


class PlainRefusal:
    """Says in one sentence why the service does not start, where the default is a traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            return await self.app(scope, receive, send)
        failure: Message | None = None

        async def hold_failure(message: Message) -> None:
            nonlocal failure
            if message["type"] == "lifespan.startup.failed":
                failure = message
            else:
                await send(message)

        try:
            return await self.app(scope, receive, hold_failure)
        except (ConfigurationError, UnicodeDecodeError, ValidationError) as exc:
            await send({"type": "lifespan.startup.failed", "message": sentence(exc)})
        except BaseException:
            if failure is not None:
                await send(failure)
            raise


def sentence(exc: ConfigurationError | UnicodeDecodeError | ValidationError) -> str:
    """What is wrong with which setting; never the value, which may be a secret."""
    if isinstance(exc, UnicodeDecodeError):
        return "The file .env is not UTF-8: save it as UTF-8 in your editor, and start again."
    if isinstance(exc, ConfigurationError):
        return str(exc)
    faults = (
        f"{'.'.join(map(str, error['loc']))}: {complaint(error)}"
        for error in exc.errors()
        if error["type"] != "default_factory_not_called"  # nothing is wrong with that one
    )
    return f"The service does not start as configured: {'; '.join(faults)}."


def complaint(error: Mapping[str, Any]) -> str:
    """A pattern says little to people, so a setting that has one says what it looks like."""
    if error["type"] == "string_pattern_mismatch" and error["loc"][0] == "CORS_ORIGINS":
        return "must be origins such as https://course.example, separated by commas"
    return str(error["msg"])


@asynccontextmanager
async def ending_turns_at_shutdown(turns: Turns) -> AsyncIterator[None]:
    """Drain the turns as soon as the process is told to stop.

    uvicorn waits for open streams for ever, or cuts them without an event, and it runs the
    lifespan's own shutdown only after that. So this listens to the signal, beside uvicorn.
    """
    loop = asyncio.get_running_loop()
    leaving: list[asyncio.Task[None]] = []

    def leave(number: int) -> None:
        if not leaving:
            leaving.append(loop.create_task(drain_and_leave(turns, number)))

    def told(number: int) -> None:
        if leaving and number == signal.SIGINT:  # a second Ctrl-C: at once, and in silence, where
            os._exit(128 + number)  # uvicorn would print a traceback for each open stream
        loop.call_soon_threadsafe(leave, number)

    with signals_also_call(told):
        yield
    for task in leaving:
        task.cancel()


def end_with_the_parent() -> None:
    """A worker whose parent was killed is told to stop: nobody else would, and it has the port."""

    def wait(parent: BaseProcess) -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=wait, args=[parent], name="parent", daemon=True).start()


async def drain_and_leave(turns: Turns, number: int) -> None:
    """Cancelled by an orderly shutdown; otherwise the process ends here, by the same signal."""
    await turns.drain(DRAIN_SECONDS)
    await asyncio.sleep(LAST_SECONDS)
    logger.warning("Some clients neither read nor finish what they began; leaving without them.")
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


@contextmanager
def signals_also_call(listener: Callable[[int], object]) -> Iterator[None]:
    """Call the server's own handlers for SIGINT and SIGTERM, and then the listener.

    Only where the server has handlers, and in the main thread: nowhere else can Python set them.
    """
    handlers: dict[int, Callable[[int, FrameType | None], object]] = {}
    if threading.current_thread() is threading.main_thread():
        for sig in (signal.SIGINT, signal.SIGTERM):
            if callable(previous := signal.getsignal(sig)):
                handlers[sig] = previous

    def handle(number: int, frame: FrameType | None) -> None:
        handlers[number](number, frame)
        listener(number)

    for number in handlers:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
