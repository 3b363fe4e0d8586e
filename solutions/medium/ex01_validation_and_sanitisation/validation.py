"""What a client may say, and what of it reaches the model."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from shared.models import ErrorResponse

MAX_QUERY_LENGTH = 2000
"""Code points, counted after cleaning."""

SESSION_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
HALF_CHARACTER = re.compile("[\ud800-\udfff]")
JOINERS = "\u200c\u200d"

REMOVED = re.compile(
    # The flag of a part of a country is a black flag spelled out in tag characters: it stays.
    "(\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f)"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, but for newline and tab
    "\u202a-\u202e\u2066-\u2069"  # turn the direction of reading
    "\u00ad\u180e\u200b\u2060-\u2064\ufeff"  # show nothing
    "\U000e0000-\U000e007f]"  # tags: a hidden alphabet
)


def clean(text: str) -> str:
    """The text as the model gets it: what a reader cannot see is gone, what they see is there.

    Cleaning what is clean already changes nothing.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _without_stray_joiners(REMOVED.sub(r"\1", text))
    return unicodedata.normalize("NFC", text).strip()  # last: what is gone stood in between


def _without_stray_joiners(text: str) -> str:
    """Joiners stay where writing needs them: after an emoji, or a letter that has no case."""
    kept: list[str] = []
    base = ""
    for character in text:
        if character in JOINERS:
            if not _joins(base):
                continue
            base = ""  # so that a second one in a row goes
        elif not unicodedata.category(character).startswith("M"):
            base = character  # marks and variation selectors belong to the base before them
        kept.append(character)
    return "".join(kept)


def _joins(base: str) -> bool:
    return bool(base) and unicodedata.category(base) in ("Lo", "So", "Sk", "Sm")


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
        if HALF_CHARACTER.search(value):
            raise ValueError("holds half a character")
        value = clean(value)
        if not value:
            raise ValueError("must hold something that can be read")
        if len(value) > MAX_QUERY_LENGTH:
            raise ValueError(f"may have {MAX_QUERY_LENGTH} characters")
        return value

    @field_validator("session_id")
    @classmethod
    def check_session_id(cls, value: str | None) -> str | None:
        """The id as it came, or None. Raises ValueError when it is not one."""
        if value is not None and not SESSION_ID.fullmatch(value):
            raise ValueError("must be 1 to 128 letters, digits, dots, underscores or hyphens")
        return value


def refusal(errors: Sequence[Any]) -> ErrorResponse:
    """The body of a 422. `errors` are pydantic's: each has `loc`, `msg`, `type` and `input`.

    Its code is `validation_error`; its detail names each field that is wrong, and says nothing
    that the client sent.
    """
    detail = "; ".join(dict.fromkeys(_complaint(error) for error in errors))
    return ErrorResponse(error="The request is not valid.", detail=detail, code="validation_error")


def _complaint(error: Any) -> str:
    if error["type"] == "extra_forbidden":  # its name is the client's, too
        return "body: has a field that is not known here"
    return f"{'.'.join(map(str, error['loc'][1:])) or 'body'}: {error['msg']}"
