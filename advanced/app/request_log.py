"""One line of the log for each request, written when its last byte is sent."""

import logging
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .logs import notes
from .monitoring import endpoint_of, method_of

logger = logging.getLogger(__name__)


class RequestLog:
    """Logs each request at its end; a stream's is its last byte. Times are seconds."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = time.perf_counter()
        facts: dict[str, Any] = {"request_id": scope["state"]["request_id"]}
        notes.set(facts)
        status = None  # the client left before there was one

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            line = {
                "method": method_of(scope),
                "route": endpoint_of(scope),
                "status": status,
                "client": scope["client"][0],
                "duration": round(time.perf_counter() - started, 6),
                **facts,
            }
            logger.info("request", extra={"facts": line})
        return None
