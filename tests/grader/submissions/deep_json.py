"""Answers with JSON that is nested too deeply to be read."""

from fastapi import FastAPI
from starlette.responses import Response

BODY = b"[" * 200_000


async def deep(self, scope, receive, send):
    if scope["type"] == "http":
        await Response(BODY, media_type="application/json")(scope, receive, send)
    else:
        await receive()
        await send({"type": "lifespan.startup.complete"})


FastAPI.__call__ = deep
