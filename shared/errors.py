"""The error family: raise the meaning here, `shared/web/errors.py` turns it into HTTP.

Each class is one row of the wire contract. `status` is a plain number, so that this module
needs no web framework; the texts are for people and never carry an upstream's words.
"""

from shared.models import ErrorResponse


class AgentError(Exception):
    """Anything this service refuses or fails at, and can name."""

    status = 500
    code = "internal_error"
    error = "Something went wrong on our side."

    def __init__(
        self,
        detail: str | None = None,
        *,
        retry_after: int | None = None,
        transient: bool = False,
    ) -> None:
        super().__init__(detail or self.error)
        self.detail = detail
        self.retry_after = retry_after
        """Whole seconds after which trying again makes sense; sent as Retry-After."""
        self.transient = transient
        """Whether the same call, repeated at once, may succeed."""

    def as_response(self) -> ErrorResponse:
        return ErrorResponse(error=self.error, detail=self.detail, code=self.code)


class UseStreamEndpoint(AgentError):
    """`stream: true` was sent to the endpoint that answers in one piece."""

    status = 400
    code = "use_stream_endpoint"
    error = "This endpoint answers in one piece; POST to /api/v1/query/stream for a stream."


class SessionNotFound(AgentError):
    """No such session: never made, expired, deleted, or somebody else's."""

    status = 404
    code = "session_not_found"
    error = "There is no such session."


class SessionBusy(AgentError):
    """A turn waited for its session longer than TURN_WAIT."""

    status = 409
    code = "session_busy"
    error = "This session is still answering an earlier question; try again when it has."


class ModelError(AgentError):
    """The model answered something unusable: an error, malformed, empty or cut short."""

    status = 502
    code = "model_error"
    error = "The model gave no usable answer."


class ModelUnavailable(AgentError):
    """The model is busy (429, 503, 529) or cannot be reached."""

    status = 503
    code = "model_unavailable"
    error = "The model is busy or cannot be reached; try again later."


class Overloaded(AgentError):
    """This service cannot take the request now, since it is shutting down."""

    status = 503
    code = "overloaded"
    error = "The service cannot take this request now; try again shortly."


class ModelTimeout(AgentError):
    """The turn did not end within REQUEST_TIMEOUT."""

    status = 504
    code = "model_timeout"
    error = "The model did not answer in time."


class ConfigurationError(ValueError):
    """The service cannot start as configured; the text is one sentence that says what to do."""
