"""What a container finds where, and which secrets it gets, by whichever way it gets them."""

from pathlib import Path

import pytest

from grader.judge.stack import Stack

SECRETS = {"KEY", "TOKEN"}
TEMPLATES = "/etc/nginx/templates"


def stack(folder: Path, services: str, shared: str = "") -> Stack:
    """A submission in `folder/handed_in`, to an exercise in `folder/course/exercises/x`."""
    submitted, home = folder / "handed_in", folder / "course/exercises/x"
    submitted.mkdir()
    home.mkdir(parents=True)
    (folder / "course/given.yml").write_text("given")
    (home / "nginx.conf").write_text("the starter")
    (submitted / "nginx.conf").write_text("events {} http { server { listen 8081; } }")
    (submitted / "compose.yaml").write_text(f"services:\n  {services}\n{shared}\n")
    return Stack(
        submitted,
        root=folder / "course",
        home=home,
        files=("compose.yaml", "nginx.conf"),
        secrets=SECRETS,
    )


def test_what_was_handed_in_is_read_and_not_the_starter(tmp_path: Path) -> None:
    """A mount of a file of that name is the student's; the course's own are found, too."""
    found = stack(
        tmp_path, "a: {image: x, volumes: ['./nginx.conf:/n', '../../given.yml:/g', '../..:/all']}"
    )
    assert "events" in (found.text_at(found["a"], "/n") or "")
    assert found.text_at(found["a"], "/g") == "given"
    assert found.text_at(found["a"], "/all/given.yml") == "given"
    assert found.places_of(found["a"], "given.yml") == ["/g", "/all/given.yml"]


@pytest.mark.parametrize("source", ["/etc/passwd", "~/x", "../../../outside", "./nothing"])
def test_nothing_else_on_the_host_is_looked_at(tmp_path: Path, source: str) -> None:
    """Neither whether it is there nor what is in it."""
    (tmp_path / "outside").write_text("somebody's")
    found = stack(tmp_path, f"a: {{image: x, volumes: ['{source}:/n']}}")
    assert not found.is_there(source)
    assert found.text_at(found["a"], "/n") is None


@pytest.mark.parametrize(
    ("said", "places"),
    [
        ("secrets: [k]", {"/run/secrets/k": "KEY"}),
        ("secrets: [{source: k, target: /x}]", {"/x": "KEY"}),
        ("volumes: ['./secrets/KEY:/x:ro']", {"/x": "KEY"}),
        ("volumes: ['./secrets:/x']", {"/x/KEY": "KEY", "/x/TOKEN": "TOKEN"}),
        ("volumes: ['.:/x']", {"/x/secrets/KEY": "KEY", "/x/secrets/TOKEN": "TOKEN"}),
        ("volumes: ['../..:/']", {f"/exercises/x/secrets/{n}": n for n in SECRETS}),
        ("volumes: ['../../given.yml:/x']", {}),
    ],
)
def test_secrets_are_found_however_they_get_there(
    tmp_path: Path, said: str, places: dict[str, str]
) -> None:
    """As secrets, as single files, or with a folder that they are in."""
    found = stack(tmp_path, f"a: {{image: x, {said}}}", "secrets: {k: {file: ./secrets/KEY}}")
    assert found.secrets_of(found["a"]) == places
    assert found.is_there("secrets/KEY")
    assert not found.is_there("secrets/OTHER")


@pytest.mark.parametrize(
    ("said", "shared"),
    [
        ("volumes: ['./nginx.conf:/etc/nginx/nginx.conf']", ""),
        ("volumes: ['./nginx.conf:/n'], command: [nginx, -c, /n]", ""),
        ("configs: [{source: c, target: /etc/nginx/nginx.conf}]", "{file: ./nginx.conf}"),
        (
            "configs: [{source: c, target: /etc/nginx/nginx.conf}]",
            "{content: 'events {} http { server { listen 8081; } }'}",
        ),
        (
            "configs: [{source: c, target: /etc/nginx/conf.d/x.conf}]",
            "{content: 'server { listen 8081; }'}",
        ),
        (
            f"configs: [{{source: c, target: {TEMPLATES}/x.conf.template}}], environment: [A=8081]",
            "{content: 'server { listen $${A}; }'}",
        ),
    ],
)
def test_nginx_s_configuration_is_found_wherever_it_may_be(
    tmp_path: Path, said: str, shared: str
) -> None:
    """Mounted or as a config, whole or a part, as it is or as a template."""
    configs = f"configs: {{c: {shared}}}" if shared else ""
    found = stack(tmp_path, f"proxy: {{image: nginx, ports: ['80:8081'], {said}}}", configs)
    assert found.site("/")
