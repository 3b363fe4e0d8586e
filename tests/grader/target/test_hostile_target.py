"""A small suite, for many submissions: an answer, a stream, a refusal."""

from random import Random

from grader.judge import STREAM, check
from grader.judge.service import Service
from shared.offline_model import OfflineModel, Scenario


@check("answers")
async def test_answers(service: Service, model: OfflineModel, rng: Random) -> None:
    """The words are the model's, which nobody can guess."""
    expected = f"The word is {rng.getrandbits(64):x}."
    model.respond(Scenario(expected))
    async with service() as client:
        reply = await client.ask("What is the word?", "s")
    assert (reply.status, reply.text) == (200, expected), "the answer is not the model's"


@check("streams")
async def test_streams(service: Service, model: OfflineModel, rng: Random) -> None:
    """A stream, too, carries them."""
    expected = f"The word is {rng.getrandbits(64):x}."
    model.respond(Scenario(expected))
    async with service() as client:
        reply = await client.ask("What is the word?", "s", STREAM)
    assert (reply.status, reply.text) == (200, expected), "the stream is not the model's"


@check("limits")
async def test_limits(service: Service, model: OfflineModel) -> None:
    """One turn, then a refusal."""
    model.respond(Scenario("Good."))
    async with service(RATE_LIMIT_REQUESTS=1) as client:
        statuses = [(await client.ask("hello", "s")).status for _ in range(2)]
    assert statuses == [200, 429], "the second turn is not refused"
