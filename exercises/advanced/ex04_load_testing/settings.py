"""The settings of a load test, from the environment. Given."""

import os
from typing import NamedTuple


class Settings(NamedTuple):
    """Each is a variable of the same name in capitals."""

    agent_username: str
    agent_password: str
    think_min: float = 1.0
    think_max: float = 5.0
    """Seconds between the turns of one user."""

    turn_timeout: float = 30.0
    """Seconds that one turn may take, to the end of its answer."""

    p95_first_token_ms: float = 1_500.0
    p95_stream_ms: float = 10_000.0
    p95_query_ms: float = 10_000.0
    max_fail_ratio: float = 0.01
    """Of all that was recorded; 0.01 is one in a hundred."""


def read_settings() -> Settings:
    texts = {name: os.environ.get(name.upper()) for name in Settings._field_defaults}
    return Settings(
        os.environ.get("AGENT_USERNAME", "alice"),
        os.environ.get("AGENT_PASSWORD", ""),
        **{name: float(text) for name, text in texts.items() if text},
    )
