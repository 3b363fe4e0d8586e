"""Your part: what a client may say, and what of it reaches the model."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from shared.models import ErrorResponse

MAX_QUERY_LENGTH = 2000
"""Code points, counted after cleaning."""


def clean(text: str) -> str:
    """The text as the model gets it: what a reader cannot see is gone, what they see is there.

    Cleaning what is clean already changes nothing.
    """
    raise NotImplementedError("TODO 1: take out what hides, compose what is left, trim the ends")


class Question(BaseModel):
    """What the two query endpoints take."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    query: str
    session_id: str | None = None
    max_iterations: Annotated[int, Field(ge=1, le=50)] | None = None

    @field_validator("query")
    @classmethod
    def check_query(cls, value: str) -> str:
        """The cleaned question. Raises ValueError when it is empty or too long."""
        raise NotImplementedError("TODO 2: clean the question, then see whether it may be asked")

    @field_validator("session_id")
    @classmethod
    def check_session_id(cls, value: str | None) -> str | None:
        """The id as it came, or None. Raises ValueError when it is not one."""
        raise NotImplementedError("TODO 3: refuse what is not a session id")


def refusal(errors: Sequence[Any]) -> ErrorResponse:
    """The body of a 422. `errors` are pydantic's: each has `loc`, `msg`, `type` and `input`.

    Its code is `validation_error`; its detail names each field that is wrong, and says nothing
    that the client sent.
    """
    raise NotImplementedError("TODO 4: say which field is wrong, without repeating what was sent")
