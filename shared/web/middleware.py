"""The edge, in pure ASGI: headers on every response, bodies of bounded size, clients that leave."""

import asyncio
import re
import time
from types import TracebackType
from typing import Self
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 64 * 1024
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class ResponseHeaders:
    """X-Request-ID, X-Process-Time (seconds to the first byte), nosniff, and no-store.

    A client's X-Request-ID is kept when it is harmless, and replaced when it is not; the app
    finds it as `request.state.request_id`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = time.perf_counter()
        request_id = Headers(scope=scope).get("x-request-id", "")
        if not REQUEST_ID.fullmatch(request_id):
            request_id = str(uuid4())
        scope.setdefault("state", {})["request_id"] = request_id

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Process-Time"] = f"{time.perf_counter() - started:.6f}"
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        return await self.app(scope, receive, with_headers)


class BodyLimit:
    """Refuses a body over MAX_BODY bytes, announced or not, before it is held in memory.

    FastAPI's own limit answers an announced one in plain text, past the error handlers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        announced = Headers(scope=scope).get("content-length", "")
        read = 0

        async def limited() -> Message:
            nonlocal read
            if announced.isdecimal() and int(announced[:20]) > MAX_BODY:
                raise HTTPException(413)
            message = await receive()
            read += len(message.get("body", b""))
            if read > MAX_BODY:
                raise HTTPException(413)
            return message

        return await self.app(scope, limited, send)


class StopWhenClientLeaves:
    """Cancels a request, streamed or not, whose client has gone; FastAPI would let it finish."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        async with Watch(receive, send) as watch:
            await self.app(scope, watch.receive, watch.send)
        return None


class Watch:
    """Sits between server and app, and cancels the block when the client leaves unanswered.

    The app reads the body. What the server has to say after that can only be that the client left.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._gone = asyncio.Event()
        self._answered = False
        self._request = asyncio.current_task()
        self._watcher: asyncio.Task[None] | None = None

    async def receive(self) -> Message:
        if self._watcher is not None:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        message = await self._receive()
        if not message.get("more_body", False):
            self._watcher = asyncio.create_task(self._wait())
        return message

    async def send(self, message: Message) -> None:
        self._answered |= message["type"] == "http.response.body" and not message.get("more_body")
        await self._send(message)

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone.set()
        if not self._answered and self._request is not None:
            self._request.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if self._watcher is not None:
            self._watcher.cancel()
        ours = kind is asyncio.CancelledError and self._gone.is_set()
        return ours and self._request is not None and not self._request.uncancel()
