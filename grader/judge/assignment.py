"""What the runner tells a judge: which submission, how to run it, and where the results go."""

import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

VARIABLE = "GRADER_ASSIGNMENT"


class Assignment(BaseModel):
    """Given in the environment of the judge's process, which no submission sees."""

    results: int
    """A file descriptor to write to."""
    warm: Path
    tier: int
    workspace: Path
    exercise: Path
    """The folder of the exercise in the course."""
    seed: int
    first_failure_only: bool = False
    only: Sequence[str] = ()

    @classmethod
    def from_environment(cls) -> "Assignment | None":
        text = os.environ.get(VARIABLE)
        return cls.model_validate_json(text) if text else None
