"""The trainer guide's tables of wrong ideas, from what each exercise and its matrix declare."""

import sys
from collections.abc import Iterator
from pathlib import Path

from grader.catalogue import ROOT, Exercise, GradingError, find
from grader.verify import Matrix, cases, load_matrix
from grader.words import counted


def table(name: str) -> str:
    """Each misconception, the submissions that show it with what they earn, and what to say."""
    try:
        exercise = find(name)
    except GradingError:
        return "There is no such exercise in this copy."
    matrix = load_matrix(exercise)
    return "\n".join(
        [
            "| they think | known wrong, and what it earns | say |",
            "|---|---|---|",
            *_rows(exercise, matrix),
        ]
    )


def _rows(exercise: Exercise, matrix: Matrix) -> Iterator[str]:
    for known in exercise.misconceptions:
        shown = [
            f"`{exercise.short}: {name}` {wrong.earned}"
            for name, wrong in matrix.known_wrong.items()
            if wrong.misconception == known.id
        ]
        cells = (known.idea, "<br>".join(shown), known.tell)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def write_example(name: str, case: str, out: str) -> str:
    """Write a known-wrong or an alternative answer into a new folder; what to type next."""
    exercise = find(name)
    there = {known.name: known for known in cases(exercise, load_matrix(exercise))}
    if case not in there:
        raise GradingError(
            f"CASE={case} is none of {exercise.short}; there are: {', '.join(there)}."
        )
    if not out or Path(out).exists():
        raise GradingError(f"OUT={out} must name a folder that is not there yet.")
    files = there[case].intake.files
    for path, content in files.items():
        target = Path(out) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return (
        f"{counted(len(files), 'file')} {'is' if len(files) == 1 else 'are'} in {out};"
        f" it is to earn {counted(there[case].earned, 'point')};"
        f" grade {'it' if len(files) == 1 else 'them'}"
        f' with: make grade EX={exercise.short} ARGS="--submission {out}"'
    )


def main(arguments: list[str]) -> int:
    """`make example EX=medium/lab CASE=blocking_call OUT=folder`."""
    name, case, out = (*arguments, "", "", "")[:3]
    if not (ROOT / "tests" / "exercises").is_dir():
        print("The examples of wrong answers are in the trainer's copy alone.", file=sys.stderr)
        return 1
    try:
        print(write_example(name, case, out))
    except GradingError as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
