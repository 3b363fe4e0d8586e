"""What a graded suite is written with: checks, a served submission, and ways to talk to it."""

from grader.judge.checks import check, only_until
from grader.judge.client import Client
from grader.judge.talking import (
    EITHER_WAY,
    PLAIN,
    STREAM,
    Reply,
    arriving,
    event_data,
    question_bytes,
    read_reply,
    request_bytes,
)

__all__ = [
    "EITHER_WAY",
    "PLAIN",
    "STREAM",
    "Client",
    "Reply",
    "arriving",
    "check",
    "event_data",
    "only_until",
    "question_bytes",
    "read_reply",
    "request_bytes",
]
