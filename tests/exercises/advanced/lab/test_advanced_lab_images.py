"""What the lab's suite says of Dockerfiles: to read one takes no service, so here are many."""

from pathlib import Path

import pytest

from exercises.advanced.lab.test_advanced_lab_container import test_image_is_safe as is_safe
from exercises.advanced.lab.test_advanced_lab_container import test_image_runs as runs

IMAGE = """\
FROM python:3.13-slim
WORKDIR /srv
COPY requirements/advanced.txt ./
RUN pip install --no-cache-dir --require-hashes -r advanced.txt
COPY shared shared
COPY advanced advanced
ENV ENVIRONMENT=production HOST=0.0.0.0 PORT=8000 STATE_DIR=/srv/state
RUN useradd --system app && install -d -o app /srv/state
USER app
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "from urllib.request import *; urlopen('http://localhost:8000/health')"]
CMD ["python", "-m", "advanced.serve"]
"""
HEALTH = IMAGE.splitlines()[-2]
START = IMAGE.splitlines()[-1]
INSTALL = "RUN pip install --no-cache-dir --require-hashes -r advanced.txt"
CODE = "COPY shared shared\nCOPY advanced advanced"
STATE = "RUN useradd --system app && install -d -o app /srv/state"
CURL = "HEALTHCHECK CMD curl -f http://localhost:8000/health || exit 1"
DIGEST = f"sha256:{'a' * 64}"

Changes = dict[str, str]

RIGHT: dict[str, Changes] = {
    "as it is": {},
    "a shell that becomes the service": {START: "CMD exec python -m advanced.serve"},
    "uvicorn with options": {
        START: 'CMD ["uvicorn", "advanced.app.main:app", "--host", "0.0.0.0", "--port", "8000"]'
    },
    "uvicorn with its own variable": {
        START: 'CMD ["uvicorn", "advanced.app.main:app"]',
        " HOST=0.0.0.0": " UVICORN_HOST=0.0.0.0",
    },
    "the folder by its variable": {
        "install -d -o app /srv/state": 'mkdir -p "$STATE_DIR" && chown app: "$STATE_DIR"'
    },
    "the folder above it": {
        STATE: "RUN useradd --system app && mkdir /srv/state\nRUN chown -R app:app /srv"
    },
    "the user makes the folder": {
        f"{STATE}\nUSER app": "RUN useradd -m app\nUSER app\nRUN mkdir -p /srv/state"
    },
    "the folder comes with its owner": {
        STATE: "RUN useradd --system app\nCOPY --from=empty --chown=app /empty /srv/state",
        "FROM python:3.13-slim\n": (
            "FROM python:3.13-slim AS empty\nRUN mkdir /empty\nFROM python:3.13-slim\n"
        ),
    },
    "a digest": {"python:3.13-slim": f"python@{DIGEST}"},
    "an argument": {"FROM python:3.13": 'ARG PYTHON="3.13"\nFROM python:${PYTHON:-3.12}'},
    "a registry with a port": {"python:3.13-slim": "registry.example:5000/python:3.13.1-slim"},
    "hashes that pip finds in the file": {"--require-hashes ": ""},
    "hashes by a variable": {INSTALL: "ENV PIP_REQUIRE_HASHES=1\nRUN pip install -r advanced.txt"},
    "wheels from another stage": {
        f"COPY requirements/advanced.txt ./\n{INSTALL}": (
            "RUN --mount=type=bind,from=wheels,target=/wheels pip install --no-index /wheels/*.whl"
        ),
        "FROM python:3.13-slim\n": (
            "FROM python:3.13-slim AS wheels\nCOPY requirements/advanced.txt /\n"
            "RUN pip wheel --require-hashes -r /advanced.txt -w /wheels\nFROM python:3.13-slim\n"
        ),
    },
    "a here-document": {INSTALL: "RUN <<END\npip install --require-hashes -r advanced.txt\nEND"},
    "all locks": {
        "COPY requirements/advanced.txt ./": "COPY requirements/ ./requirements/",
        "-r advanced.txt": "-r requirements/advanced.txt",
    },
    "both folders at once": {CODE: "COPY --parents shared advanced ./"},
    "curl that was installed": {
        STATE: f"RUN apt-get update && apt-get install -y curl\n{STATE}",
        HEALTH: CURL,
    },
    "curl of a large image": {"3.13-slim": "3.13", HEALTH: CURL},
    "settings with names like secrets": {
        "PORT=8000": "PORT=8000 ACCESS_TOKEN_EXPIRE_MINUTES=15 OPENAI_MAX_TOKENS=2000"
    },
    "in small letters": {"FROM": "from", "COPY": "copy", "USER": "user"},
}

WRONG: dict[str, tuple[str, Changes]] = {
    "no version": ("one version", {"3.13-slim": "latest"}),
    "nearly a version": ("one version", {"3.13-slim": "3-slim"}),
    "everything": ("nothing else that lies around", {CODE: "COPY . ."}),
    "a file with secrets": ("a file with secrets", {CODE: f"{CODE}\nCOPY .env.example .env"}),
    "a secret in ENV": (
        "a secret in ENV or ARG",
        {"EXPOSE": "ENV SECRET_KEY=0123456789abcdef\nEXPOSE"},
    ),
    "a secret by ARG": (
        "a secret in ENV or ARG",
        {"EXPOSE": "ARG SECRET_KEY\nENV SECRET_KEY=$SECRET_KEY\nEXPOSE"},
    ),
    "a secret in RUN": (
        "written while the image is built",
        {"EXPOSE": "RUN echo SECRET_KEY=$(openssl rand -hex 32) > key\nEXPOSE"},
    ),
    "from an address": ("copied by COPY", {CODE: f"ADD https://example.org/x /x\n{CODE}"}),
    "folders poured out": ("not the folder", {CODE: "COPY shared advanced ./"}),
    "another lock": ("what requirements/advanced.txt locks", {"advanced.txt": "medium.txt"}),
    "no lock": ("hashes of the lock", {INSTALL: "RUN pip install fastapi uvicorn"}),
    "a package beside the lock": ("no hash of", {INSTALL: f"{INSTALL} && pip install gunicorn"}),
    "a newer pip": ("no hash of", {INSTALL: f"RUN pip install --upgrade pip\n{INSTALL}"}),
    "root": ("without rights", {"USER app\n": ""}),
    "root again": ("without rights", {START: f"USER root\n{START}"}),
    "a shell": ("no shell in it", {START: "CMD python -m advanced.serve"}),
    "a shell in a list": (
        "no shell in it",
        {START: 'CMD ["sh", "-c", "python -m advanced.serve"]'},
    ),
    "a shell that becomes something else": (
        "no shell in it",
        {START: "CMD exec true; python -m advanced.serve"},
    ),
    "in development": ("for production", {"ENVIRONMENT=production": "ENVIRONMENT=development"}),
    "watching its files": (
        "watch its files",
        {START: 'CMD ["uvicorn", "advanced.app.main:app", "--host", "0.0.0.0", "--reload"]'},
    ),
    "where nobody can reach it": ("cannot be reached", {"HOST=0.0.0.0": "HOST=127.0.0.1"}),
    "uvicorn with a variable of ours": (
        "cannot be reached",
        {START: 'CMD ["uvicorn", "advanced.app.main:app"]'},
    ),
    "a folder of root's": (
        "belong to the user",
        {"install -d -o app /srv/state": "mkdir -p /srv/state"},
    ),
    "nobody looks after it": ("an orchestrator", {f"{HEALTH}\n": ""}),
    "nobody looks after it, and says so": ("the service's own", {HEALTH: "HEALTHCHECK NONE"}),
    "curl that is not there": ("has no curl", {HEALTH: CURL}),
    "asked at another port": ("at the port", {"localhost:8000": "localhost:8080"}),
    "code before packages": (
        "what changes seldom",
        {
            f"{CODE}\n": "",
            "COPY requirements": f"{CODE}\nCOPY requirements",
        },
    ),
}


def judge(folder: Path, changes: Changes) -> None:
    """Both tests of the suite. Raises AssertionError."""
    text = IMAGE
    for old, new in changes.items():
        if old not in text:
            raise ValueError(f"there is no {old!r} to change")
        text = text.replace(old, new)
    (folder / "Dockerfile").write_text(text)
    is_safe(folder)
    runs(folder)


@pytest.mark.parametrize("changes", RIGHT.values(), ids=RIGHT)
def test_right(tmp_path: Path, changes: Changes) -> None:
    """Whatever it is built like, it holds."""
    judge(tmp_path, changes)


@pytest.mark.parametrize(("words", "changes"), WRONG.values(), ids=WRONG)
def test_wrong(tmp_path: Path, words: str, changes: Changes) -> None:
    """One mistake is enough, and the sentence is about that one."""
    with pytest.raises(AssertionError, match=words):
        judge(tmp_path, changes)
