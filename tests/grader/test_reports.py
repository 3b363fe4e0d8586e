"""What reports say, in each of their forms, and that nothing in them is obeyed."""

import csv
import html
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema  # type: ignore[import-untyped]
import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from markdown_it import MarkdownIt
from playwright.sync_api import sync_playwright

from grader.batch import Done, Job, Suites
from grader.catalogue import ROOT, Exercise, GradingError, all_exercises, criteria, find
from grader.classroom import on_one_line
from grader.grade import CheckGrade, Grade
from grader.intake import Answer, Class, Student
from grader.manifest import Manifest, Packed
from grader.render import AFTER_A_CRASH
from grader.report import Verdict
from grader.reports import write
from grader.reports.forms import cell, markdown
from grader.results import ClassResults, assemble, page_name, page_names
from grader.rubric import Late, Rubric, handed_in, load_rubric, weighted
from grader.workspace import Intake

EXERCISE, LAB = find("medium/ex02"), find("medium/lab")
EVIL = "<script>alert(1)</script>\x1b[2J\u202e=cmd|'/C calc'!A1\"'`|**x** ]]>\ud800"
CHROMIUM = "/usr/bin/chromium"
CUT_WITHOUT_A_SIGN = """[...document.querySelectorAll('.wide')]
    .filter(each => each.scrollWidth > each.clientWidth)
    .filter(each => !each.previousElementSibling?.matches('.sideways')
        || !each.previousElementSibling.offsetHeight)
    .map(each => each.ariaLabel)"""
WIDEST_NAME = """Math.max(0, ...[...document.querySelectorAll('.heat tbody th')]
    .map(each => each.offsetWidth))"""
NAMES = ["alice", "=HYPERLINK(1)", "<img src=x onerror=alert(1)>", "caf\udce9\x1b[31m", "a|b`c"]


def grade(exercise: Exercise, job: Job, failing: dict[str, Verdict], words: str = "") -> Grade:
    checks = []
    for check in exercise.checks:
        verdict = failing.get(check.id, Verdict.PASSED)
        passed = verdict is Verdict.PASSED
        exchange = {
            "request": f"POST {words}",
            "sent": words,
            "status": 500,
            "headers": {"content-type": words},
            "came": words,
            "left_out": 3,
            "fault": words,
        }
        checks.append(
            CheckGrade(
                id=check.id,
                verdict=verdict,
                points=check.points,
                earned=check.points if passed else 0,
                said="" if passed else words,
                todo="" if passed else words,
                exchanges=() if passed else (exchange,),
                asked=() if passed else (words,),
                printed="" if passed else words,
            )
        )
    known = exercise.misconception(sorted(failing))
    return Grade(
        exercise=exercise.id,
        suite=job.suite,
        seed=7,
        files={"rate_limit.py": "0" * 64},
        checks=tuple(checks),
        misconception=known.id if known else None,
        notes=(words,) if words else (),
        tier=1,
        parts=("namespaces",),
        seconds=1.5,
    )


def results(rubric: Rubric | None = None, words: str = EVIL) -> ClassResults:
    """Five students with odd names: complete, at 90, crashed, handed in twice, unreadable."""
    suites = Suites()
    intakes = [Intake({"rate_limit.py": name.encode(errors="replace")}) for name in NAMES]
    manifest = Manifest(exercises={EXERCISE.id: Packed(version="x", hints=3, files={})})
    students, jobs, done = [], {}, {}
    failing: list[dict[str, Verdict]] = [
        {},
        {"at_once": Verdict.FAILED},
        dict.fromkeys([check.id for check in EXERCISE.checks], Verdict.CRASHED),
    ]
    for name, intake, failed in zip(NAMES, intakes, failing, strict=False):
        answer = Answer(EXERCISE, intake, notes=[words], flags=[words])
        students.append(Student(name, [answer], manifest=manifest))
        jobs[name, EXERCISE.id] = job = suites.job(EXERCISE, intake, 7)
        done[job.key] = Done(
            job, grade(EXERCISE, job, failed, words.encode(errors="replace").decode())
        )
    students.append(Student(NAMES[3], [Answer(EXERCISE, intakes[3], problem=words)]))
    students.append(Student(NAMES[4], problem=words))
    return assemble(
        Class(students, [words]),
        jobs,
        done,
        [EXERCISE, LAB],
        {},
        rubric or Rubric(),
        {"alice": datetime(2026, 11, 20, 18, 30, tzinfo=UTC)},
        seed=7,
        official_tier=1,
    )


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    write(folder, results(), {each.id: each for each in (EXERCISE, LAB)})
    return folder


# --- escaping


def test_pages_hold_no_foreign_markup(out: Path) -> None:
    """Nothing of a submission or its name is markup, and nobody's terminal or reading is turned."""
    pages = list(out.rglob("*.html"))
    assert len(pages) == 1 + len(NAMES)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<script|<img|onerror=\S+>", re.sub(r"&lt;.*?&gt;", "", text))
        assert not re.search("[\x00-\x08\x0b-\x1f\u202e\ud800]", text)
        assert "default-src 'none'" in text
        assert "http://" not in text
        assert "https://" not in text


def test_a_page_is_fit_to_send(out: Path) -> None:
    """A student's page names nobody else, and none of the flags that a person has to look at."""
    page = (out / "students/alice.html").read_text(encoding="utf-8")
    assert "HYPERLINK" not in page
    alone = results(words="flagged as odd")
    write(out / "alone", alone, {each.id: each for each in (EXERCISE, LAB)})
    assert "flagged as odd" in (out / "alone/index.html").read_text()
    page = (out / "alone/students/alice.html").read_text()
    assert page.count("flagged as odd") == 1, "once, whoever noticed it, and not as a flag"


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "|x", "%x", "\u200b=1"]
)
def test_no_cell_is_a_formula(text: str) -> None:
    """A spreadsheet takes none of them for something to work out."""
    assert cell(text).startswith("'")


def test_the_gradebook_reads(out: Path) -> None:
    """One row each, in columns that stay columns; what is not handed in is empty."""
    with (out / "gradebook.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["student"] for row in rows][:3] == ["alice", "'=HYPERLINK(1)", NAMES[2]]
    assert [row["medium/ex02"] for row in rows] == ["100.0", "90.0", "0.0", "", ""]
    assert {row["medium/lab"] for row in rows} == {""}
    assert rows[4]["remarks"]


def test_junit_reads(out: Path) -> None:
    """It is XML, whatever was in it, and counts what failed."""
    suites = ET.parse(out / "junit.xml").getroot()  # noqa: S314 - we wrote it
    of_bob = next(s for s in suites if s.get("name") == "=HYPERLINK(1) medium/ex02")
    assert (of_bob.get("tests"), of_bob.get("failures")) == (str(len(EXERCISE.checks)), "1")
    assert of_bob.find("testcase[@name='at_once']/failure") is not None
    assert of_bob.find("testcase[@name='idle_freed']/failure") is None


def test_the_summary_is_a_table(out: Path) -> None:
    """Rendered, it has a row for each, and no markup of theirs."""
    rendered = (
        MarkdownIt("commonmark", {"html": True})
        .enable("table")
        .render((out / "summary.md").read_text())
    )
    assert rendered.count("<tr>") == 1 + len(NAMES)
    assert "<script" not in rendered
    assert "<img" not in rendered
    assert "<strong>x" not in rendered
    assert "`" not in markdown("`x`").replace("\\`", "")


def test_json_is_as_published(out: Path) -> None:
    """grades.json keeps to docs/grades.schema.json, which is what the code would publish."""
    published = json.loads((ROOT / "docs/grades.schema.json").read_text())
    assert published == ClassResults.model_json_schema(mode="serialization")
    found = json.loads((out / "grades.json").read_text())
    jsonschema.validate(found, published)
    ClassResults.model_validate_json((out / "grades.json").read_bytes())
    assert "exchanges" not in found["students"][1]["exercises"][0]["grade"]["checks"][0]


def test_gradescope_reads(out: Path) -> None:
    """A score, and a test for each check with its points."""
    found = json.loads((out / "gradescope" / f"{page_name('=HYPERLINK(1)')}.json").read_text())
    assert found["score"] == 45
    assert sum(test["score"] for test in found["tests"]) == 90
    assert sum(test["max_score"] for test in found["tests"]) == 100
    assert {test["status"] for test in found["tests"]} == {"passed", "failed"}


def test_pages_have_names_of_their_own() -> None:
    """Odd names become safe ones, and never each other's."""
    names = ["alice", "../alice", "a/b", "a\\b", "", "-", "con.", "é", "e", "A" * 300, "A" * 299]
    made = page_names([*names, "Alice"])
    assert len({each.casefold() for each in made}) == len(made)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", each) for each in made), made


def test_a_line_is_a_line() -> None:
    """What `make grade` prints of a file's name neither breaks the line nor steers the terminal."""
    assert on_one_line("a\nb\x1b[2J\r.py is odd") == "a\\nb\\u001b[2J\\u000d.py is odd"


def test_the_same_twice(out: Path, tmp_path: Path) -> None:
    """The same results are the same bytes."""
    write(tmp_path, results(), {each.id: each for each in (EXERCISE, LAB)})
    for path in sorted(tmp_path.rglob("*.*")):
        assert path.read_bytes() == (out / path.relative_to(tmp_path)).read_bytes()


# --- what went wrong before anything was graded


LINE = "rate_limit (1).py was ignored, and rate_limit.py is missing: rename it"


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Alice misnamed her file, bob's archive is broken, carol's service ends when it starts.

    Somebody with a long name has handed in what carol has.
    """
    folder = tmp_path_factory.mktemp("troubled")
    suites, every = Suites(), dict.fromkeys([c.id for c in EXERCISE.checks], Verdict.CRASHED)
    students, jobs, done = [], {}, {}
    for name, notes in (("alice", [LINE]), ("carol", []), ("w" * 255, [])):
        intake = Intake({} if notes else {"rate_limit.py": b"def hit("})
        students.append(Student(name, [Answer(EXERCISE, intake, notes)]))
        jobs[name, EXERCISE.id] = job = suites.job(EXERCISE, intake, 7)
        crash = grade(EXERCISE, job, every, "Traceback:\nSyntaxError: mend me")
        missing = ("rate_limit.py is missing",) if notes else ()
        gone = {"todo": "", "said": "The service is gone."}
        checks = [check.model_copy(update=gone) for check in crash.checks]
        crash = crash.model_copy(update={"notes": missing, "checks": tuple(checks)})
        done[job.key] = Done(job, crash)
    broken = Student("bob", problem="is no archive", without_answers="unreadable")
    handed, exercises = Class([*students, broken]), [EXERCISE, LAB]
    came = assemble(handed, jobs, done, exercises, {}, Rubric(), {}, seed=7, official_tier=1)
    write(folder, came, {each.id: each for each in (EXERCISE, LAB)})
    return folder


EVERY_FORM = ("index.html", "gradebook.csv", "junit.xml", "summary.md", "grades.json")


def words(path: Path) -> str:
    """As a person reads it: without the marks of its form."""
    text = path.read_text(encoding="utf-8")
    return html.unescape(re.sub(r"\\([^a-z0-9\s])", r"\1", text))


@pytest.mark.parametrize("form", [*EVERY_FORM, "students/alice.html", "gradescope/alice.json"])
def test_a_misnamed_file_is_told_everywhere(troubled: Path, form: str) -> None:
    """Which was ignored, which is missing, and what to do: for the trainer and for the student."""
    assert words(troubled / form).count(LINE) == 1


@pytest.mark.parametrize("form", [*EVERY_FORM, "students/bob.html", "gradescope/bob.json"])
def test_what_cannot_be_read_was_handed_in(troubled: Path, form: str) -> None:
    """With the reason, in every form, and in the matrix of those who handed in."""
    text = words(troubled / form)
    assert "is no archive" in text
    if form == "grades.json":
        bob = json.loads(text)["students"][3]["exercises"]
        assert {(each["state"], each["why"]) for each in bob} == {("unreadable", "is no archive")}
    else:
        assert "was handed in and could not be read: it is no archive" in text
    if form == "index.html":
        (matrix,) = re.findall(r'<table class="heat">.*?</table>', text, re.DOTALL)
        assert re.search(r"bob</a></th>.*handed in, could not be read", matrix)
    if form == "students/bob.html":
        assert "not handed in" not in text


def test_a_crash_is_said_once(troubled: Path) -> None:
    """On top, with what to do about a crash; every check that it stops leads there."""
    text = words(troubled / "students/carol.html")
    anchor = f"{EXERCISE.id.replace('/', '-')}-crash-1"
    assert text.count("SyntaxError: mend me") == 1
    assert text.count(AFTER_A_CRASH) == 1
    assert text.count(f'id="{anchor}"') == 1
    assert text.count(f'href="#{anchor}"') == len(EXERCISE.checks)
    assert EXERCISE.checks[0].next not in text
    assert text.index("SyntaxError") < text.index(EXERCISE.checks[0].proves)
    of_carol = json.loads((troubled / "gradescope/carol.json").read_text())
    assert of_carol["output"].count("SyntaxError: mend me") == 1


def test_one_is_not_many(troubled: Path) -> None:
    """No form says "1 students"."""
    for path in troubled.rglob("*.*"):
        assert not re.search(r"\b1 (students|answers|submissions|bytes)\b", words(path)), path
    assert "1 submission from which" in words(troubled / "index.html")


# --- in a browser


@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="there is no Chromium here")
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_cut_without_a_sign(out: Path, troubled: Path, width: int) -> None:
    """A table that is wider than a phone says that it can be moved; no page has an axe fault."""
    pages = [folder / "index.html" for folder in (out, troubled)]
    pages += [troubled / "students/carol.html", troubled / "students/bob.html"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800})
        for path in pages:
            page.goto(path.as_uri())
            assert [each["id"] for each in Axe().run(page).response["violations"]] == [], path
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            assert page.evaluate(CUT_WITHOUT_A_SIGN) == [], path
            assert page.evaluate(WIDEST_NAME) < width / 2, path
        browser.close()


# --- what it adds up to


@pytest.mark.parametrize("exercise", all_exercises(), ids=lambda exercise: exercise.short)
def test_every_point_belongs_to_a_criterion(exercise: Exercise) -> None:
    """Of the exercise's own track; `criterion` in exercise.toml says which."""
    of_the_track = {each.id for each in criteria() if each.track == exercise.track}
    assert [c.id for c in exercise.checks if c.criterion not in of_the_track] == []


def test_criteria_are_those_of_the_labs() -> None:
    """Thirteen, six and seven; the medium lab has checks for each of its track."""
    tracks = [criterion.track for criterion in criteria()]
    assert (tracks.count("medium"), tracks.count("advanced")) == (6, 7)
    by_id = {criterion.id: criterion.track for criterion in criteria()}
    mapped = {c.criterion for c in LAB.checks}
    assert mapped == {id_ for id_, track in by_id.items() if track == "medium"}


def test_weights() -> None:
    """The total is the weighted mean; a weight of 0 leaves something out."""
    percents = {"a": 100.0, "b": 50.0, "c": 0.0}
    assert weighted(Rubric(), percents) == 50.0
    assert weighted(Rubric(weights={"a": 3, "c": 0}), percents) == 87.5
    assert weighted(Rubric(weights={"a": 0, "b": 0, "c": 0}), percents) == 0
    assert results(Rubric(weights={"medium/lab": 0})).students[1].total == 90
    of_sessions = 100 / (100 + sum(c.points for c in LAB.checks if c.criterion == "sessions"))
    by_criteria = results(Rubric(total_of="criteria")).students[0].total
    assert by_criteria == round(100 * of_sessions / 6, 1), "all of one criterion's exercise, no lab"


def test_lateness() -> None:
    """Each day begun costs, after the grace, up to the most; some have another due date."""
    due = datetime(2026, 11, 20, 18, tzinfo=UTC)
    late = Late(
        due=due,
        grace_minutes=10,
        percent_per_day=10,
        most_percent=25,
        extensions={"bob": due + timedelta(days=2)},
    )
    for minutes, percent in [(-999, 0), (10, 0), (11, 10), (1450, 10), (1451, 20), (99999, 25)]:
        assert late.percent("alice", due + timedelta(minutes=minutes)) == percent
    assert late.percent("bob", due + timedelta(days=1)) == 0
    alice, other = results(Rubric(late=late)).students[:2]
    assert (alice.before_late, alice.total) == (50.0, 45.0)
    assert (other.late, other.total) == (None, 45.0)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[weights", "is not TOML"),
        ("wieghts = 1", "Extra inputs are not permitted"),
        ('[weights]\n"medium/ex99" = 1', "neither an exercise nor a criterion"),
        ("[late]\ndue = 2026-11-20T18:00:00", "timezone"),
        ("[weights]\nruns = -1", "greater than or equal to 0"),
    ],
)
def test_a_rubric_with_a_mistake(tmp_path: Path, text: str, sentence: str) -> None:
    """One sentence, before anything is graded."""
    (tmp_path / "rubric.toml").write_text(text)
    with pytest.raises(GradingError, match=sentence):
        load_rubric(tmp_path / "rubric.toml", [EXERCISE])


def test_who_handed_in_when(tmp_path: Path) -> None:
    """A moment without its time zone could be any of twenty-four."""
    path = tmp_path / "handed_in.csv"
    assert handed_in(path) == {}
    path.write_text("student,handed_in\nalice,2026-11-20T19:30:00+01:00\n")
    assert handed_in(path) == {"alice": datetime(2026, 11, 20, 18, 30, tzinfo=UTC)}
    path.write_text("student,handed_in\nalice,2026-11-20T19:30:00\n")
    with pytest.raises(GradingError, match="time zone"):
        handed_in(path)


def test_every_exercise_has_a_page(tmp_path: Path) -> None:
    """Whatever exercises there are, a student who handed in none of them has a page."""
    exercises = all_exercises()
    handed = Class([Student("alice", problem="holds no file")])
    empty = assemble(handed, {}, {}, exercises, {}, Rubric(), {}, seed=1, official_tier=1)
    write(tmp_path, empty, {each.id: each for each in exercises})
    assert (tmp_path / "students/alice.html").exists()
