"""A Compose project under test: built, started, asked, and gone again with all that it made."""

import json
import os
import secrets
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

VERSION = f"test-{secrets.token_hex(4)}"
"""The tag of the images that are built here: nobody's own are overwritten."""

SETTINGS = {
    "VERSION": VERSION,
    "API_PORT": "0",
    "PROMETHEUS_PORT": "0",
    "GRAFANA_PORT": "0",
    "HEALTH_INTERVAL": "1s",
    "PROXY_PORT": "0",
    "EDGE_SUBNET": "172.30.251.0/24",
    "FRONT_SUBNET": "172.30.253.0/24",
    "COMPOSE_BAKE": "false",
}


def docker(*arguments: str | Path, text: str = "") -> str:
    """What it prints; raises CalledProcessError, with what it complained of."""
    done = run(*arguments, text=text)
    assert done.returncode == 0, f"docker {arguments}: {done.stdout}{done.stderr}"
    return done.stdout


def run(*arguments: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", *arguments],
        env={**os.environ, **SETTINGS},
        input=text,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


class Composed:
    """The services of one file. Made by `composed`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._project = f"agents-{secrets.token_hex(4)}"

    def __call__(self, *arguments: str, text: str = "") -> str:
        return docker("compose", "-p", self._project, "-f", self._file, *arguments, text=text)

    @property
    def services(self) -> list[str]:
        return self("config", "--services").split()

    def up(self, *arguments: str) -> None:
        """Built, started and healthy when this returns."""
        self("up", "--detach", "--wait", "--wait-timeout", "180", *arguments)

    def url(self, service: str, port: int) -> str:
        return f"http://{self('port', service, str(port)).strip()}"

    def inside(self, service: str, *command: str, text: str = "") -> str:
        return self("exec", "--no-TTY", service, *command, text=text)

    def python(self, service: str, program: str) -> str:
        return self.inside(service, "python", "-", text=program).strip()

    def containers(self, service: str) -> list[str]:
        return self("ps", "--all", "--quiet", service).split()

    def inspected(self, service: str) -> Any:
        """What the engine says of it; of several replicas, of one."""
        (description,) = json.loads(docker("inspect", self.containers(service)[0]))
        return description

    def down(self) -> None:
        self("down", "--volumes", "--timeout", "5")


@contextmanager
def composed(file: Path) -> Iterator[Composed]:
    project = Composed(file)
    try:
        project.up("--build")
        yield project
    except AssertionError:
        print(project("logs", "--no-color", "--tail", "50"))
        raise
    finally:
        project.down()


def contents(image: str, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of every layer, the deleted ones too, and the image's own description."""
    archive = folder / "image.tar"
    docker("save", "--output", archive, image)
    with tarfile.open(archive) as outer:
        for member in outer.getmembers():
            if file := outer.extractfile(member):
                yield member.name, b"" if is_layer(file) else file.read()
                yield from layer(file)
    archive.unlink()


def is_layer(file: IO[bytes]) -> bool:
    file.seek(0)
    try:
        tarfile.open(fileobj=file).close()
    except tarfile.ReadError:
        return False
    finally:
        file.seek(0)
    return True


def layer(file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    if is_layer(file):
        with tarfile.open(fileobj=file) as inner:
            for member in inner:
                data = inner.extractfile(member) if member.isfile() else None
                yield member.name, data.read() if data else b""
