"""A class's results: everybody, everything they handed in, and what it adds up to.

Its JSON is `grades.json`; the schema is published as `docs/grades.schema.json`.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime

from grader.batch import Done, Job
from grader.catalogue import Exercise, Strict, criteria
from grader.grade import Grade
from grader.intake import Answer, Class, Student
from grader.places import without_places
from grader.rubric import Points, Rubric, rounded, weighted
from grader.similar import Similar

SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}")


class ExerciseResult(Strict):
    exercise: str
    short: str
    title: str
    state: Literal["graded", "could_not_tell", "not_graded", "unreadable", "not_handed_in"]
    points: float = 0
    """Of a hundred, private checks included."""

    grade: Grade | None = None
    private: Grade | None = None
    """Of a suite that students do not have."""

    share: int = 0
    """How many of the hundred points the private suite decides."""

    why: str = ""
    """Why it is not graded."""

    hints: int | None = None
    """As the student's own copy counted them."""

    notes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def told(self) -> list[str]:
        """What is odd about the answer, by whoever took it or graded it, and each thing once."""
        first = [note for note in (self.grade.notes if self.grade else ()) if note]
        return [*(n for n in first if not any(n in each for each in self.notes)), *self.notes]


class CriterionResult(Strict):
    criterion: str
    title: str
    earned: float
    possible: float
    percent: float


class LateResult(Strict):
    handed_in: AwareDatetime
    percent: float
    """Taken off the total."""


class StudentResult(Strict):
    name: str
    page: str
    """What their files are called: safe on every system, and nobody else's."""

    total: float
    """Of a hundred, after what lateness costs."""

    before_late: float
    late: LateResult | None = None
    criteria: tuple[CriterionResult, ...] = ()
    exercises: tuple[ExerciseResult, ...] = ()
    problem: str = ""
    notes: tuple[str, ...] = ()

    @property
    def trouble(self) -> str:
        """`problem`, and what it means."""
        unreadable = any(result.state == "unreadable" for result in self.exercises)
        meaning = "was handed in and could not be read: it " if unreadable else ""
        return meaning + self.problem

    @property
    def graded(self) -> list[ExerciseResult]:
        return [result for result in self.exercises if result.grade]


class ClassResults(Strict):
    format: Literal[1] = 1
    title: str
    seed: int
    tier: int
    """The weakest isolation that anything was graded under; 0 if nothing was run."""

    official: bool
    exercises: tuple[str, ...]
    students: tuple[StudentResult, ...]
    similar: tuple[Similar, ...] = ()
    left_alone: tuple[str, ...] = ()


def assemble(
    handed: Class,
    jobs: Mapping[tuple[str, str], Job],
    done: Mapping[str, Done],
    exercises: Sequence[Exercise],
    suites: Mapping[str, Exercise],
    rubric: Rubric,
    moments: Mapping[str, datetime],
    *,
    seed: int,
    official_tier: int,
    similar: Iterable[Similar] = (),
) -> ClassResults:
    """`jobs` is by student and exercise's key, `done` by the job's; `suites` are private ones."""
    pages = page_names([student.name for student in handed.students])
    students = [
        _student(student, jobs, done, exercises, suites, rubric, moments.get(student.name), page)
        for student, page in zip(handed.students, pages, strict=True)
    ]
    tiers = [r.grade.tier for s in students for r in s.graded if r.grade and r.grade.tier]
    tier = max(tiers, default=0)
    return ClassResults(
        title=rubric.title,
        seed=seed,
        tier=tier,
        official=tier <= official_tier,
        exercises=tuple(exercise.id for exercise in exercises),
        students=tuple(students),
        similar=tuple(similar),
        left_alone=tuple(map(legible, handed.left_alone)),
    )


def _student(
    student: Student,
    jobs: Mapping[tuple[str, str], Job],
    done: Mapping[str, Done],
    exercises: Sequence[Exercise],
    suites: Mapping[str, Exercise],
    rubric: Rubric,
    moment: datetime | None,
    page: str,
) -> StudentResult:
    answers = {answer.exercise.id: answer for answer in student.answers}
    results = []
    for exercise in exercises:
        suite, answer = suites.get(exercise.id), answers.get(exercise.id)
        keys = [each.key for each in (exercise, suite) if each]
        came = [done[jobs[student.name, key].key] for key in keys if (student.name, key) in jobs]
        result = _result(exercise, suite, answer, came, _hints(student, exercise))
        if answer is None and student.problem:
            about = {"state": student.without_answers, "why": legible(student.problem)}
            result = result.model_copy(update=about)
        results.append(result)
    by_criterion = _by_criterion(exercises, suites, results)
    if rubric.total_of == "exercises":
        percents = {result.short: result.points for result in results}
    else:
        percents = {each.criterion: each.percent for each in by_criterion}
    before = weighted(rubric, percents)
    late = _late(student.name, rubric, moment)
    total = rounded(before * (100 - late.percent) / 100) if late else before
    return StudentResult(
        name=legible(student.name),
        page=page,
        total=total,
        before_late=before,
        late=late,
        criteria=tuple(by_criterion),
        exercises=tuple(results),
        problem=legible(student.problem),
        notes=tuple(map(legible, student.notes)),
    )


def _hints(student: Student, exercise: Exercise) -> int | None:
    packed = student.manifest.exercises.get(exercise.id) if student.manifest else None
    return packed.hints if packed else None


def _result(
    exercise: Exercise,
    suite: Exercise | None,
    answer: Answer | None,
    came: Sequence[Done],
    hints: int | None,
) -> ExerciseResult:
    known = ExerciseResult(
        exercise=exercise.id, short=exercise.short, title=exercise.title, state="not_handed_in"
    )
    if answer is None:
        return known
    about = {
        "hints": hints,
        "notes": tuple(map(legible, answer.notes)),
        "flags": tuple(map(legible, answer.flags)),
    }
    grades = [each.grade for each in came if each.grade]
    if answer.problem or len(grades) < (2 if suite else 1):
        why = answer.problem or next(each.problem for each in came if not each.grade)
        return known.model_copy(update={**about, "state": "not_graded", "why": _short(why)})
    grade, private = grades[0], grades[1] if suite else None
    share = suite.share if suite else 0
    points = grade.earned * (100 - share) / 100 + (private.earned if private else 0) * share / 100
    return known.model_copy(
        update={
            **about,
            "state": "could_not_tell" if any(each.undecided for each in grades) else "graded",
            "grade": grade,
            "private": private,
            "share": share,
            "points": rounded(points),
        }
    )


def _short(why: str) -> str:
    """For whoever reads a page: what a broken suite printed, and where, is the trainer's alone."""
    told: str = without_places()((why.splitlines() or [""])[0])
    return legible(told).rstrip(".:")


def _by_criterion(
    exercises: Sequence[Exercise],
    suites: Mapping[str, Exercise],
    results: Sequence[ExerciseResult],
) -> list[CriterionResult]:
    """What somebody did not hand in counts as nothing earned."""
    points: dict[str, Points] = {}
    for exercise, result in zip(exercises, results, strict=True):
        suite = suites.get(exercise.id)
        share = suite.share if suite else 0
        _add(points, exercise, result.grade, (100 - share) / 100)
        if suite:
            _add(points, suite, result.private, share / 100)
    return [
        CriterionResult(
            criterion=each.id,
            title=each.title,
            earned=rounded(points[each.id].earned),
            possible=rounded(points[each.id].possible),
            percent=points[each.id].percent,
        )
        for each in criteria()
        if each.id in points
    ]


def _add(points: dict[str, Points], exercise: Exercise, grade: Grade | None, part: float) -> None:
    earned = {check.id: check.earned for check in grade.checks} if grade else {}
    for check in exercise.checks:
        if check.criterion:
            more = Points(earned.get(check.id, 0) * part, check.points * part)
            points[check.criterion] = points.get(check.criterion, Points()) + more


def _late(student: str, rubric: Rubric, moment: datetime | None) -> LateResult | None:
    if rubric.late is None or moment is None:
        return None
    return LateResult(handed_in=moment, percent=rubric.late.percent(student, moment))


def page_names(students: Sequence[str]) -> list[str]:
    """Of files; to some systems Alice and alice are one."""
    times = Counter(student.casefold() for student in students)
    return [page_name(each, alone=times[each.casefold()] == 1) for each in students]


def page_name(student: str, *, alone: bool = True) -> str:
    """The name itself where it is harmless and nobody else's, else what is left and a hash."""
    if alone and SAFE.fullmatch(student):
        return student
    told = hashlib.sha256(student.encode(errors="backslashreplace")).hexdigest()[:10]
    return "-".join(filter(None, [re.sub(r"[^A-Za-z0-9]+", "-", student).strip("-")[:40], told]))


def legible(text: str) -> str:
    """File names may hold bytes that are no text."""
    return text.encode(errors="backslashreplace").decode()
