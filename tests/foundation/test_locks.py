"""What the locks promise: exact versions, hashes, no addresses, one version for both tracks."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.check_docs import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENTRY = re.compile(
    r"^([a-z0-9._-]+)==(\S+)(?: ; .*)? \\\n((?:    --hash=\S+(?: \\)?\n)*)", re.MULTILINE
)


def text_of(lock: str) -> str:
    return (ROOT / "requirements" / f"{lock}.txt").read_text()


def pins(lock: str) -> dict[str, frozenset[str]]:
    """Each package's versions: one, or one for each kind of machine."""
    versions: dict[str, frozenset[str]] = {}
    for name, version, _ in ENTRY.findall(text_of(lock)):
        versions[name] = versions.get(name, frozenset()) | {version}
    return versions


@pytest.mark.parametrize("lock", ["medium", "all"])
def test_every_entry_is_hashed(lock: str) -> None:
    """Nothing is in a lock but its header and packages with SHA-256 hashes."""
    rest = re.sub(r"^#.*\n", "", text_of(lock), flags=re.MULTILINE)
    for _, _, hashes in ENTRY.findall(rest):
        assert re.fullmatch(r"(    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", hashes)
    assert ENTRY.sub("", rest) == ""


@pytest.mark.parametrize("lock", ["medium", "all"])
def test_no_address_is_named(lock: str) -> None:
    """Packages come from whatever index the machine is set up for."""
    assert not re.search(r"://|--[a-z-]*(index|find-links|trusted)|\.(org|com|io)\b", text_of(lock))


def test_locks_agree() -> None:
    """The small lock is a part of the large one."""
    assert pins("medium").items() < pins("all").items()


def test_locks_hold_what_the_project_asks_for() -> None:
    """Each requirement in pyproject.toml is met, the build backend's in both locks."""
    project, extras = PROJECT["project"], PROJECT["project"]["optional-dependencies"]
    always = [*project["dependencies"], *PROJECT["build-system"]["requires"], *extras["medium"]]
    assert_met(always, pins("medium"))
    assert_met([*always, *(line for extra in extras.values() for line in extra)], pins("all"))


@pytest.mark.parametrize(("package", "extra"), [("shared", None), ("medium", "medium")])
def test_imports_are_declared(package: str, extra: str | None) -> None:
    """What a track imports is asked for by name, not found by luck among everything."""
    project = PROJECT["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"].get(extra, [])]
    names = {canonicalize_name(Requirement(line).name) for line in declared}
    for module in imported_by(package) - sys.stdlib_module_names - {"shared", "medium"}:
        distributions = packages_distributions().get(module, [f"{module}, not installed"])
        assert names.intersection(map(canonicalize_name, distributions)), distributions


def imported_by(package: str) -> set[str]:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / package).rglob("*.py")]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    taken_from = {
        node.module
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module and not node.level
    }
    return {name.partition(".")[0] for name in plain | taken_from}


def assert_met(requirements: list[str], versions: dict[str, frozenset[str]]) -> None:
    for requirement in map(Requirement, requirements):
        locked = versions[canonicalize_name(requirement.name)]
        assert any(map(requirement.specifier.contains, locked)), requirement
