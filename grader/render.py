"""A report as plain text: 80 columns, no colour, and nothing in it that a terminal would obey."""

import textwrap
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeVar

from grader.report import CheckReport, Report, Verdict
from grader.sandbox.client import TIERS

WIDTH = 80
MAX_LINES = 12
SHOWN_EXCHANGES = 2
COMPLETE = "Everything holds. Well done."
AFTER_A_CRASH = "It ended by itself. Mend that first: the last lines that it printed say why."
NAMES = {
    Verdict.PASSED: "passed",
    Verdict.FAILED: "FAILED",
    Verdict.CRASHED: "CRASHED",
    Verdict.TIMED_OUT: "TIMED OUT",
    Verdict.OVER_LIMIT: "OVER A LIMIT",
    Verdict.TAMPERED: "TAMPERED",
    Verdict.COULD_NOT_TELL: "could not tell",
}


def printable(text: str) -> str:
    """`text` with everything escaped that moves a cursor, hides, or turns the direction around."""
    return "".join(char if _is_harmless(char) else f"\\u{ord(char):04x}" for char in text)


def _is_harmless(char: str) -> bool:
    hidden = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    return char == "\n" or unicodedata.category(char) not in hidden


def render(report: Report) -> str:
    """The whole report."""
    lines = [*_head(report), *_points(report), *_notes(report), *_summary(report), ""]
    for alike in by_cause(_told(report)):
        lines += [*_explain(report, alike[0]), *_also(alike), ""]
    return "\n".join([*lines, *_foot(report)]) + "\n"


def render_first(report: Report) -> str:
    """What matters while somebody works: the first thing to mend. The rest was not asked."""
    lines = [*_head(report), *([] if _told(report) else _points(report)), *_notes(report)]
    for alike in by_cause(_told(report))[:1]:
        lines += [*_explain(report, alike[0]), ""]
        lines += _wrapped(
            "Checks after this one were not asked, and no points were counted:"
            f" make grade EX={report.exercise.short} does. Stuck? make hint"
            f" EX={report.exercise.short}"
        )
    if report.complete:
        lines.append(COMPLETE)
    return "\n".join(lines) + "\n"


def _told(report: Report) -> list[CheckReport]:
    return [check for check in report.checks if check.result and not _holds(check)]


def _holds(check: CheckReport) -> bool:
    return check.verdict is Verdict.PASSED


class Told(Protocol):
    """What a report or a page has of a check."""

    @property
    def id(self) -> str: ...

    @property
    def verdict(self) -> Verdict: ...

    @property
    def todo(self) -> str: ...

    @property
    def printed(self) -> str: ...


Check = TypeVar("Check", bound=Told)


def by_cause(failing: Iterable[Check]) -> list[list[Check]]:
    """Checks that one TODO, or one crash, keeps from passing are explained once."""
    groups: dict[str, list[Check]] = {}
    for check in failing:
        groups.setdefault(_cause(check), []).append(check)
    return list(groups.values())


def _cause(check: Told) -> str:
    if check.todo:
        return check.todo
    if check.verdict is Verdict.CRASHED:
        return last_line(check.printed)
    return check.id


def crashed(check: Told) -> bool:
    """And it was no TODO that ended it."""
    return check.verdict is Verdict.CRASHED and not check.todo


def last_line(printed: str) -> str:
    return (printed.splitlines() or [""])[-1]


def _also(alike: list[CheckReport]) -> Iterator[str]:
    first, *others = alike
    if others:
        what = "TODO" if first.todo else "crash"
        yield from _part(f"The same {what} stops", ", ".join(check.id for check in others))


def _head(report: Report) -> Iterator[str]:
    yield f"{report.exercise.short}  {report.exercise.title}"


def _points(report: Report) -> Iterator[str]:
    yield f"{report.earned} of 100 points"


def _notes(report: Report) -> Iterator[str]:
    yield ""
    for note in report.notes:
        yield from _wrapped(f"Note: {printable(note)}.")


def _summary(report: Report) -> Iterator[str]:
    for check in report.checks:
        yield f"  {NAMES[check.verdict]:<14} {check.earned:>3} of {check.points:<3}  {check.id}"


def _explain(report: Report, check: CheckReport) -> Iterator[str]:
    declared, result = report.exercise.check(check.id), check.result
    yield f"{NAMES[check.verdict]}: {check.id}"
    yield from _part("Promised", declared.proves)
    if result and result.said:
        yield from _part("Seen", result.said)
    if result and result.todo:
        yield from _part("Your code", f"says {result.todo}")
    if result:
        yield from _exchanges(result.exchanges)
        yield from _list("The model", result.asked)
        if check.verdict in (Verdict.CRASHED, Verdict.OVER_LIMIT) or not result.exchanges:
            yield from _list("It printed", result.printed.rstrip().splitlines()[-MAX_LINES:])
    yield from _part("Next", AFTER_A_CRASH if crashed(check) else declared.next)
    link = declared.link or str(report.exercise.home / "README.md")
    yield f"  Read: {link}"


def _exchanges(exchanges: Any) -> Iterator[str]:
    for exchange in exchanges[-SHOWN_EXCHANGES:]:
        yield from _part("Sent", f"{exchange['request']} {exchange['sent']}".strip())
        headers = " ".join(f"{name}: {value}" for name, value in exchange["headers"].items())
        came = exchange["came"].strip() + ("..." if exchange["left_out"] else "")
        words = [str(exchange["status"] or "nothing"), headers, came, exchange["fault"]]
        yield from _part("Came", " ".join(filter(None, words)))


def _foot(report: Report) -> Iterator[str]:
    known = report.exercise.misconception(report.failed)
    if known and not report.undecided and not report.partial:
        yield "This pattern is known."
        yield from _part("The idea", known.idea)
        yield from _part("But", known.tell)
        yield ""
    if report.complete:
        yield COMPLETE
    elif not report.undecided:
        yield f"Stuck? make hint EX={report.exercise.short}"
    if report.open_book is not None:
        yield f"Open book: {report.open_book}% of your lines are also in the course's own files."
    yield from _wrapped(f"{_walls(report)}Seed {report.seed}. {report.seconds:.1f} s.")


def _walls(report: Report) -> str:
    if not report.tier:
        return "Nothing was run. "
    return f"Tier {report.tier}, {TIERS[report.tier]}: {', '.join(report.parts)}. "


def _part(name: str, text: str) -> Iterator[str]:
    lines = textwrap.wrap(
        printable(text)[:600],
        WIDTH,
        initial_indent=f"  {name}: ",
        subsequent_indent="    ",
        break_on_hyphens=False,
    )
    yield from lines[:MAX_LINES]


def _list(name: str, items: Any) -> Iterator[str]:
    if not items:
        return
    yield f"  {name}:"
    for item in items:
        yield from textwrap.wrap(
            printable(item)[:600],
            WIDTH,
            initial_indent="    ",
            subsequent_indent="      ",
            break_on_hyphens=False,
        )


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH)
