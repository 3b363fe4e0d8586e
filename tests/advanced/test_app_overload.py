"""More questions than the model may be asked at once: who is refused, and when there is room."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from shared.offline_model import Call, OfflineModel, Scenario, ToolCall
from tests.advanced.serving_advanced import Advanced, served_advanced
from tests.advanced.watching import asking_bytes, becomes_true
from tests.talking import EITHER_WAY, PLAIN, STREAM, ask

PLACES = 2


@pytest.fixture(scope="module")
def narrow(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Advanced, str]]:
    """A service that asks the model two questions at a time, and a user's token."""
    state = tmp_path_factory.mktemp("narrow")
    with served_advanced(
        checkout, state, MAX_MODEL_CALLS=str(PLACES), REQUEST_TIMEOUT="2"
    ) as service:
        yield service, service.log_in()


@pytest.fixture
def service(narrow: tuple[Advanced, str]) -> Advanced:
    service, _ = narrow
    assert service.redis
    service.model.clear()
    service.redis.ask("FLUSHALL")
    return service


@pytest.fixture
def model(service: Advanced) -> OfflineModel:
    return service.model


@pytest.fixture
def token(narrow: tuple[Advanced, str]) -> str:
    return narrow[1]


@pytest.fixture
def client(service: Advanced, token: str) -> httpx.AsyncClient:
    return service.client(token)


async def model_is_busy(model: OfflineModel, calls: int = PLACES) -> None:
    await model.wait_for_async(
        lambda m: sum(call.outcome == "open" for call in m.calls) == calls, 2.0
    )


@EITHER_WAY
async def test_one_question_too_many_is_refused_at_once(
    client: httpx.AsyncClient, model: OfflineModel, path: str
) -> None:
    """503 with Retry-After, first or later turn; who was let in is answered, and so are equals."""
    async with client:
        model.respond(Scenario("Good."))
        known = await ask(client, "known")
        model.respond(Scenario("Good.", first_token_delay=1.0))
        inside = [asyncio.create_task(ask(client, f"{n}", path=path)) for n in range(PLACES)]
        await model_is_busy(model)
        before = time.monotonic()
        refused = [
            await ask(client, "too many", path=path),
            await ask(client, "too many", known.session_id, path),
        ]
        took = time.monotonic() - before
        equal = asyncio.create_task(ask(client, "0", path=path))
        cached = await ask(client, "known", path=path)
        still_busy = not inside[0].done()
        replies = await asyncio.gather(*inside, equal)
    for reply in refused:
        assert (reply.status, reply.code) == (503, "overloaded")
        assert int(reply.headers["retry-after"]) >= 1
    assert took < 0.5
    assert still_busy
    assert (cached.status, cached.metadata["cached"]) == (200, True)
    assert {(reply.status, reply.text) for reply in replies} == {(200, "Good.")}
    assert model.call_count == 1 + PLACES


async def test_a_refused_first_question_leaves_no_session(
    client: httpx.AsyncClient, model: OfflineModel
) -> None:
    """What was never asked is not listed; a refused later turn leaves its session as it was."""
    async with client:
        model.respond(Scenario("Good."))
        known = await ask(client, "known")
        count = (await client.get("/api/v1/sessions")).json()["count"]
        model.respond(Scenario("Good.", first_token_delay=0.5))
        inside = [asyncio.create_task(ask(client, f"{n}")) for n in range(PLACES)]
        await model_is_busy(model)
        assert (await ask(client, "too many")).status == 503
        assert (await ask(client, "too many", known.session_id)).status == 503
        await asyncio.gather(*inside)
        session = (await client.get(f"/api/v1/session/{known.session_id}")).json()
        listed = (await client.get("/api/v1/sessions")).json()["count"]
    assert listed == count + PLACES
    assert session["message_count"] == 2


Ending = Callable[[Advanced, str], Awaitable[None]]


async def answered(service: Advanced, token: str) -> None:
    service.model.respond(Scenario("Good."))
    async with service.client(token) as client:
        for path in (PLAIN, STREAM):
            assert (await ask(client, f"good {path}", path=path)).status == 200


async def failed(service: Advanced, token: str) -> None:
    service.model.respond(Scenario(status=400))
    async with service.client(token) as client:
        for path in (PLAIN, STREAM):
            assert (await ask(client, f"bad {path}", path=path)).status == 502


async def timed_out(service: Advanced, token: str) -> None:
    service.model.respond(Scenario(hang=True))
    async with service.client(token) as client:
        replies = await asyncio.gather(
            *(ask(client, f"late {path}", path=path) for path in (PLAIN, STREAM))
        )
    assert {reply.status for reply in replies} == {504}


async def left(service: Advanced, token: str) -> None:
    service.model.respond(Scenario(hang=True))
    with ExitStack() as stack:
        for path in (PLAIN, STREAM):
            connection = stack.enter_context(service.process.connect())
            connection.sendall(asking_bytes(token, f"left {path}", path))
        await model_is_busy(service.model)
    await model_is_busy(service.model, 0)


@pytest.mark.parametrize("ends", [answered, failed, timed_out, left])
async def test_a_place_is_given_back(service: Advanced, token: str, ends: Ending) -> None:
    """However a question ends, for first turns and for later ones, there is room for the next."""
    await ends(service, token)
    service.model.clear()
    service.model.respond(Scenario("Good.", first_token_delay=0.3))
    async with service.client(token) as client:

        async def has_room() -> bool:
            replies = await asyncio.gather(*(ask(client, f"room {n}") for n in range(PLACES)))
            return {reply.status for reply in replies} == {200}

        assert await becomes_true(has_room) < 1.5


async def test_specialists_count(client: httpx.AsyncClient, model: OfflineModel) -> None:
    """Two questions ask two specialists each, side by side: never more than two calls at once."""

    def slow_specialists(call: Call) -> Scenario:
        if "ask_analyst" not in call.tool_names:
            return Scenario("My report.", first_token_delay=0.3)
        if call.messages[-1]["role"] == "tool":
            return Scenario("It is so.")
        asked = [ToolCall(name, {"task": "look"}) for name in call.tool_names]
        return Scenario(tool_calls=asked, first_token_delay=0.1)

    model.respond(slow_specialists)
    async with client:
        replies = await asyncio.gather(*(ask(client, f"{n}") for n in range(PLACES)))
    assert {(reply.status, reply.text) for reply in replies} == {(200, "It is so.")}
    assert model.call_count == 4 * PLACES
    spans = [(call.started_at, call.ended_at or 0.0) for call in model.calls]
    at_once = [sum(begin <= moment < end for begin, end in spans) for moment, _ in spans]
    assert max(at_once) == PLACES


async def test_a_busy_service_is_not_degraded(
    client: httpx.AsyncClient, model: OfflineModel
) -> None:
    """A probe needs none of the places: the model is up, and the answer comes at once."""
    async with client:
        model.respond(Scenario("Good.", first_token_delay=1.5))
        inside = [asyncio.create_task(ask(client, f"{n}")) for n in range(PLACES)]
        await model_is_busy(model)
        before = time.monotonic()
        found = set()
        while not any(task.done() for task in inside):  # longer than an answer of a probe is kept
            found.add((await client.get("/health")).text)
        took = time.monotonic() - before
        await asyncio.gather(*inside)
    assert len(found) == 1
    assert '"degraded":false' in found.pop()
    assert took < 2
