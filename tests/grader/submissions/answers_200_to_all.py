"""Answers 200 to everything, without an agent."""

from fastapi import FastAPI
from starlette.responses import JSONResponse


async def fine(self, scope, receive, send):
    if scope["type"] == "http":
        body = {"response": "Good.", "session_id": "s", "message_count": 2, "sessions": 0, "metadata": {}}
        await JSONResponse(body)(scope, receive, send)
    else:
        await receive()
        await send({"type": "lifespan.startup.complete"})


FastAPI.__call__ = fine
