"""How a suite talks to a service and reads what it says: replies, events, raw requests."""

import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

PLAIN, STREAM = "/api/v1/query", "/api/v1/query/stream"
EITHER_WAY = pytest.mark.parametrize("path", [PLAIN, STREAM], ids=["plain", "stream"])

LINE_ENDS = re.compile(rb"\r\n|\n|\r")
EVENT_ENDS = re.compile(rb"(?<=\r\n)\r\n|(?<=\n)\n|(?<=\r)\r(?!\n)")


@dataclass(frozen=True)
class Reply:
    """An answer or a refusal, plain or streamed."""

    status: int
    headers: httpx.Headers
    raw: bytes
    body: Any = None
    """The JSON body; None of a stream."""
    events: Sequence[dict[str, Any]] = field(default=())

    @property
    def text(self) -> str:
        """The answer: a plain one, or a stream's chunks, joined."""
        if self.events:
            return "".join(event["chunk"] for event in self.events)
        return str(self.body["response"])

    @property
    def metadata(self) -> dict[str, Any]:
        """What is told about the turn; session_id and tokens_used included, either way."""
        if self.events:
            return dict(self.events[-1]["metadata"])
        return {**self.body["metadata"], **{k: self.body[k] for k in self.body if k != "metadata"}}

    @property
    def session_id(self) -> str:
        return str(self.metadata["session_id"])

    @property
    def error(self) -> dict[str, Any]:
        """The ErrorResponse: a refusal's body, or what a stream's last event holds."""
        error = self.body if self.body is not None else self.metadata.get("error")
        assert error is not None, "there is no error where one was promised"
        assert set(error) == {"error", "detail", "code"}, "an error has other fields than promised"
        return dict(error)

    @property
    def code(self) -> str:
        return str(self.error["code"])


async def read_reply(response: httpx.Response) -> Reply:
    raw = await response.aread()
    head = (response.status_code, response.headers, raw)
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        events = [json.loads(data) for data in event_data(raw)]
        done = [event["done"] for event in events]
        assert done == [False] * (len(done) - 1) + [True], (
            "a stream ends with one event that is done"
        )
        return Reply(*head, events=events)
    try:
        return Reply(*head, body=json.loads(raw))
    except ValueError:
        raise AssertionError(
            f"the answer, a {response.status_code}, should be JSON, or a stream of events"
        ) from None


def event_data(raw: bytes) -> list[str]:
    """The data of whole events, as the HTML standard's event-stream interpretation has it."""
    events, data = [], list[str]()
    for line in LINE_ENDS.split(raw):
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" ").decode())
        elif not line and data:
            events.append("\n".join(data))
            data = []
    return events


async def arriving(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """A stream's events, each as soon as it is there."""
    pending = b""
    async for piece in response.aiter_raw():
        *whole, pending = EVENT_ENDS.split(pending + piece)
        for event in whole:
            for data in event_data(event + b"\n"):
                yield json.loads(data)


def request_bytes(
    body: bytes = b"",
    *,
    method: str = "POST",
    path: str = PLAIN,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """A request as it goes over the wire; headers given here replace the usual ones."""
    usual = {
        "Host": "localhost",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
    }
    lines = [f"{name}: {value}" for name, value in {**usual, **(headers or {})}.items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode("latin-1") + body


def question_bytes(query: str, session_id: str | None = None, path: str = PLAIN) -> bytes:
    return request_bytes(json.dumps({"query": query, "session_id": session_id}).encode(), path=path)
