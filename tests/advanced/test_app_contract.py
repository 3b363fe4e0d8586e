"""The advanced service's wire contract: what it answers, and what comes with every answer."""

import httpx

from tests.talking import EITHER_WAY, ask


@EITHER_WAY
async def test_a_question_is_answered(carol: httpx.AsyncClient, path: str) -> None:
    """A user's question is answered, plain and as a stream."""
    reply = await ask(carol, "What is 17.5% of 2480, minus 12?", path=path)
    assert reply.status == 200
    assert "422" in reply.text
