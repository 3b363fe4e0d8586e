"""What the parts of the protocol share: JSON, and refusals in OpenAI's shape."""

import json
from collections.abc import Sequence
from typing import Any

JsonObject = dict[str, Any]


class ApiError(Exception):
    """A refusal, in the shape that OpenAI's clients turn into their own exceptions."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self._error = {"message": message, "type": kind, "param": param, "code": code}

    def body(self) -> bytes:
        return dump({"error": self._error}).encode("ascii")

    def event(self) -> bytes:
        return b"data: " + self.body() + b"\n\n"


def dump(value: JsonObject) -> str:
    return json.dumps(value, separators=(",", ":"))
