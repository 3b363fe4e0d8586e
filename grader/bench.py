"""`make bench-grader`: submissions a minute, beside other ways of running the same suite.

Whole commands are measured, from their start to their end: one submission after another on one
core, and a class by `make grade`, on one core and on all.
"""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

from grader.batch import SUBMISSIONS_PER_CORE
from grader.catalogue import ROOT, Exercise, GradingError
from grader.verify import Case, cases, load_matrix
from grader.words import counted
from grader.workspace import NEVER_COPIED

WARM, COLD = (), ("-p", "grader.judge.cold")
STUDENTS = 3
"""Of a class who hand in each of the submissions, with a line of their own."""

PARTS = ("grader", "shared", "medium", "advanced", "exercises", "pyproject.toml", "README.md")


@dataclass
class Bench:
    """Each way says of a submission whether it is right; `batch` of all of them at once."""

    exercise: Exercise
    folder: Path
    core: int = 0
    otter: str = ""
    cases: Sequence[Case] = field(init=False)

    def __post_init__(self) -> None:
        """The solution, the starter, an alternative and a known-wrong answer."""
        matrix = load_matrix(self.exercise)
        chosen = {"solution", "starter", *list(matrix.alternatives)[:1]}
        chosen |= {*list(matrix.known_wrong)[:1]}
        self.cases = [each for each in cases(self.exercise, matrix) if each.name in chosen]

    # --- the ways

    def batch(self, cores: Sequence[int]) -> dict[str, bool]:
        """`make grade SUBMISSIONS=`, from nothing, of a class where no files are the same."""
        submissions = self.folder / "class"
        for case in self.cases:
            for number in range(STUDENTS):
                home = submissions / f"{case.name}-{number}" / case.exercise.home
                lay(home, case, f"# {number}\n".encode())
        words = ["-m", "grader", "grade", self.exercise.id, "--submissions", str(submissions)]
        at_once = str(SUBMISSIONS_PER_CORE * len(cores))
        with tempfile.TemporaryDirectory(dir=self.folder) as out:
            run([sys.executable, *words, "--out", out, "--at-once", at_once], ROOT, cores)
            students = json.loads((Path(out) / "grades.json").read_text())["students"]
        right = {each["name"]: each["total"] == 100 for each in students}
        return {
            case.name: (all if case.earned == 100 else any)(
                right[f"{case.name}-{number}"] for number in range(STUDENTS)
            )
            for case in self.cases
        }

    def pytest_each(self, case: Case, start: Sequence[str]) -> bool:
        """A `pytest` process, in a course that has the submission's files in place."""
        course = self._course("course")
        lay(course / case.exercise.home, case)
        return not run(self._pytest(start), course, [self.core], 1)

    def as_exercism(self, case: Case) -> bool:
        """As its runner for Python does: a fresh copy and process, and results.json."""
        course = self._course(f"container-{case.name}")
        lay(course / case.exercise.home, case)
        report = course / "junit.xml"
        run([*self._pytest(COLD), f"--junitxml={report}"], course, [self.core], 1)
        tests = [
            {"name": each.get("name"), "status": "fail" if len(each) else "pass"}
            for each in ET.parse(report).iter("testcase")  # noqa: S314 - pytest wrote it
        ]
        status = "fail" if any(each["status"] == "fail" for each in tests) else "pass"
        results = {"version": 2, "status": status, "tests": tests}
        (course / "results.json").write_text(json.dumps(results))
        shutil.rmtree(course)
        return status == "pass"

    def as_otter(self, case: Case) -> bool:
        """`otter run`: a notebook of one cell, and a test that runs the suite."""
        course = self._course("course")
        lay(course / case.exercise.home, case)
        line = f"subprocess.run({self._pytest(COLD)!r}, cwd={str(course)!r}, capture_output=True)"
        code = f">>> import subprocess\n>>> {line}.returncode\n0"
        test = {"type": "doctest", "cases": [{"code": code, "hidden": False, "locked": False}]}
        tests = {"name": "suite", "points": 1, "suites": [test]}
        autograder = self.folder / "autograder.zip"
        with zipfile.ZipFile(autograder, "w") as archive:
            archive.writestr("otter_config.json", '{"pdf": false}')
            archive.writestr("tests/suite.py", f"OK_FORMAT = True\ntest = {tests!r}\n")
        (self.folder / "answer.py").write_text("handed_in = True\n")
        words = [self.otter, "run", "-a", str(autograder), "-o", str(self.folder), "--no-logo"]
        run([*words, str(self.folder / "answer.py")], self.folder, [self.core])
        results = json.loads((self.folder / "results.json").read_text())
        return sum(each.get("score") or 0 for each in results["tests"]) == 1

    # --- what they share

    def _course(self, name: str) -> Path:
        folder = self.folder / name
        for part in PARTS if not folder.exists() else ():
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, folder / part, ignore=NEVER_COPIED)
            else:
                shutil.copy(ROOT / part, folder / part)
        return folder

    def _pytest(self, start: Sequence[str]) -> list[str]:
        words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        return [sys.executable, *words, *start, str(self.exercise.home)]

    def hold(self, right: dict[str, bool]) -> None:
        """Whoever is quick and wrong is out of the race."""
        if wrong := [each.name for each in self.cases if right[each.name] != (each.earned == 100)]:
            raise GradingError(f"The measured way is wrong about {', '.join(wrong)}.")


def lay(home: Path, case: Case, last_line: bytes = b"") -> None:
    for path, data in case.intake.files.items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_bytes(data + last_line)


def run(words: Sequence[str], where: Path, cores: Sequence[int], may_be: int = 0) -> int:
    """Its exit code, which is 0 or `may_be`; on these cores, where the system lets us choose."""
    pinned = ["taskset", "-c", ",".join(map(str, cores))] if shutil.which("taskset") else []
    done = subprocess.run([*pinned, *words], cwd=where, capture_output=True, text=True, check=False)
    if done.returncode not in (0, may_be):
        raise GradingError(f"{words[1:3]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.returncode


def measure(exercise: Exercise) -> Iterator[str]:
    """Lines of figures. Raises GradingError when one of the ways comes to another result.

    Of the ways that take one submission after another, each takes its turn for each, so that
    whatever else the machine does hits all of them.
    """
    cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else [0]
    otter = os.environ.get("OTTER") or shutil.which("otter") or ""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench = Bench(exercise, Path(folder), cores[0], otter)
        names = ", ".join(case.name for case in bench.cases)
        yield _machine(len(cores))
        yield f"{exercise.short}, {counted(len(bench.cases), 'submission')}: {names}"
        ways: dict[str, Callable[[Case], bool]] = {
            "a cold pytest process each": lambda case: bench.pytest_each(case, COLD),
            "a pytest process each, forked services": lambda case: bench.pytest_each(case, WARM),
            "as Exercism's runner, without container": bench.as_exercism,
        }
        if otter:
            ways["otter run"] = bench.as_otter
        else:
            yield "  otter run: not installed; OTTER= says where it is"
        batches = {
            "make grade, one core": cores[:1],
            f"make grade, {counted(len(cores), 'core')}": cores,
        }
        seconds = dict.fromkeys(ways, 0.0)
        right: dict[str, dict[str, bool]] = {name: {} for name in ways}
        for case in bench.cases:
            for name, way in ways.items():
                started = time.perf_counter()
                right[name][case.name] = way(case)
                seconds[name] += time.perf_counter() - started
        for each in right.values():
            bench.hold(each)
        for name, used in batches.items():
            started = time.perf_counter()
            bench.hold(bench.batch(used))
            seconds[name] = (time.perf_counter() - started) / STUDENTS
        cold = next(iter(seconds.values()))
        for name, taken in seconds.items():
            a_minute = 60 * len(bench.cases) / taken
            yield f"  {name:<42}{a_minute:6.1f} a minute, {cold / taken:5.2f} x"


def _machine(cores: int) -> str:
    pytest = importlib.metadata.version("pytest")
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    python = platform.python_version()
    return f"{cores} cores, {platform.machine()}, Python {python}, pytest {pytest}, load {load}"
