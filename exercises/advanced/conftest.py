"""The fixtures of this track's suites."""

from grader.judge.upstreams import otlp, postgres, postgres_server, redis

__all__ = ["otlp", "postgres", "postgres_server", "redis"]
