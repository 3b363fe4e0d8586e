"""Logs: one JSON object a line, one line a request, and the server's own lines like ours.

What a request learns on its way is noted with `note`, and told when the request is over. Questions
and answers, names of files and what clients write are never part of a line: only names of ours.
"""

import logging
import logging.config
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.stdlib import ProcessorFormatter
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, WrappedLogger

from .monitoring import endpoint_of, method_of

logger = logging.getLogger(__name__)

notes: ContextVar[dict[str, Any]] = ContextVar("notes")


def note(**facts: Any) -> None:
    """Add to the log line of the request that this task works for, if there is one."""
    if (noted := notes.get(None)) is not None:
        noted.update(facts)


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


def log_config(level: str, *, debug: bool = False) -> dict[str, Any]:
    """For `logging.config`, and for uvicorn. `debug` adds what an exception says to where it was
    raised: that may quote a question."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": formatter, "debug": debug}},
        "handlers": {
            "stdout": {
                "class": "logging.StreamHandler",
                "formatter": "json",
                "stream": "ext://sys.stdout",
            }
        },
        "root": {"handlers": ["stdout"], "level": level},
        "loggers": {
            # They log through the root's handler; a request has one line, ours.
            "uvicorn": {"handlers": [], "level": "INFO", "propagate": True},
            "uvicorn.error": {"handlers": [], "level": "INFO", "propagate": True},
            "uvicorn.access": {"handlers": [], "level": "WARNING", "propagate": False},
        },
    }


def configure_logs(level: str, *, debug: bool = False) -> None:
    logging.config.dictConfig(log_config(level, debug=debug))


def formatter(debug: bool = False) -> ProcessorFormatter:
    """Formats every record, ours or a library's, as one line of JSON; newlines are escaped."""
    return ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[
            with_facts,
            structlog.processors.ExceptionRenderer(Frames(debug)),
            structlog.processors.JSONRenderer(),
        ],
    )


def with_facts(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """The record's own facts, and the id of the request that it belongs to."""
    record: logging.LogRecord = event.pop("_record")
    event.pop("_from_structlog")
    if noted := notes.get(None):
        event["request_id"] = noted["request_id"]
    event.update(getattr(record, "facts", {}))
    return event


class Frames:
    """An exception as a list: its type, and where it was raised; never the values of variables."""

    def __init__(self, debug: bool) -> None:
        self._debug = debug
        self._transform = ExceptionDictTransformer(show_locals=False)

    def __call__(self, exc_info: Any) -> list[dict[str, Any]]:
        return [self._told(raised) for raised in self._transform(exc_info)]

    def _told(self, raised: Mapping[str, Any]) -> dict[str, Any]:
        frames = [f"{f['filename']}:{f['lineno']} {f['name']}" for f in raised["frames"]]
        told = {"type": raised["exc_type"], "frames": frames}
        return {**told, "says": raised["exc_value"]} if self._debug else told
