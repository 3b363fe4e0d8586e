"""What a client may say: one character after the other, and a validator around the whole model."""

import unicodedata
from collections.abc import Iterator, Sequence
from string import ascii_letters, digits
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from shared.models import ErrorResponse

MAX_QUERY_LENGTH = 2000
VISIBLE_FORMATS = set(range(0x0600, 0x0606)) | {0x06DD, 0x070F, 0x08E2, 0x110BD}
MARKS = {0x200E, 0x200F, 0x061C}
BLACK_FLAG, CLOSING_TAG = 0x1F3F4, 0xE007F
SPELLED = set(map(ord, ascii_letters[:26] + digits))


def clean(text: str) -> str:
    text = "\n".join(text.replace("\r\n", "\n").split("\r"))
    return unicodedata.normalize("NFC", "".join(kept(list(map(ord, text))))).strip()


def kept(codes: list[int]) -> Iterator[str]:
    joinable, place = False, 0
    while place < len(codes):
        code = codes[place]
        flag = flag_at(codes, place)
        if flag:
            yield "".join(map(chr, codes[place : place + flag]))
            place, joinable = place + flag, True
            continue
        place += 1
        category = unicodedata.category(chr(code))
        if code in (0x200C, 0x200D):
            if joinable:
                yield chr(code)
            joinable = False
        elif category == "Cc":
            if code in (9, 10):
                joinable = False
                yield chr(code)
        elif category != "Cf" or code in VISIBLE_FORMATS or code in MARKS:
            if category[0] == "C" and 0xE0000 <= code <= CLOSING_TAG:
                continue
            joinable = joinable if category[0] == "M" else category in ("Lo", "So", "Sk", "Sm")
            yield chr(code)


def flag_at(codes: list[int], place: int) -> int:
    """How long the flag of a part of a country is that begins here; 0 if none does."""
    if codes[place] != BLACK_FLAG or CLOSING_TAG not in codes[place : place + 8]:
        return 0
    end = codes.index(CLOSING_TAG, place)
    spelled = [code - 0xE0000 for code in codes[place + 1 : end]]
    return end - place + 1 if len(spelled) >= 3 and SPELLED.issuperset(spelled) else 0


def wrong(field: str, rule: str) -> PydanticCustomError:
    return PydanticCustomError("rule", "{field} {rule}", {"field": field, "rule": rule})


class Question(BaseModel):
    """What the two query endpoints take."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: str
    session_id: str | None = None
    max_iterations: int | None = None

    @model_validator(mode="before")
    @classmethod
    def check_all(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            raise PydanticCustomError("rule", "the body must be an object")
        query, session_id = body.get("query"), body.get("session_id")
        if not isinstance(query, str) or any("\ud800" <= c <= "\udfff" for c in query):
            raise wrong("query", "must be text")
        query = clean(query)
        if not 0 < len(query) <= MAX_QUERY_LENGTH:
            raise wrong("query", "has the wrong length")
        if session_id is not None:
            if not isinstance(session_id, str) or not 0 < len(session_id) < 129:
                raise wrong("session_id", "has the wrong length")
            if set(session_id) - set(ascii_letters + digits + "._-"):
                raise wrong("session_id", "has a character that no id has")
        return {**body, "query": query}


def refusal(errors: Sequence[Any]) -> ErrorResponse:
    known = [error["msg"] for error in errors if error["type"] == "rule"]
    detail = "; ".join(known) or "a field is unknown, or of the wrong type"
    return ErrorResponse(error="The request is not valid.", detail=detail, code="validation_error")
