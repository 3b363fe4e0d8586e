"""A page for each student, fit to send, and one about the class. No script, no other host."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from grader.catalogue import Check, Exercise, Misconception, criteria
from grader.grade import CheckGrade, Grade
from grader.render import AFTER_A_CRASH, MAX_LINES, NAMES, by_cause, crashed, printable
from grader.report import Verdict
from grader.reports.forms import STATES, remarks
from grader.results import ClassResults, ExerciseResult, StudentResult
from grader.sandbox.client import TIERS
from grader.words import counted

SIGNS = {
    Verdict.PASSED: "✓",
    Verdict.FAILED: "×",
    Verdict.CRASHED: "C",
    Verdict.TIMED_OUT: "T",
    Verdict.OVER_LIMIT: "L",
    Verdict.TAMPERED: "!",
    Verdict.COULD_NOT_TELL: "?",
}
WORDS = {verdict: name.lower() for verdict, name in NAMES.items()}
STUCK_BELOW = 50
MOST_MISCONCEPTIONS = 10
FITS_A_PHONE = 4
"""Checks beside each other, with the longest names of students."""


def _printed(value: object) -> object:
    """Whatever a page says: nothing in it that a reader would not see, or that moves others."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("grader.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printed,
        auto_reload=False,
    )
    style = Path(__file__).with_name("templates") / "style.css"
    environment.globals |= {
        "style": Markup(style.read_text(encoding="utf-8")),  # noqa: S704 - our own file
        "signs": SIGNS,
        "words": WORDS,
        "states": STATES,
        "tiers": TIERS,
        "counted": counted,
        "after_a_crash": AFTER_A_CRASH,
    }
    return environment


PAGES = _environment()


@dataclass(frozen=True)
class Shown:
    """A check as a page shows it: what was declared, and what came of it."""

    declared: Check
    grade: CheckGrade

    @property
    def passed(self) -> bool:
        return self.grade.verdict is Verdict.PASSED


@dataclass(frozen=True)
class Section:
    """An exercise on a student's page."""

    exercise: Exercise
    result: ExerciseResult
    suite: Exercise | None = None
    """The private one."""

    @property
    def anchor(self) -> str:
        return self.exercise.id.replace("/", "-")

    def by_criterion(self) -> list[tuple[str, list[Shown]]]:
        """In the order of the hand-out; without a title what belongs to none."""
        checks = self.checks()
        titles = {criterion.id: criterion.title for criterion in criteria()}
        order = [id_ for id_ in titles if any(c.declared.criterion == id_ for c in checks)]
        groups = [
            (titles[id_], [c for c in checks if c.declared.criterion == id_]) for id_ in order
        ]
        rest = [check for check in checks if check.declared.criterion is None]
        return [*groups, ("", rest)] if rest else groups

    def checks(self) -> list[Shown]:
        return _shown(self.exercise, self.result.grade)

    def private_checks(self) -> list[Shown]:
        return _shown(self.suite, self.result.private) if self.suite else []

    def crashes(self) -> list[list[Shown]]:
        """Said first, each once: nothing else can be mended before."""
        return [group for group in self._to_explain() if crashed(group[0].grade)]

    def last_words(self, check: Shown) -> str:
        return "\n".join(check.grade.printed.rstrip().splitlines()[-MAX_LINES:])

    def crash_of(self, check: Shown) -> int | None:
        """Which of them keeps the check from passing, counted from 1."""
        crashes = enumerate(self.crashes(), 1)
        ids = ((number, [each.declared.id for each in group]) for number, group in crashes)
        return next((number for number, stopped in ids if check.declared.id in stopped), None)

    def to_mend(self) -> list[tuple[Shown, list[str]]]:
        """Checks that one TODO keeps from passing are explained once; the ids of the others."""
        groups = [group for group in self._to_explain() if not crashed(group[0].grade)]
        return [(first, [each.declared.id for each in more]) for first, *more in groups]

    def _to_explain(self) -> list[list[Shown]]:
        by_id = {check.declared.id: check for check in self.checks() if not check.passed}
        groups = by_cause(check.grade for check in by_id.values())
        return [[by_id[check.id] for check in group] for group in groups]

    @property
    def misconception(self) -> Misconception | None:
        return misconception(self.exercise, self.result.grade)


def _shown(exercise: Exercise, grade: Grade | None) -> list[Shown]:
    declared = {check.id: check for check in exercise.checks}
    found = grade.checks if grade else ()
    return [Shown(declared[check.id], check) for check in found if check.id in declared]


def misconception(exercise: Exercise, grade: Grade | None) -> Misconception | None:
    wanted = grade.misconception if grade else None
    return next((known for known in exercise.misconceptions if known.id == wanted), None)


def student_page(
    results: ClassResults, student: StudentResult, exercises: Mapping[str, Exercise]
) -> str:
    sections = [
        Section(exercises[result.exercise], result, exercises.get(f"{result.exercise} private"))
        for result in student.exercises
        if result.state != "not_handed_in" and not student.problem
    ]
    page = PAGES.get_template("student.html.j2")
    return page.render(results=results, student=student, sections=sections)


# --- the class


@dataclass(frozen=True)
class Column:
    """An exercise on the class's page, with those who handed it in."""

    exercise: Exercise
    rows: Sequence[tuple[StudentResult, ExerciseResult]]

    def grade(self, result: ExerciseResult) -> Grade | None:
        return result.private if self.exercise.private else result.grade

    @property
    def graded(self) -> list[tuple[StudentResult, Grade]]:
        both = ((student, self.grade(result)) for student, result in self.rows)
        return [(student, grade) for student, grade in both if grade]

    def verdicts(self, result: ExerciseResult) -> list[Verdict | None]:
        grade = self.grade(result)
        checks = grade.checks if grade else ()
        found = {check.id: check.verdict for check in checks}
        return [found.get(check.id) for check in self.exercise.checks]

    def passed(self, check: str) -> str:
        """How many of those who were graded."""
        verdicts = [c.verdict for _, grade in self.graded for c in grade.checks if c.id == check]
        if not verdicts:
            return ""
        return f"{100 * verdicts.count(Verdict.PASSED) // len(verdicts)}%"

    @property
    def median_points(self) -> float:
        return statistics.median([result.points for _, result in self.rows if result.grade])

    @property
    def median_seconds(self) -> float:
        return statistics.median([grade.seconds for _, grade in self.graded])

    @property
    def slowest(self) -> tuple[str, float]:
        student, grade = max(self.graded, key=lambda each: each[1].seconds)
        return student.name, grade.seconds


@dataclass(frozen=True)
class Shared:
    """A misconception, and how many have it."""

    exercise: Exercise
    known: Misconception
    count: int


def class_page(results: ClassResults, exercises: Mapping[str, Exercise]) -> str:
    columns = _handed_in(_column(results, exercises[id_]) for id_ in results.exercises)
    private = [_column(results, each) for each in exercises.values() if each.private]
    page = PAGES.get_template("class.html.j2")
    return page.render(
        results=results,
        columns=columns,
        fits_a_phone=FITS_A_PHONE,
        tables=[*columns, *_handed_in(private)],
        distribution=distribution([student.total for student in results.students]),
        criteria=_class_criteria(results),
        misconceptions=_misconceptions(columns),
        stuck=list(_stuck(columns)),
        flags=list(_flags(results)),
        remarks=[(student, line) for student in results.students for line in remarks(student)],
        counts=Counter(r.state for s in results.students if not s.problem for r in s.exercises),
        problems=[student for student in results.students if student.problem],
        exercises=exercises,
    )


def _column(results: ClassResults, exercise: Exercise) -> Column:
    rows = [
        (student, result)
        for student in results.students
        for result in student.exercises
        if result.exercise == exercise.id and result.state != "not_handed_in"
    ]
    return Column(exercise, rows)


def _handed_in(columns: Iterable[Column]) -> list[Column]:
    """Those that somebody's answer is in; of what cannot be read, nobody knows which it was."""
    there = [column for column in columns if column.rows]
    known = [each for each in there if any(not student.problem for student, _ in each.rows)]
    return known or there


def distribution(totals: Sequence[float]) -> list[tuple[str, int]]:
    """How many in each ten; a hundred is with the nineties."""
    counted = Counter(min(int(total // 10), 9) for total in totals)
    return [(f"{10 * ten}–{10 * ten + (9 if ten < 9 else 10)}", counted[ten]) for ten in range(10)]


def _class_criteria(results: ClassResults) -> list[tuple[str, float]]:
    """The mean of each, over those who handed in anything."""
    there = [student for student in results.students if student.graded]
    if not there:
        return []
    return [
        (each.title, round(statistics.mean(s.criteria[at].percent for s in there), 1))
        for at, each in enumerate(there[0].criteria)
    ]


def _misconceptions(columns: Sequence[Column]) -> list[Shared]:
    found = []
    for column in columns:
        counted = Counter(grade.misconception for _, grade in column.graded if grade.misconception)
        for id_, count in counted.items():
            known = next((k for k in column.exercise.misconceptions if k.id == id_), None)
            if known:
                found.append(Shared(column.exercise, known, count))
    found.sort(key=lambda each: (-each.count, each.exercise.id, each.known.id))
    return found[:MOST_MISCONCEPTIONS]


def _stuck(columns: Sequence[Column]) -> Any:
    """Who handed it in and has less than half of it, with the check that would bring most."""
    for column in columns:
        for student, result in column.rows:
            if result.grade and result.points < STUCK_BELOW and not result.grade.undecided:
                failed = [check for check in result.grade.checks if check.id in result.grade.failed]
                most = max(failed, key=lambda check: check.points)
                yield column.exercise, student, result, most


def _flags(results: ClassResults) -> Any:
    for student in results.students:
        for result in student.exercises:
            yield from ((student, result, flag) for flag in result.flags)
            if result.grade:
                tampered = [c for c in result.grade.checks if c.verdict is Verdict.TAMPERED]
                if tampered:
                    yield student, result, f"tampered: {tampered[0].said}"
                if result.grade.open_book == 100:
                    yield student, result, "every line is also in the course's own files"
