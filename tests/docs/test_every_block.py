"""Every block that a reader could type is run by a test, or stands below with the reason."""

import re
from pathlib import Path

from grader.catalogue import all_exercises
from scripts.check_docs import ROOT, pages_of
from scripts.markdown import SHELLS, Fence, read_page
from tests.docs.test_commands import PAGES
from tests.docs.test_trainers_pages import TRAINERS

COMMAND = re.compile(
    r"^(\$ )?(sudo |[A-Z_]+=\S+ )*"
    r"(apt|brew|cd|cp|curl|docker|export|git|kill|locust|make|nginx|openssl|pip|python3?|rm|sh|ssh"
    r"|systemctl|uv|\.venv/bin/\w+)\b",
    re.MULTILINE,
)

ENGINE = "needs a Docker engine; tests/deploy/containers.py starts and asks the same files"
HOST = "is typed on a host of the reader's own"
PACK = "downloads everything; tests/foundation/offline.py does it for the medium track"
MEASURES = "measures for minutes; tests/capstone/test_capstone.py asks the same services"
CLUSTER = "is typed on several machines; tests/grader/test_cluster.py starts the same on one"
COMPILED = "shows a form, not a program: tests/shared/test_handbook.py compiles it"

EXCEPTIONS = {
    ("CONTRIBUTING.md", "PIP_NO_INDEX=1"): PACK,
    ("trainer-guide.md", "make offline-pack"): PACK,
    ("trainer-guide.md", "cd pack"): PACK,
    ("docs/deployment.md", "git clone"): ENGINE,
    ("docs/deployment.md", "curl http://127.0.0.1:8000/health"): ENGINE,
    ("docs/deployment.md", "curl -s http://127.0.0.1:8000/api/v1/auth/login"): ENGINE,
    ("docs/deployment.md", "docker compose -f advanced/compose.yaml -f"): ENGINE,
    ("docs/deployment.md", "curl -N https://agent.example.org"): HOST,
    ("docs/deployment.md", "ssh -L 3000"): HOST,
    ("docs/deployment.md", "docker compose exec -T api python -m sqlite3"): ENGINE,
    ("docs/deployment.md", "docker compose stop api"): ENGINE,
    ("docs/deployment.md", "git pull"): HOST,
    ("docs/deployment.md", "rm advanced/deploy/secrets/SECRET_KEY"): HOST,
    ("docs/deployment.md", "python3 -m venv /opt/agent/.venv"): HOST,
    ("docs/deployment.md", "systemctl enable"): HOST,
    ("docs/grading.md", ".venv/bin/dask scheduler"): CLUSTER,
    ("docs/scaling.md", "make bench-capstone"): MEASURES,
    ("exercises/advanced/ex05_docker_compose/README.md", "sh make-secrets.sh"): ENGINE,
    ("exercises/advanced/lab/README.md", "docker build"): ENGINE,
}
"""By page, and how the first command or line of the block begins."""


def followed() -> set[Path]:
    """The pages that one of the tests beside this follows from the top."""
    exercises = {exercise.folder / "README.md" for exercise in all_exercises()}
    trainers = {ROOT / name for name in TRAINERS}
    return {*PAGES, *exercises, *trainers}


def typed(fence: Fence, page: Path) -> str | None:
    """What of this block no test types, by its first command or line."""
    if fence.language in {"python", *SHELLS}:
        if page in followed() or fence.illustration or fence.excerpt_of:
            return None
        return fence.text
    command = COMMAND.search(fence.text) if fence.language in ("", "text") else None
    return command and fence.text[command.start() :]


def test_every_block_is_run_or_argued_for() -> None:
    """No command is left out without a reason, and no reason outlives its command."""
    handbook = ROOT / "shared" / "handbook"
    used, unargued = set(), []
    for path in pages_of(ROOT):
        if path.parent == handbook:
            continue  # COMPILED
        for fence in read_page(path).fences:
            if (text := typed(fence, path)) is None:
                continue
            name = str(path.relative_to(ROOT))
            reasons = [key for key in EXCEPTIONS if key[0] == name and text.startswith(key[1])]
            used.update(reasons)
            if not reasons:
                unargued.append(f"{name}:{fence.line}: {text.partition(chr(10))[0]}")
    assert unargued == []
    there = {key for key in EXCEPTIONS if (ROOT / key[0]).exists()}
    assert used == there


def test_reasons_name_what_is_there() -> None:
    """A file that a reason leans on exists."""
    for reason in {*EXCEPTIONS.values(), COMPILED}:
        for name in re.findall(r"tests/\S+\.py", reason):
            assert (ROOT / name).is_file(), name
