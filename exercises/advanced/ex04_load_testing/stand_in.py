"""Plays the agent's service, so that a load test can be tested: a stand-in, not the service.

It speaks the same contract over real HTTP and knows no chance. Its answers are sums; it writes down
every turn, and has the faults that it is told to have.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum, auto
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from pydantic import ValidationError

from shared.arithmetic import as_text, evaluate
from shared.models import PlainQueryRequest, QueryRequest, QueryResponse, StreamChunk
from shared.offline_model.assistant.sums import continued, expressions

API = "/api/v1"
PING = b": still here\n\n"
LATER = 24
"""Turns, of all users. By then the one who asked has long come to an opinion on the answer."""


class Kind(StrEnum):
    """What a turn is, by what was sent."""

    QUERY = auto()
    STREAM = auto()
    FOLLOW_UP = auto()
    SESSION = auto()


class Fault(StrEnum):
    """What can be wrong with an answer."""

    REFUSED = auto()
    """A status that says so."""

    LATE = auto()
    WRONG = auto()
    """200, and not what was asked for."""

    ELSEWHERE = auto()
    """200, from another session."""

    PAGE = auto()
    """200, and a page for people."""

    HALF = auto()
    """A stream that ends in order, with half of its words."""

    NOT_DONE = auto()
    """A stream that has all of its words, and no last event."""

    CUT = auto()
    """A stream whose connection breaks."""

    ERROR_EVENT = auto()
    """A stream whose last event is an error."""

    SILENT = auto()
    """No more answer, and no end."""

    PINGS = auto()
    """A stream that says that it is still there, for ever."""


@dataclass(frozen=True)
class Conduct:
    """How the stand-in behaves. Times are in seconds."""

    what: str
    """In words, such as "a service that is late"."""

    first: float = 0.0
    """Until a stream's first words."""

    whole: float = 0.0
    """Until its last."""

    plain: float = 0.0
    """Until an answer in one piece."""

    late: float = 0.0
    """So much longer where the fault is LATE."""

    buffered: bool = False
    """Streams are held back until they are complete, as behind a proxy that was set up so."""

    logins: Sequence[Fault] = ()
    """Of the first logins, one each."""

    every: Mapping[Kind, int] = field(default_factory=dict)
    """Of how many turns of a kind the last has a fault."""

    faults: Mapping[Kind, Sequence[Fault]] = field(default_factory=dict)
    """Which: these, one after the other."""

    times: int | None = None
    """So many faults of each kind, and from then on none."""


@dataclass
class Turn:
    kind: Kind
    token: str
    """Empty if it came without a good one."""

    session_id: str | None
    query: str
    began: float
    fault: Fault | None = None
    ended: float | None = None
    """The moment before its last bytes were sent; None while it lasts."""


@dataclass
class Session:
    token: str
    """Of the user who began it."""

    last: str
    messages: int = 2
    turns_now: int = 0


class Refused(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class StandIn:
    """One service, with a name and password that let users in."""

    def __init__(self, conduct: Conduct, username: str, password: str) -> None:
        self.conduct = conduct
        self.form = {"username": [username], "password": [password]}
        self.logins: list[str] = []
        """The token of each; empty where it was refused, or not answered."""

        self.turns: list[Turn] = []
        self.sessions: dict[str, Session] = {}
        self.crowded = 0
        """Turns that began while another of their session lasted."""

        self._kinds: Counter[Kind] = Counter()

    @asynccontextmanager
    async def listening(self, address: Path) -> AsyncIterator[Path]:
        connections: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task
            connections.add(task)
            try:
                with suppress(OSError, EOFError):
                    while True:
                        await self._answer(await read(reader), reader, writer)
            finally:
                writer.transport.abort()

        async with await asyncio.start_unix_server(serve, address):
            yield address
            for task in connections:
                task.cancel()
            await asyncio.gather(*connections, return_exceptions=True)

    def over(self, *kinds: Kind) -> list[Turn]:
        """The turns, of all kinds or of these, that have been over for LATER turns."""
        if len(self.turns) < LATER:
            return []
        since = self.turns[-LATER].began
        return [
            turn
            for turn in self.turns
            if turn.ended is not None and turn.ended < since and (not kinds or turn.kind in kinds)
        ]

    # --- one request

    async def _answer(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            if (request.method, request.path) == ("POST", f"{API}/auth/login"):
                await self._log_in(request, reader, writer)
            elif request.path == f"{API}/auth/logout" or request.method == "DELETE":
                await respond(writer, 200, json.dumps({"message": "That is over."}))
            else:
                await self._take_turn(request, reader, writer)
        except Refused as exc:
            body = {"error": "This was refused.", "detail": None, "code": exc.code}
            await respond(writer, exc.status, json.dumps(body))
        except ValidationError:
            body = {"error": "This is not valid.", "detail": None, "code": "validation_error"}
            await respond(writer, 422, json.dumps(body))

    async def _log_in(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        number, faults = len(self.logins), self.conduct.logins
        fault = faults[number] if number < len(faults) else None
        good = parse_qs(request.body.decode()) == self.form and not fault
        token = f"token-{number}" if good else ""
        self.logins.append(token)
        if fault is Fault.SILENT:
            await reader.read()
        elif good:
            body = {"access_token": token, "token_type": "bearer", "expires_in": 1800}
            await respond(writer, 200, json.dumps(body))
        else:
            raise Refused(401, "invalid_credentials")

    async def _take_turn(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        turn = self._turn(request)
        self.turns.append(turn)
        session = self.sessions.get(turn.session_id or "")
        if session:
            self.crowded += bool(session.turns_now)
            session.turns_now += 1
        try:
            if not turn.token:
                raise Refused(401, "not_authenticated")
            if turn.session_id and not session:
                raise Refused(404, "session_not_found")
            if turn.fault is Fault.REFUSED:
                raise Refused(503, "overloaded")
            if turn.kind is Kind.STREAM:
                await self._stream(turn, reader, writer)
            else:
                await self._respond(turn, reader, writer)
        except Refused:
            turn.ended = time.monotonic()
            raise
        finally:
            if session:
                session.turns_now -= 1

    def _turn(self, request: Request) -> Turn:
        """Raises Refused for what is no turn, and ValidationError."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        known = scheme == "Bearer" and token and token in self.logins
        asked: QueryRequest | None = None
        match request.method, request.path.removeprefix(API).split("/"):
            case "POST", ["", "query"]:
                asked = PlainQueryRequest.model_validate_json(request.body)
                kind = Kind.FOLLOW_UP if asked.session_id else Kind.QUERY
            case "POST", ["", "query", "stream"]:
                asked, kind = QueryRequest.model_validate_json(request.body), Kind.STREAM
            case "GET", ["", "session", _]:
                kind = Kind.SESSION
            case _:
                raise Refused(404, "not_found")
        session_id = asked.session_id if asked else request.path.rpartition("/")[2]
        query = asked.query if asked else ""
        fault = self._next_fault(kind)
        return Turn(kind, token if known else "", session_id, query, time.monotonic(), fault)

    def _next_fault(self, kind: Kind) -> Fault | None:
        self._kinds[kind] += 1
        number, beside = divmod(self._kinds[kind], self.conduct.every.get(kind, 1))
        faults, times = self.conduct.faults.get(kind, ()), self.conduct.times
        if not faults or beside or (times is not None and number > times):
            return None
        return faults[(number - 1) % len(faults)]

    # --- answers

    async def _respond(
        self, turn: Turn, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await asyncio.sleep(self.conduct.plain + self._lateness(turn))
        if turn.fault is Fault.SILENT:
            await reader.read()
        body = self._session(turn) if turn.kind is Kind.SESSION else self._plain_answer(turn)
        if turn.fault is Fault.PAGE:
            body = "<html><body>Everything is fine.</body></html>"
        turn.ended = time.monotonic()
        await respond(writer, 200, body)

    def _plain_answer(self, turn: Turn) -> str:
        text, session_id = self._say(turn)
        return QueryResponse(
            response=text, session_id=session_id, execution_time=self.conduct.plain, metadata={}
        ).model_dump_json()

    def _session(self, turn: Turn) -> str:
        session_id = f"{turn.session_id}"
        messages = self.sessions[session_id].messages
        seen = {
            "session_id": f"not-{session_id}" if turn.fault is Fault.ELSEWHERE else session_id,
            "created_at": "2026-11-23T09:00:00Z",
            "last_activity": "2026-11-23T09:05:00Z",
            "message_count": messages - 2 if turn.fault is Fault.WRONG else messages,
            "messages": None,
        }
        return json.dumps(seen)

    async def _stream(
        self, turn: Turn, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        conduct = self.conduct
        if conduct.buffered:
            await asyncio.sleep(conduct.whole)
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        tool = {"agent": "analyst", "tool": {"name": "calculate", "arguments": {}}}
        await send(writer, PING + event("", metadata=tool))
        if not conduct.buffered:
            await asyncio.sleep(conduct.first + self._lateness(turn))
        text, session_id = self._say(turn)
        words = [f"{word} " for word in text.split()]
        for word in words[: 1 if turn.fault in BREAKS_OFF else -1]:
            await send(writer, event(word))
            if not conduct.buffered:
                await asyncio.sleep((conduct.whole - conduct.first) / (len(words) - 1))
        if turn.fault in BREAKS_OFF:
            await self._break_off(turn, words, reader, writer)
            return
        turn.ended = time.monotonic()
        done = event(words[-1]) + event("", done=True, metadata={"session_id": session_id})
        await send(writer, done, last=True)

    async def _break_off(
        self,
        turn: Turn,
        words: Sequence[str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """After the first of its words."""
        match turn.fault:
            case Fault.SILENT:
                await reader.read()
            case Fault.PINGS:
                while not reader.at_eof():
                    await send(writer, PING)
                    await asyncio.sleep(0.05)
        turn.ended = time.monotonic()
        match turn.fault:
            case Fault.HALF:
                await send(writer, b"", last=True)
            case Fault.NOT_DONE:
                await send(writer, event("".join(words[1:])), last=True)
            case Fault.ERROR_EVENT:
                error = {"error": "The model broke off.", "detail": None, "code": "model_error"}
                done = event("", done=True, metadata={"error": error})
                await send(writer, event("".join(words[1:])) + done, last=True)
            case _:
                raise ConnectionAbortedError

    def _say(self, turn: Turn) -> tuple[str, str]:
        """The answer, and the session that it belongs to, which then has one more turn."""
        session_id = turn.session_id or f"session-{len(self.sessions)}"
        session = self.sessions.get(session_id)
        sums = expressions(turn.query) or (continued(turn.query, session.last) if session else [])
        result = as_text(evaluate(sums[0])) if sums else "nothing that I could calculate"
        if session:
            session.last, session.messages = result, session.messages + 2
        elif turn.fault not in BREAKS_OFF:
            self.sessions[session_id] = Session(turn.token, result)
        if turn.fault is Fault.WRONG:
            result = f"1{result}"
        told = f"not-{session_id}" if turn.fault is Fault.ELSEWHERE else session_id
        return f"{''.join(sums[:1])} = {result}.", told

    def _lateness(self, turn: Turn) -> float:
        return self.conduct.late if turn.fault is Fault.LATE else 0.0


BREAKS_OFF = (Fault.HALF, Fault.NOT_DONE, Fault.CUT, Fault.ERROR_EVENT, Fault.SILENT, Fault.PINGS)


# --- HTTP


async def read(reader: asyncio.StreamReader) -> Request:
    """Raises EOFError when the client has left."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.splitlines()
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in map(partition, lines) if name}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, target.partition("?")[0], headers, body)


def partition(line: str) -> tuple[str, str, str]:
    return line.partition(":")


async def respond(writer: asyncio.StreamWriter, status: int, body: str) -> None:
    data = body.encode()
    head = f"HTTP/1.1 {status} {status}\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
    await writer.drain()


def event(chunk: str, *, done: bool = False, metadata: dict[str, Any] | None = None) -> bytes:
    whole = StreamChunk(chunk=chunk, done=done, metadata=metadata)
    return b"data: %b\n\n" % whole.model_dump_json().encode()


async def send(writer: asyncio.StreamWriter, data: bytes, *, last: bool = False) -> None:
    """A piece of a body without a length."""
    if data:
        writer.write(b"%x\r\n%b\r\n" % (len(data), data))
    if last:
        writer.write(b"0\r\n\r\n")
    await writer.drain()
