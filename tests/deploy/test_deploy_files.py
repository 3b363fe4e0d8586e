"""What the files for containers promise, as far as it shows without an engine."""

import re
import stat
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.check_docs import ROOT

BIN = Path(sysconfig.get_path("scripts"))
DOCKERFILES = [ROOT / "medium/Dockerfile", ROOT / "advanced/Dockerfile"]
COMPOSE_FILES = [ROOT / "advanced/compose.yaml", ROOT / "advanced/deploy/real-model.yaml"]
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_FILES[0].read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]

each_dockerfile = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
each_compose_file = pytest.mark.parametrize("path", COMPOSE_FILES, ids=lambda path: path.name)
each_service = pytest.mark.parametrize("name", SERVICES)


@each_dockerfile
def test_hadolint_finds_nothing(path: Path) -> None:
    """The Dockerfile is written as its linter, offline, would have it."""
    subprocess.run([BIN / "hadolint", path], check=True)


@each_dockerfile
def test_build_fetches_no_frontend(path: Path) -> None:
    """No `# syntax=` line, which makes each build ask a registry for its own tool."""
    assert not re.search(r"^#\s*syntax=", path.read_text(encoding="utf-8"), re.MULTILINE)


@each_compose_file
def test_compose_file_fits_the_schema(path: Path) -> None:
    """The Compose specification knows every key of it."""
    subprocess.run(
        [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", path], check=True
    )


@each_service
def test_service_has_no_more_rights_than_it_needs(name: str) -> None:
    """Read-only, without capabilities, and within limits, whatever happens inside."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
    assert "test" in service["healthcheck"] or name == "api"  # the api's is in its image
    assert service["restart"] == "unless-stopped"


@each_service
def test_image_is_pinned_or_ours(name: str) -> None:
    """A tag with all of a version's numbers, so that two hosts run the same."""
    service = SERVICES[name]
    assert "build" in service or re.search(r":v?\d+\.\d+\.\d+(-alpine)?$", service["image"])


@each_service
def test_only_this_computer_can_reach_it(name: str) -> None:
    """What is published is published to 127.0.0.1, unless an operator says otherwise."""
    for port in SERVICES[name].get("ports", []):
        assert port.startswith(("127.0.0.1:", "${API_ADDRESS:-127.0.0.1}:"))


def test_redis_and_the_model_are_published_nowhere() -> None:
    """They are in networks that lead nowhere else."""
    for name in ("redis", "offline-model"):
        assert "ports" not in SERVICES[name]
        assert all(COMPOSE["networks"][net]["internal"] for net in SERVICES[name]["networks"])


@each_service
def test_secrets_come_from_files(name: str) -> None:
    """No variable carries one, and each is given to those alone who declare it."""
    service = SERVICES[name]
    for variable, value in service.get("environment", {}).items():
        secret = re.search("KEY|TOKEN|PASSWORD|SECRET", variable)
        assert not secret or value.startswith("/run/secrets/")
    assert {*service.get("secrets", [])} <= COMPOSE["secrets"].keys()
    assert "env_file" not in service


def test_both_images_start_from_the_same_one() -> None:
    """One base to keep up to date."""
    bases = [
        re.findall(r"^FROM (\S+:\S+)", path.read_text("utf-8"), re.MULTILINE)
        for path in DOCKERFILES
    ]
    assert bases[0] == bases[1]
    assert len(bases[0]) == 1


def test_advanced_lock_is_a_part_of_the_large_one() -> None:
    """The image has the versions that the tests ran with, hashed, and none of the tests' tools."""

    def entries(name: str) -> set[str]:
        text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
        return {*re.split(r"^(?=\S+==)", text, flags=re.MULTILINE)[1:]}

    image, everything = entries("advanced.txt"), entries("all.txt")
    assert all("--hash=sha256:" in entry for entry in image)
    assert image < everything
    assert not {entry for entry in image if entry.startswith(("pytest", "ruff", "mypy"))}


PATTERNS = [
    line
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


def as_regex(pattern: str) -> str:
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern.removeprefix("!").strip("/"))
    return "".join(words.get(part, re.escape(part)) for part in parts)


def enters_a_build(path: str) -> bool:
    """By Docker's rules: the last pattern decides that fits the path or a folder above it."""
    outside = False
    for pattern in PATTERNS:
        above = [path, *map(str, list(Path(path).parents)[:-1])]
        if any(re.fullmatch(as_regex(pattern), each) for each in above):
            outside = not pattern.startswith("!")
    return not outside


@pytest.mark.parametrize(
    "path",
    [
        *(".env", "advanced/.env", "shared/.env.production", "advanced/app/.env"),
        *(".git/config", ".state/secret_key", "advanced/app/.state/users.json"),
        *("advanced/deploy/secrets/SECRET_KEY", "advanced/server.key", "shared/web/tls.pem"),
        *("id_rsa", "notes.txt", "tests/serving.py", "advanced/compose.yaml"),
        *("requirements/all.txt", "shared/__pycache__/llm.cpython-313.pyc", "medium/README.md"),
    ],
)
def test_stays_outside_of_images(path: str) -> None:
    """Neither secrets nor what the service does not read get into a build."""
    assert not enters_a_build(path)


def test_all_code_enters_images() -> None:
    """And the service's own files do: code, the handbook, the playground."""
    files = [
        *("requirements/medium.txt", "requirements/advanced.txt", "medium/__init__.py"),
        *(str(path.relative_to(ROOT)) for path in (ROOT / "shared").rglob("*.*")),
        *(str(path.relative_to(ROOT)) for path in (ROOT / "advanced").rglob("*.py")),
        *(str(path.relative_to(ROOT)) for path in (ROOT / "medium/app").rglob("*.py")),
    ]
    assert len(files) > 50
    assert [path for path in files if "__pycache__" not in path and not enters_a_build(path)] == []


def make_secrets(folder: Path) -> dict[str, str]:
    script = ROOT / "advanced/deploy/make-secrets.sh"
    subprocess.run(["sh", script, folder], check=True, capture_output=True)
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_secrets_are_made_once(tmp_path: Path) -> None:
    """Each that compose.yaml wants, different, long, and the same after a second run."""
    made = make_secrets(tmp_path / "secrets")
    assert made.keys() == COMPOSE["secrets"].keys()
    assert len({*made.values()}) == len(made)
    assert all(len(value.strip()) == 64 for value in made.values())
    (tmp_path / "secrets/REDIS_PASSWORD").unlink()
    again = make_secrets(tmp_path / "secrets")
    assert [name for name in made if made[name] != again[name]] == ["REDIS_PASSWORD"]


def test_secrets_are_private_and_can_be_mounted(tmp_path: Path) -> None:
    """Nobody else gets into the folder; a container's user, who gets a file alone, can read it."""
    make_secrets(tmp_path / "secrets")
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "secrets").iterdir()}
    assert modes == {0o444}


def test_secrets_are_not_committed() -> None:
    """git leaves the folder's content alone."""
    ignore = (ROOT / "advanced/deploy/secrets/.gitignore").read_text(encoding="utf-8")
    assert ignore.splitlines() == ["*", "!.gitignore"]
