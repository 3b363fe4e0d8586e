"""A class that does not exist: `python -m tests.grader.synthetic FOLDER --students 200 --seed 1`.

Each student hands in one exercise: the solution, the starter, an alternative or a known-wrong
answer from its matrix, or, one in twenty, something hostile. What each has to get is written to
FOLDER.expected.json. Nobody hands in the same bytes as anybody else.
"""

import argparse
import io
import json
import os
import random
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from grader.catalogue import Exercise, all_exercises, find
from grader.verify import Case, cases, load_matrix, matrix_folder
from tests.grader.hostile import ATTACKS, armed

HOSTILE = find("medium/ex02")
SHARES = {"solution": 30, "starter": 15, "alternative": 15, "known_wrong": 35, "hostile": 5}
SLOW = {
    "disk_bomb", "endless_loop_in_a_call", "exit_later", "file_bomb", "fork_bomb", "memory_bomb",
    "memory_of_many", "never_ending_answer", "sleeps_for_ever", "thread_bomb", "trickles",
    "endless_loop_at_import", "says_ready_too_early",
}  # fmt: skip
"""Attacks that take all the time that they are given."""


@dataclass(frozen=True)
class Expected:
    student: str
    exercise: str
    answer: str
    state: str = "graded"
    earned: int | None = None
    fails: tuple[str, ...] | None = None
    """None: nothing passes, and everything is decided."""

    misconception: str | None = None
    is_starter: bool = False
    """What a starter's failures look like is not declared."""


EXPECTED = TypeAdapter(list[Expected])


def make_class(
    folder: Path,
    exercises: Sequence[Exercise],
    students: int,
    seed: int,
    *,
    quick: bool = False,
    harmless: bool = False,
) -> list[Expected]:
    """`quick` leaves out the attacks that take all their time, `harmless` all that would be run."""
    rng = random.Random(seed)
    answers = {exercise.id: _answers(exercise) for exercise in exercises}
    kinds = [kind for kind, share in SHARES.items() for _ in range(share * students // 100)]
    kinds += ["solution"] * (students - len(kinds))
    rng.shuffle(kinds)
    turns = _in_turn(exercises, rng)
    expected = []
    for number, kind in enumerate(kinds):
        name = f"student-{number:03}"
        if kind == "hostile":
            expected.append(_hostile(folder, name, rng, quick=quick, harmless=harmless))
            continue
        exercise = next(turns)
        case = rng.choice(answers[exercise.id][kind])
        files = {path: _signed(path, data, name) for path, data in case.intake.files.items()}
        rng.choice(FORMS)(folder, name, exercise, files)
        expected.append(_expected(name, case))
    text = json.dumps(EXPECTED.dump_python(expected, mode="json"), indent=1)
    folder.with_suffix(".expected.json").write_text(text)
    return expected


def _in_turn(exercises: Sequence[Exercise], rng: random.Random) -> Iterator[Exercise]:
    """Shuffled, again and again, so that even a small class has handed in each of them.

    Those of the advanced track come half as often: they take longer.
    """
    often = [each for each in exercises if each.track == "medium"]
    while True:
        yield from rng.sample([*exercises, *often], len(exercises) + len(often))


def _answers(exercise: Exercise) -> dict[str, list[Case]]:
    matrix = load_matrix(exercise)
    every = {case.name: case for case in cases(exercise, matrix)}
    return {
        "solution": [every["solution"]],
        "starter": [every["starter"]],
        "alternative": [every[name] for name in matrix.alternatives],
        "known_wrong": [every[name] for name in matrix.known_wrong],
    }


def _expected(name: str, case: Case) -> Expected:
    return Expected(
        name,
        case.exercise.id,
        case.name,
        earned=case.earned,
        fails=tuple(sorted(case.fails)),
        misconception=case.misconception,
        is_starter=case.is_starter,
    )


def _signed(path: str, data: bytes, name: str) -> bytes:
    return data + f"\n# {name}\n".encode() if path.endswith(".py") else data


# --- how they hand it in


def _as_folder(folder: Path, name: str, exercise: Exercise, files: Mapping[str, bytes]) -> None:
    _lay(folder / name / exercise.home, files)


def _without_exercises(
    folder: Path, name: str, exercise: Exercise, files: Mapping[str, bytes]
) -> None:
    _lay(folder / name / exercise.id, files)


def _as_zip(folder: Path, name: str, exercise: Exercise, files: Mapping[str, bytes]) -> None:
    _zip(folder / f"{name}.zip", {f"{exercise.home}/{path}": files[path] for path in files})


def _as_upload(folder: Path, name: str, exercise: Exercise, files: Mapping[str, bytes]) -> None:
    (folder / name).mkdir()
    inside = {f"course-main/{exercise.home}/{path}": data for path, data in files.items()}
    _zip(folder / name / "upload.zip", inside)


def _as_tarball(folder: Path, name: str, exercise: Exercise, files: Mapping[str, bytes]) -> None:
    with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as archive:
        for path, data in files.items():
            member = tarfile.TarInfo(f"./{exercise.home}/{path}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


FORMS: Sequence[Callable[[Path, str, Exercise, Mapping[str, bytes]], None]] = (
    _as_folder,
    _without_exercises,
    _as_zip,
    _as_upload,
    _as_tarball,
)


def _lay(folder: Path, files: Mapping[str, bytes]) -> None:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def _zip(path: Path, files: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


# --- and what some of them try


def _hostile(
    folder: Path, name: str, rng: random.Random, *, quick: bool, harmless: bool
) -> Expected:
    attacks = [attack for attack in ATTACKS if not quick or attack.stem not in SLOW]
    if rng.random() < 0.3 or harmless:
        wrong = rng.choice(list(WRONG_PACKAGES))
        state = WRONG_PACKAGES[wrong](folder, name)
        return Expected(name, HOSTILE.id, wrong, state=state, earned=0)
    attack = rng.choice(attacks)
    files = {"rate_limit.py": _signed("rate_limit.py", armed(attack), name)}
    rng.choice(FORMS)(folder, name, HOSTILE, files)
    return Expected(name, HOSTILE.id, attack.stem, earned=0)


def _leads_out(folder: Path, name: str) -> str:
    _zip(folder / f"{name}.zip", {f"../../{HOSTILE.home}/rate_limit.py": b""})
    return "unreadable"


def _bomb(folder: Path, name: str) -> str:
    inside = {f"{HOSTILE.home}/rate_limit.py": b"", "zeros": bytes(30_000_000)}
    _zip(folder / f"{name}.zip", inside)
    return "unreadable"


def _link(folder: Path, name: str) -> str:
    home = folder / name / HOSTILE.home
    home.mkdir(parents=True)
    (home / "rate_limit.py").symlink_to(HOSTILE.solution / "rate_limit.py")
    return "graded"


def _pipe(folder: Path, name: str) -> str:
    home = folder / name / HOSTILE.home
    home.mkdir(parents=True)
    os.mkfifo(home / "rate_limit.py")
    return "graded"


WRONG_PACKAGES: dict[str, Callable[[Path, str], str]] = {
    "leads_out": _leads_out,
    "bomb": _bomb,
    "link": _link,
    "pipe": _pipe,
}


# --- what came of it


def differences(expected: Sequence[Expected], out: Path) -> Iterator[str]:
    """Sentences on who got something else; `out` is where the reports are."""
    results = json.loads((out / "grades.json").read_text())
    students = {student["name"]: student for student in results["students"]}
    if students.keys() != {each.student for each in expected}:
        yield "the students are not those who handed in"
        return
    for each in expected:
        handed = {
            result["exercise"]: result
            for result in students[each.student]["exercises"]
            if result["state"] != "not_handed_in"
        }
        if each.state == "unreadable":
            if {result["state"] for result in handed.values()} != {each.state}:
                yield f"{each.student} {each.answer}: not {each.state}"
            continue
        wanted = {each.exercise}
        if handed.keys() != wanted:
            yield f"{each.student}: {sorted(handed)} instead of {each.exercise}"
        else:
            for difference in _differences(each, handed[each.exercise]):
                yield f"{each.student} {each.exercise} {each.answer}: {difference}"


def _differences(expected: Expected, result: dict[str, object]) -> Iterator[str]:
    if result["state"] != expected.state:
        yield f"{result['state']} {result['why']}, not {expected.state}"
        return
    grade = result["grade"]
    assert isinstance(grade, dict)
    failed = {check["id"]: check for check in grade["checks"] if check["verdict"] != "passed"}
    if result["points"] != expected.earned:
        yield f"{result['points']} points, not {expected.earned}"
    if expected.fails is None and len(failed) != len(grade["checks"]):
        yield "something passes"
    if expected.fails is not None:
        for id_ in sorted(failed.keys() ^ set(expected.fails)):
            said = f"fails: {failed[id_]['said']}" if id_ in failed else "passes"
            yield f"{id_} {said}"
        if not expected.is_starter and grade["misconception"] != expected.misconception:
            yield f"shows {grade['misconception']}, not {expected.misconception}"


def with_a_matrix() -> list[Exercise]:
    return [each for each in all_exercises() if (matrix_folder(each) / "matrix.toml").exists()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--students", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--exercises", nargs="*", default=[])
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    chosen = [find(name) for name in options.exercises] or with_a_matrix()
    made = make_class(options.folder, chosen, options.students, options.seed, quick=options.quick)
    print(f"{options.folder} has {len(made)} submissions to {len(chosen)} exercises.")


if __name__ == "__main__":
    main()
