"""Sees each request once: when its last byte is sent, or its client has gone, it is told of."""

import logging
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from advanced.app.logs import notes
from advanced.app.monitoring import endpoint_of, method_of, request_count, request_duration

logger = logging.getLogger(__name__)


class RequestLog:
    """Metrics are its business, too, whether or not somebody may read them."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        seen = Seen(scope, send)
        try:
            return await self.app(scope, receive, seen.send)
        finally:
            seen.tell()


class Seen:
    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._began = time.perf_counter()
        self._status = 0
        self._told = False
        self.facts: dict[str, Any] = {"request_id": scope["state"]["request_id"]}
        notes.set(self.facts)

    async def send(self, message: Message) -> None:
        await self._send(message)
        self._status = message.get("status", self._status)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.tell()

    def tell(self) -> None:
        if self._told:
            return
        self._told = True
        seconds = time.perf_counter() - self._began
        count_request(self._scope, str(self._status or "gone"), seconds)
        self.facts.update(
            method=method_of(self._scope),
            route=endpoint_of(self._scope),
            status=self._status or None,
            duration=round(seconds, 4),
            client=self._scope["client"][0],
        )
        logger.info("%s answered", method_of(self._scope), extra={"facts": self.facts})


def count_request(scope: Scope, status: str, seconds: float) -> None:
    """To be called by whoever saw the request's end."""
    where = {"method": method_of(scope), "endpoint": endpoint_of(scope)}
    request_count.labels(status=status, **where).inc()
    request_duration.labels(**where).observe(seconds)
