"""What a client may say: a table of what goes, and types that say the rules."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from shared.models import ErrorResponse

MAX_QUERY_LENGTH = 2000
HIDDEN = [*range(0x2060, 0x2065), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
HIDDEN += [0xAD, 0x180E, 0x200B, 0xFEFF, *range(0x20), *range(0x7F, 0xA0)]
TABLE = dict.fromkeys(code for code in HIDDEN if code not in (9, 10))
FLAG = re.compile("\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f")
TAGS = re.compile("[\U000e0000-\U000e007f]")


def clean(text: str) -> str:
    """Until nothing changes any more."""
    while (cleaned := cleaned_once(text)) != text:
        text = cleaned
    return text


def cleaned_once(text: str) -> str:
    text = re.sub("\r\n?", "\n", text).translate(TABLE)
    flags = FLAG.findall(text)
    between = [TAGS.sub("", part) for part in FLAG.split(text)]
    text = between[0] + "".join(f + part for f, part in zip(flags, between[1:], strict=True))
    text = re.sub("([\u200c\u200d])[\u200c\u200d]+", r"\1", text)
    text = "".join(
        character
        for place, character in enumerate(text)
        if character not in "\u200c\u200d" or needs_joiner(text[:place])
    )
    return unicodedata.normalize("NFC", text).strip()


def needs_joiner(before: str) -> bool:
    base = next((c for c in reversed(before) if unicodedata.category(c)[0] != "M"), "1")
    return unicodedata.category(base) in {"Lo", "So", "Sk", "Sm"}


def whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not valid Unicode") from None
    return text


def shaped(text: str) -> str:
    if re.search(r"[^A-Za-z0-9._-]", text):
        raise ValueError("holds a character that an id cannot have")
    return text


class Question(BaseModel):
    """What the two query endpoints take."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    query: Annotated[
        str,
        AfterValidator(whole),
        AfterValidator(clean),
        Field(min_length=1, max_length=MAX_QUERY_LENGTH),
    ]
    session_id: (
        Annotated[str, AfterValidator(shaped), Field(min_length=1, max_length=128)] | None
    ) = None
    max_iterations: Annotated[int, Field(ge=1, le=50)] | None = None


def refusal(errors: Sequence[Any]) -> ErrorResponse:
    fields = {str(part) for error in errors for part in error["loc"]} & set(Question.model_fields)
    detail = f"not as the documentation has it: {', '.join(sorted(fields)) or 'the body'}"
    return ErrorResponse(error="The request is not valid.", detail=detail, code="validation_error")
