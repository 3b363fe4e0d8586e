"""The wire under ChatOpenAI: OpenAI's chat-completions protocol over aiohttp, read strictly.

Stands where ChatOpenAI expects the official client's `chat.completions` and gives it the same
JSON, as dicts. Two reasons (docs/decisions/0002): the official client takes a stream that was cut
for a finished one and waits out a Retry-After in silence; and building an object for every
message sent and every token received is most of what a call costs.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from itertools import count
from math import ceil
from types import TracebackType
from typing import Any, NoReturn, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2
import orjson
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from shared.errors import ConfigurationError, ModelError, ModelUnavailable

OPENAI_BASE_URL = "https://api.openai.com/v1"
BASE_URL = re.compile(r"https?://(?:[^\s/?#@:\[\]]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?(?:/[^\s?#]*)?")
CONNECT_TIMEOUT = 5.0
"""Seconds; the only timeout here. The turn has the deadline."""

DEFAULT_RETRY_AFTER = 5
LONGEST_RETRY_AFTER = 3600
BUSY = {429, 503, 529}
LINGER = 0.5
"""Seconds to listen for usage and the end of a stream, once the answer is whole."""

LARGEST_ANSWER = 8 * 1024 * 1024
"""Bytes of an answer in one piece, or of one event; many times what is passed on of it."""

UNREADABLE = "Its answer was not in the protocol of OpenAI's chat completions, or was cut."
NOT_THE_PROTOCOL = (
    aiohttp.http_exceptions.HttpProcessingError,  # such as a line without end
    AttributeError,
    TypeError,
    ValueError,  # orjson's errors are such
)

Json = dict[str, Any]


class CleanConnections(aiohttp.TCPConnector):
    """Never uses a connection again on which something came that nobody had asked for.

    It could be taken for the answer to somebody else's question.
    """

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        found = await super()._get(key, traces)
        while found is not None and (found.protocol is None or found.protocol.should_close):
            found.close()
            found = await super()._get(key, traces)
        return found


class ChatCompletions:
    """One connection pool to one server. Opens nothing before the first call.

    `at_once` calls at most go on at the same time, and more wait; 0 is no bound. Raises
    ConfigurationError if `base_url` or `api_key` cannot be one.
    """

    def __init__(self, *, base_url: str | None, api_key: str, at_once: int = 0) -> None:
        api_key = api_key.strip()  # a file that holds a key often ends in a newline
        if not re.fullmatch(r"[\x21-\x7e]+", api_key):
            raise ConfigurationError("OPENAI_API_KEY holds characters that no key has.")
        base_url = base_url or OPENAI_BASE_URL
        if not BASE_URL.fullmatch(base_url):
            raise ConfigurationError(
                "OPENAI_BASE_URL must look like https://host:port/v1, "
                "without a user, a query or a fragment."
            )
        self._base_url = base_url.rstrip("/")
        self._url = f"{self._base_url}/chat/completions"
        self._at_once = at_once
        self._headers = {
            "Accept-Encoding": "identity",  # nothing that unpacks to more than it seems to be
            "Authorization": f"Bearer {api_key}",
            "Content-Type": "application/json",
        }
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def with_raw_response(self) -> "WholeAnswers":
        """The name under which ChatOpenAI asks for an answer in one piece."""
        return WholeAnswers(self)

    async def create(self, **payload: Any) -> "AnswerStream":
        """The name under which ChatOpenAI asks for a stream."""
        return AnswerStream(await self.post(payload))

    async def post(self, payload: Json) -> aiohttp.ClientResponse:
        """The response, once its status is 200. Raises ModelUnavailable or ModelError."""
        try:
            response = await self._open_session().post(
                self._url, data=orjson.dumps(payload), headers=self._headers, allow_redirects=False
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
            raise ModelUnavailable(retry_after=DEFAULT_RETRY_AFTER, transient=True) from exc
        except aiohttp.ClientError as exc:
            raise ModelError("It hung up without an answer.", transient=True) from exc
        if response.status != 200:
            response.close()
            refuse(response.status, response.headers.get("Retry-After"))
        return response

    async def reachable(self) -> bool:
        """Whether the server answers and takes the key. Costs no tokens.

        Not every compatible server lists its models, but a 404 is an answer, too.
        """
        try:
            async with self._open_session().get(
                f"{self._base_url}/models",
                headers=self._headers,
                allow_redirects=False,
            ) as response:
                return response.status < 500 and response.status not in (401, 403)
        except (aiohttp.ClientError, TimeoutError):
            return False

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            secure = self._url.startswith("https:")
            self._session = aiohttp.ClientSession(
                # aiohttp's own limit of 100 would make the 101st stream wait unseen.
                connector=CleanConnections(
                    limit=self._at_once, ssl=httpx2.create_ssl_context() if secure else False
                ),
                timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT),
                proxy=proxy_for(self._url),
                auto_decompress=False,
            )
        return self._session


class WholeAnswers:
    """Answers in one piece."""

    def __init__(self, completions: ChatCompletions) -> None:
        self._completions = completions

    async def create(self, **payload: Any) -> "WholeAnswer":
        response = await self._completions.post(payload)
        async with response:
            try:
                answer = orjson.loads(await read(response))
                if not answer.get("choices"):
                    raise ValueError("an answer without a choice")
            except aiohttp.ClientError as exc:
                raise ModelError("It hung up in its answer.", transient=True) from exc
            except NOT_THE_PROTOCOL as exc:
                raise ModelError(UNREADABLE) from exc
        return WholeAnswer(answer)


class WholeAnswer:
    """What ChatOpenAI unwraps with `parse()`."""

    def __init__(self, answer: Json) -> None:
        self.headers: dict[str, str] = {}
        self._answer = answer

    def parse(self) -> Json:
        return self._answer


class AnswerStream:
    """The events of a streamed answer. Leaving it hangs up, which stops the model."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._until: float | None = None
        """How long to listen on, on the loop's clock, once a finish_reason has come: the answer is
        whole then, and its usage may follow."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._response.close()

    async def __aiter__(self) -> AsyncIterator[Json]:
        """Raises ModelError for anything that is not a whole, well-formed stream."""
        try:
            async for data in self._data():
                event = orjson.loads(data)
                if finishes(event) and self._until is None:
                    self._until = asyncio.get_running_loop().time() + LINGER
                yield event
        except aiohttp.ClientError as exc:
            if self._until is None:
                raise ModelError("It hung up in its answer.", transient=True) from exc
        except NOT_THE_PROTOCOL as exc:
            raise ModelError(UNREADABLE) from exc
        if self._until is None:  # a clean end without a finish_reason is a cut all the same
            raise ModelError("Its answer broke off.")

    async def _data(self) -> AsyncIterator[bytes]:
        """What stands behind each `data:`, up to [DONE] or the end."""
        for number in count(1):
            if number % 64 == 0:
                await asyncio.sleep(0)  # lines that are there already are read without a pause
            line = await self._line()
            data = line[5:].strip() if line.startswith(b"data:") else b""
            if data == b"[DONE]":
                await self._rest()
            elif data:
                yield data
            if not line or data == b"[DONE]":
                return

    async def _line(self) -> bytes:
        """The next line; empty at the end, or when nothing follows the answer's last word."""
        reading = self._response.content.readline(max_line_length=LARGEST_ANSWER)
        if self._until is None:
            return await reading
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._until):
                return await reading
        return b""

    async def _rest(self) -> None:
        """Read on to the end: only then can the next call have this connection."""
        with suppress(TimeoutError, aiohttp.ClientError):
            async with asyncio.timeout(LINGER):
                while await self._response.content.readany():
                    pass


async def read(response: aiohttp.ClientResponse) -> bytes:
    """The body. Raises ValueError past LARGEST_ANSWER."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > LARGEST_ANSWER:
            raise ValueError("an answer without end")
    return bytes(body)


def finishes(event: Json) -> bool:
    """Whether this is the answer's last word. Raises if it is no event of an answer."""
    if event.get("error") or "choices" not in event:
        raise ValueError("not an event of an answer")
    for choice in event["choices"]:
        choice["delta"] = choice.get("delta") or {}  # null on some servers' last event
    return any(choice.get("finish_reason") for choice in event["choices"])


def refuse(status: int, retry_after: str | None) -> NoReturn:
    """Raise what an upstream's status means. Its words are never passed on."""
    if status in BUSY:
        wait = seconds(retry_after)
        raise ModelUnavailable(retry_after=wait or DEFAULT_RETRY_AFTER, transient=wait is None)
    raise ModelError(f"It refused with status {status}.", transient=status >= 500)


def seconds(retry_after: str | None) -> int | None:
    """Whole seconds of a Retry-After header, a number or a date (RFC 9110, 10.2.3)."""
    try:
        wait = float(retry_after or "")
    except ValueError:
        try:
            wait = (parsedate_to_datetime(retry_after or "") - datetime.now(UTC)).total_seconds()
        except (OverflowError, TypeError, ValueError):
            return None
    return min(max(ceil(wait), 1), LONGEST_RETRY_AFTER) if abs(wait) < float("inf") else None


def proxy_for(url: str) -> str | None:
    """The environment's proxy for this address. None for this machine, where no proxy leads.

    aiohttp's own `trust_env` reads ~/.netrc as well, and then refuses our key beside that one.
    """
    address = urlsplit(url)
    host = address.hostname or ""
    if host == "localhost" or is_loopback(host) or proxy_bypass(host):
        return None
    return getproxies().get(address.scheme)


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
