"""The wire vocabulary: what a client may say, and what it is told (hand-out, `app/models.py`)."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

MAX_QUERY_LENGTH = 2000
MAX_ITERATIONS = 50
DEFAULT_ITERATIONS = 10

SessionId = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,128}$"),
    Field(description="1 to 128 letters, digits, dots, underscores or hyphens"),
]


WHOLE = BeforeValidator(
    lambda value: int(value) if isinstance(value, float) and value.is_integer() else value
)
"""To JSON, 10.0 and 1e1 are integers; pydantic's strict mode would refuse them."""


class QueryRequest(BaseModel):
    """A question to the agent."""

    # Strict: "ten", "10" and true are no integers. Frozen: nobody edits what the client said.
    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{"query": "How do I stream tokens with FastAPI?"}]},
    )

    query: Annotated[
        str,
        StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_QUERY_LENGTH),
        Field(
            description="The question; white space around it does not count",
            json_schema_extra={"pattern": r"\S"},
        ),
    ]
    session_id: SessionId | None = Field(
        default=None, description="The conversation to continue; a new one when left out"
    )
    stream: bool = Field(default=False, description="The stream endpoint streams either way")
    max_iterations: Annotated[int, Field(ge=1, le=MAX_ITERATIONS), WHOLE] | None = Field(
        default=DEFAULT_ITERATIONS, description="How many model calls this turn may cost"
    )


class PlainQueryRequest(QueryRequest):
    """A question whose answer comes in one piece: `stream` is refused if it is true."""

    stream: bool = Field(
        default=False,
        description="Must be false here; a stream is asked for at /query/stream",
        json_schema_extra={"const": False},
    )


class QueryResponse(BaseModel):
    """A finished answer."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "response": "17.5% of 2480 - 12 = 422.",
                    "session_id": "2f1c9a52-6a5f-4a0e-9d37-1d3c8f0a7f11",
                    "execution_time": 0.042,
                    "tokens_used": 512,
                    "metadata": {
                        "iterations": 4,
                        "tools": [
                            {
                                "agent": "analyst",
                                "name": "calculate",
                                "arguments": {"expression": "17.5% of 2480 - 12"},
                            }
                        ],
                        "cached": False,
                        "stopped": None,
                    },
                }
            ]
        }
    )

    response: str
    session_id: str
    execution_time: float = Field(description="Seconds from accepting the question to the answer")
    tokens_used: int | None = Field(
        default=None, description="Tokens the model reported; null when it reported none"
    )
    metadata: dict[str, Any] | None = Field(
        default=None,
        description="`iterations` (model calls), `tools` used, `cached`, and `stopped`: null, "
        '"max_iterations", "max_length" or "content_filter"',
    )


class StreamChunk(BaseModel):
    """One event of a streamed answer; the chunks, joined, are the answer."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"chunk": "Hello", "done": False, "metadata": {"agent": "supervisor"}}]
        }
    )

    chunk: str = Field(description="The next piece, as the model sent it; may be empty")
    done: bool = Field(default=False, description="True on the last event and on no other")
    metadata: dict[str, Any] | None = Field(
        default=None,
        description="While it runs: `agent`, and `tool` {name, arguments} when one is called. On "
        "the last event: `session_id`, `execution_time`, `tokens_used`, `iterations`, `cached`, "
        "`stopped`; and, when the turn failed, `error` (an ErrorResponse) and `retry_after` "
        "(seconds, or null)",
    )


class ErrorResponse(BaseModel):
    """Every refusal and fault, on every path."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": "The model is busy or cannot be reached; try again later.",
                    "detail": None,
                    "code": "model_unavailable",
                }
            ]
        }
    )

    error: str = Field(description="One sentence for people")
    detail: str | None = Field(default=None, description="What to change, where that is known")
    code: str | None = Field(default=None, description="A stable name for programs")


class SessionMessage(BaseModel):
    """One message of a conversation."""

    role: Literal["user", "assistant"]
    content: str


class SessionInfo(BaseModel):
    """What is known about one conversation."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "session_id": "2f1c9a52-6a5f-4a0e-9d37-1d3c8f0a7f11",
                    "created_at": "2026-11-23T09:00:00Z",
                    "last_activity": "2026-11-23T09:05:00Z",
                    "message_count": 2,
                }
            ]
        }
    )

    session_id: str
    created_at: datetime = Field(description="ISO 8601, UTC")
    last_activity: datetime = Field(description="ISO 8601, UTC")
    message_count: int = Field(description="Questions and answers of finished turns")
    messages: list[SessionMessage] | None = Field(
        default=None, description="The conversation, oldest first; with `?include=messages` only"
    )


class SessionList(BaseModel):
    """A page of the conversations that the caller may see, newest activity first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"sessions": ["my-first-session"], "count": 2, "next_cursor": "17"}]
        }
    )

    sessions: list[str]
    count: int = Field(description="All that the caller may see, on this page or not")
    next_cursor: str | None = Field(description="The next page's `cursor`; null at the end")


class SessionDeleted(BaseModel):
    """The session and its conversation are gone."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"message": "Session deleted", "session_id": "my-first-session"}]
        }
    )

    message: str
    session_id: str


class ServiceInfo(BaseModel):
    """What `GET /` says."""

    title: str = Field(examples=["Agent service"])
    version: str = Field(examples=["1.0.0"])
    docs: str = Field(default="/docs", description="Interactive API documentation")
    playground: str = Field(default="/playground", description="A page to talk to the agent")
    health: str = "/health"


class Health(BaseModel):
    """What `GET /health` says while the process answers."""

    status: Literal["healthy"] = "healthy"
