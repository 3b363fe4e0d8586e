"""The application's own request model and its own complaints."""

from collections.abc import Sequence
from typing import Any

from shared.models import ErrorResponse, QueryRequest
from shared.web.errors import VALIDATION, complaint


def clean(text: str) -> str:
    return text.strip()


class Question(QueryRequest):
    pass


def refusal(errors: Sequence[Any]) -> ErrorResponse:
    detail = "; ".join(dict.fromkeys(complaint(error) for error in errors))
    return VALIDATION.model_copy(update={"detail": detail})
