"""The fixtures of this track's suites, and what makes them ready."""

from grader.judge.upstreams import (
    otlp,
    postgres,
    postgres_server,
    pytest_collection_finish,
    redis,
)

__all__ = ["otlp", "postgres", "postgres_server", "pytest_collection_finish", "redis"]
