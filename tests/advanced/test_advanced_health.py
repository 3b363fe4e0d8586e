"""Dependencies that are slow, hang or come back: what a probe is told, and how soon."""

import asyncio

import pytest

from advanced.app.health import KEPT, LONGEST, PATIENCE, Dependencies


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Asked:
    """A dependency that answers when it is told to."""

    def __init__(self) -> None:
        self.times = 0
        self.answer = asyncio.Event()

    async def check(self) -> bool:
        self.times += 1
        await self.answer.wait()
        return True


async def fine() -> bool:
    return True


async def test_one_that_hangs_delays_nobody_and_hides_no_other() -> None:
    """A probe is answered within its patience, and the others are known to be up."""
    clock = asyncio.get_running_loop().time
    dependencies = Dependencies({"store": fine, "model": Asked().check, "redis": None})
    started = clock()
    assert await dependencies.states() == {"store": "up", "model": "down", "redis": "off"}
    assert PATIENCE <= clock() - started < LONGEST


async def test_a_slow_one_is_up_for_the_next_probe() -> None:
    """What comes after a probe has gone is not lost, and it was asked once for both."""
    model = Asked()
    dependencies = Dependencies({"model": model.check})
    assert await dependencies.states() == {"model": "down"}
    model.answer.set()
    assert await dependencies.states() == {"model": "up"}
    assert model.times == 1


async def test_an_answer_is_kept_for_a_while() -> None:
    """Probes, however many, ask once until the answer is too old."""
    now = 0.0
    model = Asked()
    model.answer.set()
    dependencies = Dependencies({"model": model.check}, clock=lambda: now)
    for _ in range(100):
        await asyncio.gather(*(dependencies.states() for _ in range(3)))
    assert model.times == 1
    now = KEPT
    await dependencies.states()
    assert model.times == 2
