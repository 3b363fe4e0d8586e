"""The offline model in a process of its own, told over a pipe what to say.

Of its own, so that it takes no time from the load driver's interpreter, nor counts as a service's.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import cast

from bench.client import Connection
from bench.sums import Pace

START_TIMEOUT = 30.0  # seconds
FAKE_KEY = "sk-fake-key-of-the-bench"


@dataclass(frozen=True)
class Script:
    """What the model answers to everything: `count` pieces of `width` characters.

    `delay` is the pause in seconds before each piece; 0 sends them as fast as they are read.
    """

    count: int
    width: int = 6
    delay: float = 0.0

    @property
    def pieces(self) -> list[str]:
        """Numbered, so that a lost, doubled or moved piece shows in the text."""
        return [f"{number} ".rjust(self.width, "w") for number in range(self.count)]

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def pace(self) -> Pace:
        return Pace(first=self.delay, every=self.delay)


class Model:
    """The running child; `base_url` is what OPENAI_BASE_URL is set to."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.base_url = ""  # known when it plays
        self._to_child = cast(asyncio.StreamWriter, child.stdin)
        self._from_child = cast(asyncio.StreamReader, child.stdout)

    def connect(self) -> Connection:
        """Straight to the model, past every service."""
        return Connection(self.base_url, {"authorization": f"Bearer {FAKE_KEY}"})

    async def play(self, script: Script) -> None:
        """Answer every call from now on with `script`."""
        self._to_child.write(json.dumps(asdict(script)).encode() + b"\n")
        line = await asyncio.wait_for(self._from_child.readline(), START_TIMEOUT)
        if not line:
            raise RuntimeError("the offline model ended; what it said is above")
        self.base_url = line.decode().strip()


@asynccontextmanager
async def running_model() -> AsyncIterator[Model]:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.model_process"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield Model(child)
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
