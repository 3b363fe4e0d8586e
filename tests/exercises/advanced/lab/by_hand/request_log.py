"""The line of a request, written by a block that the request is in."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from advanced.app.logs import notes
from advanced.app.monitoring import endpoint_of, method_of

logger = logging.getLogger("requests")


class RequestLog:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with line_of(scope) as facts:

            async def seen(message: Message) -> None:
                facts.setdefault("status", message.get("status"))
                await send(message)

            await self.app(scope, receive, seen)


@contextmanager
def line_of(scope: Scope) -> Iterator[dict[str, Any]]:
    facts: dict[str, Any] = {"request_id": scope["state"]["request_id"]}
    token = notes.set(facts)
    began = time.monotonic()
    try:
        yield facts
    finally:
        facts |= {"method": method_of(scope), "route": endpoint_of(scope)}
        facts |= {"client": scope["client"][0], "duration": time.monotonic() - began}
        logger.warning("answered", extra={"facts": facts})
        notes.reset(token)
