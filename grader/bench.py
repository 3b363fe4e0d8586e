"""`make bench-grader`: submissions a minute, beside other ways of running the same suite.

Everything is one submission after another on one core, but for `make grade` as it is on all cores.
Whole commands are measured, from their start to their end.
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
from grader.workspace import NEVER_COPIED

WARM, COLD = (), ("-p", "grader.judge.cold")
PARTS = ("grader", "shared", "medium", "advanced", "exercises", "pyproject.toml", "README.md")


@dataclass
class Bench:
    exercise: Exercise
    folder: Path
    cases: Sequence[Case] = field(init=False)

    def __post_init__(self) -> None:
        """The solution, the starter, an alternative and a known-wrong answer."""
        matrix = load_matrix(self.exercise)
        names = [
            "solution",
            "starter",
            *list(matrix.alternatives)[:1],
            *list(matrix.known_wrong)[:1],
        ]
        self.cases = [each for each in cases(self.exercise, matrix) if each.name in names]

    # --- the ways

    def batch(self, cores: Sequence[int]) -> None:
        """`make grade SUBMISSIONS=`; what came out is looked at."""
        submissions, out = self.folder / "class", self.folder / f"out-{len(cores)}"
        for case in self.cases:
            lay(submissions / case.name / case.exercise.home, case)
        words = ["-m", "grader", "grade", self.exercise.id, "--submissions", str(submissions)]
        at_once = str(SUBMISSIONS_PER_CORE * len(cores))
        run([sys.executable, *words, "--out", str(out), "--at-once", at_once], ROOT, cores)
        students = json.loads((out / "grades.json").read_text())["students"]
        earned = {each["name"]: each["total"] for each in students}
        self._hold({name: total == 100 for name, total in earned.items()})

    def one_by_one(self, core: int, start: Sequence[str]) -> None:
        """A `pytest` process for each, in a course that has the submission's files in place."""
        course = self._course(self.folder / "course")
        right = {}
        for case in self.cases:
            lay(course / case.exercise.home, case)
            right[case.name] = not run(self._pytest(start), course, [core], 1)
        self._hold(right)
        shutil.rmtree(course)

    def as_exercism(self, core: int) -> None:
        """As its runner for Python does: a fresh copy and process for each, and results.json."""
        right = {}
        for number, case in enumerate(self.cases):
            course = self._course(self.folder / f"container-{number}")
            lay(course / case.exercise.home, case)
            report = course / "junit.xml"
            run([*self._pytest(COLD), f"--junitxml={report}"], course, [core], 1)
            tests = [
                {"name": each.get("name"), "status": "fail" if len(each) else "pass"}
                for each in ET.parse(report).iter("testcase")  # noqa: S314 - pytest wrote it
            ]
            status = "fail" if any(each["status"] == "fail" for each in tests) else "pass"
            results = {"version": 2, "status": status, "tests": tests}
            (course / "results.json").write_text(json.dumps(results))
            right[case.name] = status == "pass"
            shutil.rmtree(course)
        self._hold(right)

    def as_otter(self, core: int, otter: str) -> None:
        """`otter run` for each: a notebook of one cell, and a test that runs the suite."""
        course = self._course(self.folder / "otter")
        line = f"subprocess.run({self._pytest(COLD)!r}, cwd={str(course)!r}, capture_output=True)"
        code = f">>> import subprocess\n>>> {line}.returncode\n0"
        test = {"type": "doctest", "cases": [{"code": code, "hidden": False, "locked": False}]}
        tests = {"name": "suite", "points": 1, "suites": [test]}
        autograder = self.folder / "autograder.zip"
        with zipfile.ZipFile(autograder, "w") as archive:
            archive.writestr("otter_config.json", '{"pdf": false}')
            archive.writestr("tests/suite.py", f"OK_FORMAT = True\ntest = {tests!r}\n")
        (self.folder / "answer.py").write_text("handed_in = True\n")
        words = [otter, "run", "-a", str(autograder), "-o", str(self.folder), "--no-logo"]
        right = {}
        for case in self.cases:
            lay(course / case.exercise.home, case)
            run([*words, str(self.folder / "answer.py")], self.folder, [core])
            results = json.loads((self.folder / "results.json").read_text())
            right[case.name] = sum(each.get("score") or 0 for each in results["tests"]) == 1
        self._hold(right)
        shutil.rmtree(course)

    # --- what they share

    def _course(self, folder: Path) -> Path:
        for name in PARTS:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=NEVER_COPIED)
            else:
                folder.mkdir(exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        return folder

    def _pytest(self, start: Sequence[str]) -> list[str]:
        words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        return [sys.executable, *words, *start, str(self.exercise.home)]

    def _hold(self, right: dict[str, bool]) -> None:
        """Whoever is quick and wrong is out of the race."""
        if wrong := [each.name for each in self.cases if right[each.name] != (each.earned == 100)]:
            raise GradingError(f"The measured way is wrong about {', '.join(wrong)}.")


def lay(home: Path, case: Case) -> None:
    for path, data in case.intake.files.items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_bytes(data)


def run(words: Sequence[str], where: Path, cores: Sequence[int], may_be: int = 0) -> int:
    """Its exit code, which is 0 or `may_be`; on these cores, where the system lets us choose."""
    pinned = ["taskset", "-c", ",".join(map(str, cores))] if shutil.which("taskset") else []
    done = subprocess.run([*pinned, *words], cwd=where, capture_output=True, text=True, check=False)
    if done.returncode not in (0, may_be):
        raise GradingError(f"{words[1:3]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.returncode


def measure(exercise: Exercise) -> Iterator[str]:
    """Lines of figures. Raises GradingError when one of the ways comes to another result."""
    cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else [0]
    one = cores[0]
    otter = os.environ.get("OTTER") or shutil.which("otter")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench = Bench(exercise, Path(folder))
        yield _machine(len(cores))
        yield f"{exercise.short}, {len(bench.cases)} submissions: " + ", ".join(
            case.name for case in bench.cases
        )
        ways: dict[str, Callable[[], object]] = {
            "a cold pytest process each": lambda: bench.one_by_one(one, COLD),
            "a pytest process each, forked services": lambda: bench.one_by_one(one, WARM),
            "as Exercism's runner, without container": lambda: bench.as_exercism(one),
            "make grade, one core": lambda: bench.batch([one]),
            f"make grade, {len(cores)} cores": lambda: bench.batch(cores),
        }
        if otter:
            ways["otter run"] = lambda: bench.as_otter(one, otter)
        else:
            yield "  otter run: not installed; OTTER= says where it is"
        cold = 0.0
        for name, way in ways.items():
            seconds = timed(way)
            cold = cold or seconds
            a_minute = 60 * len(bench.cases) / seconds
            yield f"  {name:<42}{a_minute:6.1f} a minute, {cold / seconds:5.2f} x"


def timed(way: Callable[[], object]) -> float:
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


def _machine(cores: int) -> str:
    pytest = importlib.metadata.version("pytest")
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    python = platform.python_version()
    return f"{cores} cores, {platform.machine()}, Python {python}, pytest {pytest}, load {load}"
