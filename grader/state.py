"""What a student has tried so far, in `.state/` beside the exercises: scores and hints."""

import json
from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError

from grader.catalogue import ROOT, Strict


class Tried(Strict):
    """One exercise's history."""

    earned: int | None = Field(default=None, ge=0, le=100)
    hints: int = Field(default=0, ge=0)
    failing: tuple[str, ...] = ()


HISTORY = TypeAdapter(dict[str, Tried])


class State:
    """Read at once, written at each change; where nothing can be written, nothing is kept."""

    def __init__(self, root: Path = ROOT) -> None:
        self._path = root / ".state" / "progress.json"
        self.kept = True
        try:
            self._history = HISTORY.validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            self._history = {}

    def of(self, exercise_id: str) -> Tried:
        return self._history.get(exercise_id, Tried())

    def update(self, exercise_id: str, **changes: object) -> Tried:
        tried = Tried.model_validate({**self.of(exercise_id).model_dump(), **changes})
        self._history[exercise_id] = tried
        self._write()
        return tried

    def _write(self) -> None:
        """Whole or not at all: two graders may write at once."""
        text = json.dumps(HISTORY.dump_python(self._history, mode="json"), indent=1)
        try:
            self._path.parent.mkdir(exist_ok=True)
            fresh = self._path.with_suffix(".new")
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(self._path)
        except OSError:
            self.kept = False
