"""The graded suite of exercise 2: how often one session may ask."""

import asyncio
import time
from random import Random
from uuid import uuid4

import pytest

from grader.judge import EITHER_WAY, PLAIN, STREAM, Client, check, only_until
from grader.judge.service import Service
from shared.offline_model import OfflineModel, Scenario


@pytest.fixture(autouse=True)
def one_call_a_turn(model: OfflineModel) -> None:
    model.respond(Scenario("Good."))


def new_session() -> str:
    return f"s-{uuid4()}"


async def statuses(client: Client, session_id: str, times: int, path: str = PLAIN) -> list[int]:
    return [(await client.ask("hello", session_id, path)).status for _ in range(times)]


async def messages(client: Client, session_id: str) -> int:
    return int((await client.get(f"/api/v1/session/{session_id}")).json()["message_count"])


@check("refuses_over_limit")
async def test_refuses_over_limit(service: Service, rng: Random) -> None:
    """A session gets its N turns; the next is a 429 with an ErrorResponse and Retry-After."""
    allowed = rng.randint(2, 4)
    async with service(RATE_LIMIT_REQUESTS=allowed, RATE_LIMIT_WINDOW=60) as client:
        session = new_session()
        assert await statuses(client, session, allowed) == [200] * allowed, (
            f"the first {allowed} turns of a session should be answered with 200"
        )
        refused = await client.ask("one more", session)
    assert refused.status == 429, f"turn {allowed + 1} should be refused with 429"
    assert refused.code == "rate_limited", "the refusal's code should be rate_limited"
    assert 1 <= int(refused.headers.get("Retry-After", "0")) <= 60, (
        "a refusal should say in Retry-After when to come back, in seconds"
    )


@check("first_turn_counts")
@EITHER_WAY
async def test_first_turn_counts(service: Service, path: str) -> None:
    """The turn that starts a session, and gives it its id, is one of its turns."""
    async with service(RATE_LIMIT_REQUESTS=2, RATE_LIMIT_WINDOW=60) as client:
        first = await client.ask("hello", path=path)
        assert first.status == 200, "a turn without a session id should be answered"
        after = await statuses(client, first.session_id, 2)
    assert after == [200, 429], "of two turns in a window, the first one used up one"


@check("says_how_long")
async def test_says_how_long(service: Service) -> None:
    """Retry-After is the time that is left, not the length of the window."""
    async with service(RATE_LIMIT_REQUESTS=1, RATE_LIMIT_WINDOW=2.5) as client:
        session, begun = new_session(), time.monotonic()
        assert await statuses(client, session, 1) == [200], "the first turn should be answered"
        await asyncio.sleep(0.7)
        refused = await client.ask("again", session)
        with only_until(begun + 1.4):
            assert refused.status == 429, "the second turn should be refused"
            assert refused.headers.get("Retry-After") == "2", (
                "with 1.8 seconds left of a window of 2.5, Retry-After should be 2"
            )


@check("waiting_succeeds")
async def test_waiting_succeeds(service: Service) -> None:
    """Who waits as long as Retry-After says gets through, even after knocking in vain."""
    async with service(RATE_LIMIT_REQUESTS=1, RATE_LIMIT_WINDOW=1.5) as client:
        session, begun = new_session(), time.monotonic()
        assert await statuses(client, session, 1) == [200], "the first turn should be answered"
        await asyncio.sleep(0.6)
        knocked = [await client.ask("now?", session) for _ in range(3)]
        with only_until(begun + 1.4):
            assert [reply.status for reply in knocked] == [429] * 3, "too early should be refused"
        await asyncio.sleep(int(knocked[-1].headers.get("Retry-After", "1")))
        last = await client.ask("now", session)
    assert last.status == 200, "after waiting as long as Retry-After said, a turn should go through"


@check("refused_reaches_nobody")
async def test_refused_reaches_nobody(service: Service, model: OfflineModel) -> None:
    """A refused turn reaches neither the model nor the session's history."""
    async with service(RATE_LIMIT_REQUESTS=1, RATE_LIMIT_WINDOW=60) as client:
        session = new_session()
        assert await statuses(client, session, 3) == [200, 429, 429], "one turn, then refusals"
        history = await messages(client, session)
    assert model.call_count == 1, "only the turn that was answered should have called the model"
    assert history == 2, "the history should hold one question and one answer"


@check("streams_count")
async def test_streams_count(service: Service) -> None:
    """A stream is a turn like any other: both endpoints spend one allowance."""
    async with service(RATE_LIMIT_REQUESTS=2, RATE_LIMIT_WINDOW=60) as client:
        session = new_session()
        streamed = await client.ask("hello", session, STREAM)
        assert streamed.status == 200, "the first turn, a stream, should be answered"
        assert streamed.text == "Good.", "a stream should carry the model's words"
        after = await statuses(client, session, 2)
    assert after == [200, 429], "after a stream, one of two turns should be left"


@check("stream_refused_as_status")
async def test_stream_refused_as_status(service: Service) -> None:
    """A stream that is refused is a 429, before its first byte, and never a 200 with an error."""
    async with service(RATE_LIMIT_REQUESTS=1, RATE_LIMIT_WINDOW=60) as client:
        session = new_session()
        assert await statuses(client, session, 1) == [200], "the first turn should be answered"
        refused = await client.ask("hello", session, STREAM)
    assert refused.status == 429, "a stream over the limit should be refused with the status 429"
    assert refused.code == "rate_limited", "its body should be the same error"


@check("at_once")
async def test_at_once(service: Service, model: OfflineModel) -> None:
    """Twenty turns sent at once: exactly the allowance gets through."""
    async with service(RATE_LIMIT_REQUESTS=5, RATE_LIMIT_WINDOW=60) as client:
        session = new_session()
        replies = await asyncio.gather(*(client.ask("hello", session) for _ in range(20)))
    came = sorted(reply.status for reply in replies)
    assert came == [200] * 5 + [429] * 15, "of 20 turns at once, exactly 5 should be answered"


@check("no_double_burst")
async def test_no_double_burst(service: Service) -> None:
    """In any stretch as long as the window there are N turns at most, wherever it begins."""
    async with service(RATE_LIMIT_REQUESTS=3, RATE_LIMIT_WINDOW=1.2) as client:
        session = new_session()
        begun = time.monotonic()
        assert await statuses(client, session, 1) == [200], "the first turn should be answered"
        answered = time.monotonic()
        await until(begun + 0.9)
        late = await statuses(client, session, 2)
        assert late == [200, 200], "three turns in a window should be answered"
        await until(answered + 1.25)
        burst = await statuses(client, session, 3)
        await until(begun + 1.9)
        burst += await statuses(client, session, 1)
        with only_until(begun + 2.05):
            assert burst == [200, 429, 429, 429], (
                "two turns late in one stretch and three early in the next are five in one window"
            )


async def until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))


@check("others_unaffected")
async def test_others_unaffected(service: Service) -> None:
    """A session over its limit costs other sessions nothing, and it can still be read."""
    async with service(RATE_LIMIT_REQUESTS=1, RATE_LIMIT_WINDOW=60) as client:
        session = new_session()
        assert await statuses(client, session, 2) == [200, 429], "one turn, then a refusal"
        others = [await statuses(client, new_session(), 1) for _ in range(3)]
        reads = [(await client.get(f"/api/v1/session/{session}")).status_code for _ in range(3)]
    assert others == [[200]] * 3, "other sessions should be answered"
    assert reads == [200] * 3, "reading a session should cost nothing"


@check("idle_freed")
async def test_idle_freed(service: Service) -> None:
    """Who has been idle is forgotten when others ask, and who came back meanwhile is not."""
    async with service(RATE_LIMIT_REQUESTS=5, RATE_LIMIT_WINDOW=0.6) as client:
        faithful = new_session()
        for session in (faithful, new_session(), new_session()):
            assert await statuses(client, session, 1) == [200], "first turns should be answered"
        assert await remembered(client) == 3, "who has just asked should be remembered"
        for _ in range(4):
            await asyncio.sleep(0.35)
            await statuses(client, faithful, 1)
        assert await remembered(client) == 1, "only the session that went on should be left"


async def remembered(client: Client) -> int:
    return int((await client.get("/limits")).json()["sessions"])
