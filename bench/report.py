"""The report: the facts of the machine, a table for people and JSON for programs."""

import os
import platform
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bench.rounds import Outcome

WIDTH = 100
PACKAGES = (
    *("fastapi", "uvicorn", "uvloop", "httptools", "langgraph", "langchain-openai", "openai"),
    *("aiohttp", "pydantic"),
)
ROW = "{:<28} {:<20} {:>9} {:>8}  {:<15} {}"
FAILURES_SHOWN = 3


def machine_facts(rounds: int, quick: bool) -> dict[str, str]:
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        "rounds": f"{rounds}, interleaved{', quick: small loads' * quick}; nothing is random",
        "command": f"python -m bench {' '.join(sys.argv[1:])}".rstrip(),
    }


def heading(facts: Mapping[str, str]) -> str:
    lines = [
        textwrap.fill(f"{name:<12} {fact}", WIDTH, subsequent_indent=" " * 13)
        for name, fact in facts.items()
    ]
    return "\n".join([*lines, "", ROW.format("", "service", "median", "/ bare", "target", "")])


def section(outcomes: Sequence[Outcome], bare: Outcome) -> str:
    """One figure: a row for each measure and service, then what failed."""
    lines: list[str] = []
    for index, measure in enumerate(outcomes[0].figure.measures):
        label = measure.label
        for outcome in outcomes:
            lines.append(_row(label, outcome, index, bare))
            label = ""
    return "\n".join(["-" * WIDTH, *lines, *_failures(outcomes)])


def records(outcomes: Sequence[Outcome], bare: Outcome) -> Iterator[dict[str, Any]]:
    """The same for programs; a value that is not there is NaN in JSON's extended spelling."""
    for outcome in outcomes:
        for index, measure in enumerate(outcome.figure.measures):
            target = outcome.target(index)
            yield {
                "figure": outcome.figure.name,
                "definition": outcome.figure.definition,
                "measure": measure.label.removeprefix("- "),
                "service": outcome.service.name,
                "app": outcome.service.app,
                "rounds": outcome.values(index),
                "median": outcome.median(index),
                "ratio": outcome.ratio(index, bare),
                "target": None if target is None else str(target),
                "holds": outcome.holds(index, bare),
                "failures": outcome.failures,
            }


def _row(label: str, outcome: Outcome, index: int, bare: Outcome) -> str:
    value, ratio = outcome.median(index), outcome.ratio(index, bare)
    holds = outcome.holds(index, bare)
    target = outcome.target(index) or ""
    verdict = {None: "", True: "holds", False: "MISSED"}[holds]
    row = ROW.format(
        label, outcome.service.name, _short(value), f"{ratio:.2f}", str(target), verdict
    )
    return row.rstrip()


def _failures(outcomes: Sequence[Outcome]) -> Iterator[str]:
    for outcome in outcomes:
        if outcome.failures:
            yield f"  {outcome.service.name}: {len(outcome.failures)} FAILED"
            for failure in sorted(set(outcome.failures))[:FAILURES_SHOWN]:
                yield textwrap.fill(failure, WIDTH, initial_indent="    ", subsequent_indent="    ")


def _short(value: float) -> str:
    """Three digits that count, and never an exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".removesuffix(".")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
