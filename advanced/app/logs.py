"""Logs: one JSON object a line, one line a request, and the server's own lines like ours.

What a request learns on its way is noted with `note`, and told when the request is over. Questions
and answers, names of files and what clients write are never part of a line: only names of ours.
"""

import logging
import logging.config
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, WrappedLogger

notes: ContextVar[dict[str, Any]] = ContextVar("notes")


def note(**facts: Any) -> None:
    """Add to the log line of the request that this task works for, if there is one."""
    if (noted := notes.get(None)) is not None:
        noted.update(facts)


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
    """An exception as a list: its type, and where it was raised; never the values of variables.

    What it says is told in debug mode, and of what nobody has written yet: that quotes nobody.
    """

    def __init__(self, debug: bool) -> None:
        self._debug = debug
        self._transform = ExceptionDictTransformer(show_locals=False)

    def __call__(self, exc_info: Any) -> list[dict[str, Any]]:
        return [self._told(raised) for raised in self._transform(exc_info)]

    def _told(self, raised: Mapping[str, Any]) -> dict[str, Any]:
        frames = [f"{f['filename']}:{f['lineno']} {f['name']}" for f in raised["frames"]]
        told = {"type": raised["exc_type"], "frames": frames}
        # It says what is not written yet, as a lab's starters do, and nothing that anybody sent.
        quotes_nobody = raised["exc_type"] == NotImplementedError.__name__
        return {**told, "says": raised["exc_value"]} if self._debug or quotes_nobody else told
