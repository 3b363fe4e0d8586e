"""`make grade` as people run it: what they read, what stops it, where it works."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from grader.catalogue import ROOT, find
from grader.classroom import Order, grade_class
from grader.cli import main
from grader.render import printable, render, render_first
from grader.report import Result, Verdict, judge_checks
from grader.runner import Grader
from grader.state import State
from grader.watch import Lines
from grader.workspace import Intake, solution_files, take_in

EXERCISE = find("medium/ex02")


def started(*words: str, cwd: Path = ROOT) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "grader", *words],
        cwd=cwd,
        env={"PATH": os.environ["PATH"]},  # no HOME, no TERM
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_starter_reads_well(grader: Grader) -> None:
    """80 columns, no colour; the first TODO is explained once, with what was sent and came back."""
    intake = take_in(EXERCISE, EXERCISE.folder)
    text = render(grader.grade(EXERCISE, intake, seed=1, lanes=3))
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert text.count("says TODO 2") == 1
    for part in ("Promised:", "Seen:", "Sent:", "Came: 500", "Next:", "Read:", "make hint", "Tier"):
        assert part in text


def test_a_wrong_idea_is_recognised(grader: Grader) -> None:
    """A half-right answer gets its points, and is told which idea is behind what fails."""
    files = solution_files(EXERCISE)
    wrong = files["rate_limit.py"].replace(b"turns.popleft()", b"turns.clear()")
    report = grader.grade(EXERCISE, Intake({"rate_limit.py": wrong}), seed=1, lanes=3)
    assert (report.earned, report.misconception) == (90, "fixed_window")
    assert "just before its edge" in " ".join(render(report).split())


def test_a_crash_is_explained_once(grader: Grader) -> None:
    """With the line of the student's own file, as the student calls it, however long that is."""
    wrong = solution_files(EXERCISE)["rate_limit.py"] + b"def hit(\n"
    text = render(grader.grade(EXERCISE, Intake({"rate_limit.py": wrong}), seed=1, lanes=3))
    told = " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("SyntaxError") == 1
    assert "The same crash stops: " in told
    assert "Mend that first" in told
    assert f'File "{EXERCISE.home}/rate_limit.py", line {wrong.count(chr(10).encode())}' in told


def test_what_was_not_asked_is_not_told(grader: Grader) -> None:
    """While somebody works: the first thing to mend, and no verdict or points for the rest."""
    files = solution_files(EXERCISE)
    wrong = files["rate_limit.py"].replace(b"turns.popleft()", b"turns.clear()")
    lines: list[Result] = []
    heard = Lines(lines.append)
    report = grader.grade(
        EXERCISE,
        Intake({"rate_limit.py": wrong}),
        seed=1,
        first_failure_only=True,
        tell=heard.hear,
    )
    heard.end()
    text = render_first(report)
    assert text.count("Promised:") == 1
    assert "could not tell" not in text
    assert "of 100 points" not in text
    asked = [result.check for result in lines]
    assert len(set(asked)) == len(asked)
    assert [r.check for r in lines if r.verdict is not Verdict.PASSED] == asked[-1:]
    assert f"FAILED: {asked[-1]}" in text


def test_a_check_is_one_line() -> None:
    """However many tests it has, also when it is asked for alone first and then with the others."""
    told: list[str] = []
    lines = Lines(lambda result: told.append(f"{result.check} {result.verdict}"))
    for check, verdict in [
        ("b", Verdict.PASSED),
        ("a", Verdict.PASSED),
        ("a", Verdict.PASSED),
        ("b", Verdict.PASSED),
        ("c", Verdict.PASSED),
        ("c", Verdict.FAILED),
    ]:
        lines.hear(Result(check, "t", verdict))
    lines.end()
    assert told == ["b passed", "a passed", "c failed"]


def test_no_hint_for_what_is_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After 100 points `make hint` says so and counts none; after fewer it gives the next one."""
    monkeypatch.setattr("grader.cli.State", lambda: State(tmp_path))
    State(tmp_path).update(EXERCISE.id, earned=100)
    assert main(["hint", "medium/ex02"]) == 0
    assert "had all of its 100 points" in capsys.readouterr().out
    assert State(tmp_path).of(EXERCISE.id).hints == 0
    State(tmp_path).update(EXERCISE.id, earned=90)
    main(["hint", "medium/ex02"])
    assert "hint 1 of" in capsys.readouterr().out


def test_suites_of_two_modules_are_judged_at_once(grader: Grader) -> None:
    """What the tests of one have set up is taken down before the other's: nobody asks again."""
    lab, both = find("advanced/lab"), ["every_endpoint", "container_holds"]
    report = grader.grade(lab, Intake(solution_files(lab)), seed=1, only=both)
    assert [check.verdict for check in report.checks if check.id in both] == [Verdict.PASSED] * 2


def test_two_graders_at_once() -> None:
    """They share nothing, and both come to the same end."""
    both = [started("grade", "medium/ex02", "--solution") for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert "100 of 100 points" in out, out + err
        assert process.returncode == 0


def graded_until(seen: str, number: signal.Signals) -> tuple[int, str]:
    """The exit code and the report of a grader that got this signal; nothing of it is left."""
    process = started("grade", "advanced/ex03", "--solution")
    while not any(seen in " ".join(words(each)) for each in below(process)):
        assert process.poll() is None
        time.sleep(0.02)
    family = below(process)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert err == ""
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    return process.returncode, out


@pytest.mark.parametrize(
    ("seen", "number"),
    [
        ("grader.sandbox.warm", signal.SIGINT),
        ("grader.sandbox.warm", signal.SIGTERM),
        ("pytest", signal.SIGINT),
        ("valkey", signal.SIGINT),
    ],
)
def test_who_stops_it_is_told_in_one_sentence(seen: str, number: signal.Signals) -> None:
    """While it gets ready, or with Ctrl-C: no report of what nobody looked at."""
    said = "Stopped: advanced/ex03 was not graded to its end, so nothing is kept.\n"
    assert graded_until(seen, number) == (130, said)


def test_sigterm_keeps_the_results_so_far() -> None:
    """What was decided stays; what was not is "could not tell", and never passed."""
    code, out = graded_until("valkey", signal.SIGTERM)
    verdicts = re.findall(r"^  (passed|could not tell) ", out, re.MULTILINE)
    assert (code, len(verdicts)) == (1, len(find("advanced/ex03").checks)), out
    assert "could not tell" in verdicts
    assert "grading was stopped before every check had its turn" in " ".join(out.split())


def test_a_name_that_is_nobody_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A slip of the pen in a list of names is told, on the page for the trainer, too."""
    (tmp_path / "class/alice").mkdir(parents=True)
    moment = "2026-11-20T18:00:00+01:00"
    (tmp_path / "class/handed_in.csv").write_text(f"student,handed_in\nAlice,{moment}\n")
    rubric, out = tmp_path / "rubric.toml", tmp_path / "out"
    rubric.write_text(f"[late]\ndue = {moment}\npercent_per_day = 10\nextensions.bob = {moment}\n")
    assert grade_class(Order([EXERCISE], tmp_path / "class", out=out, rubric=rubric)) == 0
    told = capsys.readouterr().out
    page = (out / "index.html").read_text(encoding="utf-8")
    for line in ("handed_in.csv names Alice", "The rubric names bob"):
        assert f"{line}, and nobody here is called that" in told
        assert line in page


def test_a_class_that_is_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says that it goes on from there, and not of everybody that nobody has looked."""
    for name in ("alice", "bob"):
        home = tmp_path / "class" / name / EXERCISE.id
        home.mkdir(parents=True)
        (home / "rate_limit.py").write_text(f"name = {name!r}\n")
    order = Order([EXERCISE], tmp_path / "class", out=tmp_path / "out")
    order.stopping.set()
    assert grade_class(order) == 130
    assert capsys.readouterr().out.splitlines() == [
        "2 students, 0 of 2 different answers graded.",
        f"The reports begin with {tmp_path}/out/index.html.",
        "Stopped. The same command goes on where it was.",
    ]


def below(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.skipif(os.getuid() != 0, reason="takes a mount that is read-only")
def test_a_read_only_checkout(tmp_path: Path) -> None:
    """Grading works where nothing can be written, and says that nothing is remembered."""
    copy = tmp_path / "course"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "tests"))
    script = (
        f"mount --bind {copy} {copy} && mount -o remount,ro,bind {copy} && cd {copy} &&"
        f" exec {shlex.quote(sys.executable)} -m grader grade medium/ex02"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "0 of 100 points" in done.stdout, done.stderr
    assert "nothing is remembered" in done.stdout
    assert done.returncode == 0


def test_official_needs_walls() -> None:
    """Below the first tier, --official refuses, in one sentence that says how to accept it."""
    code = (
        "import grader.runner as runner, sys\n"
        "from grader.sandbox.client import Walls\n"
        "runner.strongest_walls = lambda address: Walls(3, ('limits',))\n"
        "from grader.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, "grade", "medium/ex02", "--official"]
    refused = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "--accept-tier 3" in refused.stderr
    assert refused.stdout == ""


@pytest.mark.parametrize(
    ("submissions", "out", "sentence"),
    [
        ("class", "class", "would mix with SUBMISSIONS="),
        ("class", "class/alice/reports", "would mix with SUBMISSIONS="),
        ("course/students", "course", "would mix with SUBMISSIONS="),
        ("class", "course", "has a folder students already"),
        ("nowhere", "out", "cannot be read: No such file"),
        ("file", "out", "cannot be read: Not a directory"),
        ("class", "file", "cannot be opened"),
    ],
)
def test_no_folder_is_taken_for_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], submissions: str, out: str, sentence: str
) -> None:
    """Reports neither land in a submission nor replace one; a typing error has its sentence."""
    for name in ("class/alice", "course/students/bob"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "rate_limit.py").write_text("x = 1\n")
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    words = ["--submissions", str(tmp_path / submissions), "--out", str(tmp_path / out)]
    assert main(["grade", "medium/ex02", *words]) == 1
    assert sentence in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


# --- fail closed


@pytest.mark.parametrize(
    ("collected", "verdicts", "expected"),
    [
        (1, ["passed"], Verdict.PASSED),
        (2, ["passed", "passed"], Verdict.PASSED),
        (2, ["passed"], Verdict.COULD_NOT_TELL),
        (0, [], Verdict.COULD_NOT_TELL),
        (0, ["passed"], Verdict.COULD_NOT_TELL),
        (1, ["passed", "passed"], Verdict.COULD_NOT_TELL),
        (2, ["passed", "failed"], Verdict.FAILED),
        (2, ["failed", "crashed"], Verdict.CRASHED),
        (2, ["could_not_tell", "passed"], Verdict.COULD_NOT_TELL),
        (3, ["timed_out", "over_limit", "passed"], Verdict.OVER_LIMIT),
    ],
)
def test_only_whole_passes_earn(collected: int, verdicts: list[str], expected: Verdict) -> None:
    """A check passes when each of its tests ran once and passed; whatever is missing does not."""
    results = [Result("at_once", f"t{n}", Verdict(word)) for n, word in enumerate(verdicts)]
    checks = judge_checks(EXERCISE, {"at_once": collected}, results)
    (check,) = (check for check in checks if check.id == "at_once")
    assert check.verdict is expected
    assert check.earned == (10 if expected is Verdict.PASSED else 0)
    others = {other.verdict for other in checks if other is not check}
    assert others == {Verdict.COULD_NOT_TELL}


def test_nothing_moves_the_cursor() -> None:
    """Escapes, bidirectional overrides, zero-width and private characters are shown, not obeyed."""
    hostile = "a\x1b[2J\r\u202eb\u200b\ue000\ud800é日"
    assert printable(hostile) == "a\\u001b[2J\\u000d\\u202eb\\u200b\\ue000\\ud800é日"
