"""The trainer guide keeps what it promises: its minutes, its names, and all of the hand-out."""

import ast
import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from grader.catalogue import Exercise, GradingError, all_exercises, find
from grader.verify import load_matrix
from scripts.check_docs import ROOT
from scripts.checkpoint import parts_of
from scripts.markdown import read_page
from scripts.misconceptions import write_example

GUIDE = ROOT / "trainer-guide.md"
if not GUIDE.exists():
    pytest.skip("the students' copy has no trainer guide", allow_module_level=True)

TEXT = GUIDE.read_text(encoding="utf-8")
NAMED = re.compile(r"`((?:medium|advanced)/(?:lab|ex\d\d)): (\w+)`")

# What the hand-out has, in our words; the guide has exactly one row for each.
OUTCOMES = {
    "M1": "LangGraph and LangChain behind FastAPI",
    "M2": "Async endpoints that run an agent",
    "M3": "Answers that stream as they are written",
    "M4": "Sessions of several users at once",
    "M5": "Errors and validation",
    "M6": "A service that runs on this computer",
    "A1": "The application in a container",
    "A2": "Monitoring and logging",
    "A3": "Caching that saves work",
    "A4": "Rate limits and authentication",
    "A5": "Health checks and metrics",
    "A6": "A configuration for production",
}
CRITERIA = {
    "M1": "The application runs",
    "M2": "All endpoints respond",
    "M3": "Streaming works",
    "M4": "Sessions are managed",
    "M5": "Errors are handled everywhere",
    "M6": "The API is documented",
    "A1": "Configuration is managed",
    "A2": "Caching makes it faster",
    "A3": "Authentication protects",
    "A4": "Metrics are right",
    "A5": "It deploys with Docker",
    "A6": "Health shows dependencies",
    "A7": "Logs are structured and useful",
}
TIPS = {
    "M1": "Begin with FastAPI: async, models, routers",
    "M2": "Bring LangGraph in one step at a time",
    "M3": "Show streams with curl and with Postman",
    "M4": "Explain sessions, and what keeps the state",
    "M5": "Practise errors and validation",
    "A1": "Say first why production is different",
    "A2": "Show the configuration with a `.env`",
    "A3": "Show Redis at work, and away",
    "A4": "Walk through a login with them",
    "A5": "Explain Prometheus and what to watch",
    "A6": "Show it in Docker",
}
PITFALLS = ["State schema", "Async and await", "Error handling", "Configuration", "Caching"]
RESOURCES = {
    "https://fastapi.tiangolo.com/",
    "https://fastapi.tiangolo.com/async/",
    "https://docs.pydantic.dev/",
    "https://prometheus.io/docs/concepts/metric_types/",
    "https://jwt.io/",
    "https://redis.io/docs/",
    "https://docs.docker.com/",
}
CONCEPTS = {"FastAPI": 5, "production": 7, "LangGraph": 4}
PATTERNS = {"service layer", "repository", "singleton", "lazy initialisation"}
HANDED_OUT = [
    "app",
    "root",
    "health_check",
    "QueryRequest",
    "QueryResponse",
    "StreamChunk",
    "ErrorResponse",
    "AgentState",
    "AgentService",
    "AgentService.__init__",
    "_build_graph",
    "_agent_node",
    "process_query",
    "stream_query",
    "get_session_info",
    "clear_session",
    "get_agent_service",
    "MemorySaver",
    "sessions",
    "router",
    "Settings",
    "settings",
    "CacheService",
    "_generate_key",
    "get",
    "set",
    "cache_service",
    "request_count",
    "request_duration",
    "active_sessions",
    "agent_executions",
    "agent_duration",
    "get_metrics",
    "security",
    "pwd_context",
    "USERS_DB",
    "create_access_token",
    "log_requests",
    "logger",
]


def section(heading: str) -> str:
    """The text below a heading, up to the next one that is not below it."""
    level = heading.split(" ", 1)[0]
    found = re.search(
        rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", TEXT, re.MULTILINE | re.DOTALL
    )
    assert found, heading
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of all tables in it, without their heads."""
    found, before = [], ""
    for line in text.splitlines():
        if line.startswith("| ") and not before.startswith("|---"):
            found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif line.startswith("|---"):
            found.pop()
        before = "" if line.startswith("|---") else line
    return found


def by_number(heading: str) -> dict[str, str]:
    return {row[0]: row[1] for row in rows(section(heading))}


@cache
def exercise(short: str) -> Exercise | None:
    try:
        return find(short)
    except GradingError:
        return None


@pytest.mark.parametrize(
    ("heading", "lab", "minutes"),
    [
        ("## Ninety minutes: the medium lab", "medium/lab", 90),
        ("## A hundred and twenty minutes: the advanced lab", "advanced/lab", 120),
    ],
)
def test_minutes_add_up(heading: str, lab: str, minutes: int) -> None:
    """A plan begins at 0, leaves no gap, and gives each part the minutes of the lab's README."""
    plan = [
        (int(row[0]), int(row[1]), int(row[2])) for row in rows(section(heading)) if len(row) == 5
    ]
    assert plan[0][0] == 0
    assert all(first[0] + first[1] == second[0] for first, second in pairwise(plan))
    assert plan[-1][0] + plan[-1][1] == minutes
    if known := exercise(lab):
        assert known.minutes == minutes
        for part in parts_of(known):
            assert sum(line[1] for line in plan if line[2] == part.number) == part.minutes


def test_plans_know_that_days_differ() -> None:
    """Each says what to leave out when it is late, and the longer one has a break."""
    longer = section("## A hundred and twenty minutes: the advanced lab")
    for plan in (section("## Ninety minutes: the medium lab"), longer):
        assert re.search(r"If you are\s+late at minute \d+", plan)
    assert any(row[3].startswith("Break") for row in rows(longer) if len(row) == 5)


def test_exercises_take_what_they_say() -> None:
    """Each walk-through names the minutes of its exercise, and all of its alternatives."""
    for known in all_exercises():
        if known.folder.name == "lab":
            continue
        number = int(known.short[-1])
        heading = re.search(
            rf"^### {known.track.capitalize()} exercise {number}: .*$", TEXT, re.MULTILINE
        )
        assert heading, known.short
        text = section(heading[0])
        assert f"\n{known.minutes} minutes. " in text
        assert {name for _, name in NAMED.findall(text)} == set(load_matrix(known).alternatives)
        assert "**Judgement.**" in text


def test_every_part_has_its_script() -> None:
    """Goal, demo, question and answer, for each part of each lab."""
    for track, parts in (("Medium", 7), ("Advanced", 7)):
        for number in range(1, parts + 1):
            heading = re.search(rf"^### {track} part {number}: .*$", TEXT, re.MULTILINE)
            assert heading, (track, number)
            for word in ("Goal", "Demo", "Ask", "Expect"):
                assert f"- **{word}.**" in section(heading[0])


def test_every_name_is_there() -> None:
    """Known-wrong answers, alternatives and checks that are named exist."""
    named = NAMED.findall(TEXT)
    assert len(named) > 200
    for short, name in named:
        if known := exercise(short):
            matrix = load_matrix(known)
            there = {*matrix.known_wrong, *matrix.alternatives, *(c.id for c in known.checks)}
            assert name in there, f"{short}: {name}"


def test_every_misconception_is_shown() -> None:
    """Each has its row, with a submission that shows it and what to say."""
    for known in all_exercises():
        for wrong in known.misconceptions:
            row = next(row for row in rows(TEXT) if row[-1] == wrong.tell.replace("|", "\\|"))
            assert NAMED.search(row[1]), wrong.id


def test_a_class_report_leads_to_what_to_teach_again() -> None:
    """Each misconception has a section here, and that shows a submission which has it."""
    headings = {anchor_of(line): line for line in TEXT.splitlines() if line.startswith("#")}
    assert headings.keys() >= read_page(GUIDE).anchors
    for known in all_exercises():
        wrongs = load_matrix(known).known_wrong.items()
        for idea in known.misconceptions:
            assert idea.guide in headings, f"{known.short}: {idea.id}"
            shown = set(NAMED.findall(section(headings[idea.guide])))
            mine = {(known.short, name) for name, case in wrongs if case.misconception == idea.id}
            assert shown & mine, f"{known.short}: {idea.id} is not in {idea.guide}"


def anchor_of(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower()).replace(" ", "-")


@pytest.mark.parametrize(
    ("heading", "handed_out"),
    [
        ("## Learning outcomes", OUTCOMES),
        ("## Assessment rubric", CRITERIA),
        ("## Teaching tips", TIPS),
    ],
)
def test_nothing_of_the_hand_out_is_missing(heading: str, handed_out: dict[str, str]) -> None:
    """Each item has exactly one row."""
    assert by_number(heading) == handed_out


@pytest.mark.parametrize("heading", ["## Learning outcomes", "## Assessment rubric"])
def test_checks_show_it(heading: str) -> None:
    """Each outcome and each criterion is linked to checks that are there."""
    for row in rows(section(heading)):
        shown = NAMED.findall(row[2])
        assert shown, row
        for short, check in shown:
            if known := exercise(short):
                assert check in {declared.id for declared in known.checks}, f"{short}: {check}"


def test_every_check_of_the_labs_counts() -> None:
    """The rubric uses each check of each lab once."""
    used = NAMED.findall(section("## Assessment rubric"))
    assert len(set(used)) == len(used)
    for lab in ("medium/lab", "advanced/lab"):
        if known := exercise(lab):
            assert {name for short, name in used if short == lab} == {c.id for c in known.checks}


def test_pitfalls_concepts_patterns_and_resources() -> None:
    """The hand-out's five pitfalls, its concepts, patterns and addresses."""
    assert [row[0] for row in rows(section("## Common pitfalls"))][:5] == PITFALLS
    areas = [row[0] for row in rows(section("## Key concepts"))]
    assert {area: areas.count(area) for area in set(areas)} == CONCEPTS
    assert {row[0] for row in rows(section("## Architecture patterns"))} >= PATTERNS
    assert set(re.findall(r"\((https://[^)]+)\)", section("## Resources"))) >= RESOURCES


def test_every_name_of_the_hand_out_has_its_row() -> None:
    """And what it has become is in the file that the row names."""
    table = rows(section("## Hand-out, ours, why"))
    told = {word for row in table for word in re.findall(r"`([\w.]+)`", row[0])}
    assert [name for name in HANDED_OUT if name not in told] == []
    for row in table:
        file, _, name = row[1].strip("`").partition(": ")
        assert row[2], row
        assert (ROOT / file).is_file(), file
        assert not name or name in defined(ROOT / file), row[1]


@cache
def defined(path: Path) -> frozenset[str]:
    """What a module defines, and the methods of its classes."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = (ast.FunctionDef, ast.AsyncFunctionDef)
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, methods)}
        if isinstance(node, ast.Assign):
            found |= {part.id for part in node.targets if isinstance(part, ast.Name)}
    return frozenset(found)


def test_example_is_written_whole_and_never_over_something(tmp_path: Path) -> None:
    """`make example` writes the files of a known-wrong answer into a new folder."""
    out = tmp_path / "wrong"
    said = write_example("medium/lab", "blocking_call", str(out))
    assert f'ARGS="--submission {out}"' in said
    right = (ROOT / "shared/agent_service.py").read_text()
    assert "class AgentService" in (out / "agent_service.py").read_text() != right
    with pytest.raises(GradingError, match="not there yet"):
        write_example("medium/lab", "blocking_call", str(out))
    with pytest.raises(GradingError, match="there are: solution, starter, own_tasks"):
        write_example("medium/lab", "no_such_case", str(tmp_path / "other"))
