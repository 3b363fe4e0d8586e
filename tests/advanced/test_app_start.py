"""The advanced service as a process: what does not start, and what a first start leaves behind."""

import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from shared.offline_model import OfflineModel
from tests.advanced.conftest import Serve
from tests.advanced.serving_advanced import (
    NOTHING_SET,
    SECRET_KEY,
    SERVE,
    UVICORN,
    failures,
    settings,
)
from tests.serving import KEY, Process, environment, make_checkout, with_model

PRODUCTION = {"ENVIRONMENT": "production", "SECRET_KEY": SECRET_KEY}
MODEL = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "REDIS_ENABLED": "no"}
SECRETS = ("Wj5-t00-short", "Your-Secret-Key-0f-a-certain-length-Wj5", SECRET_KEY, KEY, "w0rd-Wj5")

REFUSED: dict[str, tuple[str, dict[str, str]]] = {
    "no key": ("SECRET_KEY", {"SECRET_KEY": ""}),
    "short key": ("SECRET_KEY", {"SECRET_KEY": SECRETS[0]}),
    "example key": ("SECRET_KEY", {"SECRET_KEY": SECRETS[1]}),
    "algorithm": ("ALGORITHM", {"ALGORITHM": "none"}),
    "any origin": ("CORS_ALLOW_CREDENTIALS", {"CORS_ORIGINS": "*", "CORS_ALLOW_CREDENTIALS": "1"}),
    "demo users": ("DEMO_USERS", {"DEMO_USERS": "true"}),
    "debug": ("DEBUG", {"DEBUG": "true"}),
    "no number": ("REDIS_PORT", {"REDIS_PORT": "w0rd-Wj5", "WORKERS": "2"}),
}


def refusal(command: tuple[str, ...], checkout: Path, **more: str) -> tuple[int, list[str]]:
    """The exit code, and the lines that tell more than that the start goes on or has failed."""
    environment = {**NOTHING_SET, "PORT": "0", **MODEL, **more}
    with Process(command, checkout, environment) as process:
        code = process.wait()
    assert failures(process.output) == []
    assert not [secret for secret in SECRETS if secret in process.output], process.output
    usual = re.compile(r'"event": "(Started|Waiting|Application startup failed|Stopping|No Redis)')
    return code, [line for line in process.output.splitlines() if not usual.search(line)]


@pytest.mark.parametrize("kind", REFUSED)
def test_production_does_not_start_unsafely(checkout: Path, tmp_path: Path, kind: str) -> None:
    """One sentence that names this field and no other, no value, and a code that is not 0."""
    field, change = REFUSED[kind]
    state = {"STATE_DIR": str(tmp_path)}
    code, lines = refusal(SERVE, checkout, **PRODUCTION | state | change)
    assert code != 0
    assert len(lines) == 1
    assert re.findall(r"(\b[A-Z_]{5,}): ", lines[0]) == [field]


@pytest.mark.parametrize("kind", ["no key", "any origin"])
def test_uvicorn_refuses_the_same(checkout: Path, tmp_path: Path, kind: str) -> None:
    """Started by hand the service is as strict."""
    field, change = REFUSED[kind]
    state = {"STATE_DIR": str(tmp_path)}
    code, lines = refusal(UVICORN, checkout, **PRODUCTION | state | change)
    assert code != 0
    assert len(lines) == 1
    assert re.findall(r"(\b[A-Z_]{5,}): ", lines[0]) == [field]


def no_folder(state: Path) -> None:
    state.touch()


def no_database(state: Path) -> None:
    state.mkdir()
    (state / "sessions.db").write_text("not a database" * 100)


@pytest.mark.parametrize("spoil", [no_folder, no_database])
@pytest.mark.parametrize("command", [SERVE, UVICORN], ids=["serve", "uvicorn"])
def test_a_state_folder_that_is_no_use(
    checkout: Path, tmp_path: Path, command: tuple[str, ...], spoil: Callable[[Path], None]
) -> None:
    """Without a place for sessions there is no start; the sentence names STATE_DIR."""
    state = tmp_path / "state"
    spoil(state)
    code, lines = refusal(command, checkout, STATE_DIR=str(state), **PRODUCTION)
    assert code != 0
    assert sum("STATE_DIR: " in line for line in lines) == 1, lines


def test_two_workers_that_cannot_start_end_both(checkout: Path, tmp_path: Path) -> None:
    """What only a worker finds out ends the whole service, and not in a circle of restarts."""
    (tmp_path / "users.json").write_text('{"carol": 5}')
    both = {"STATE_DIR": str(tmp_path), "WORKERS": "2", **PRODUCTION}
    code, lines = refusal(SERVE, checkout, **both)
    assert code != 0
    assert "USERS_FILE: " in "\n".join(lines)


@pytest.mark.parametrize(
    "command",
    [SERVE, UVICORN, ("-m", "advanced.app.users", "erin")],
    ids=["serve", "uvicorn", "make user"],
)
def test_an_env_file_that_is_no_text(tmp_path: Path, command: tuple[str, ...]) -> None:
    """A `.env` in UTF-16, as some editors write it, is named in one sentence."""
    make_checkout(tmp_path)
    (tmp_path / ".env").write_text(f"SECRET_KEY={SECRET_KEY}\n", encoding="utf-16")
    code, lines = refusal(command, tmp_path, STATE_DIR=str(tmp_path / "state"))
    assert code == 1
    assert len(lines) == 1
    assert f"{tmp_path / '.env'}" in lines[0]
    assert "UTF-8" in lines[0]


def test_a_secret_that_is_no_text(checkout: Path, tmp_path: Path) -> None:
    """A file in SECRETS_DIR that cannot be read as text is named in one sentence, unquoted."""
    (tmp_path / "API_TITLE").write_bytes(b"no text: \xff")
    state = tmp_path / "state"
    code, lines = refusal(SERVE, checkout, STATE_DIR=str(state), SECRETS_DIR=str(tmp_path))
    assert code == 1
    assert len(lines) == 1
    assert "API_TITLE" in lines[0]
    assert "no text" not in lines[0]


def test_a_first_start_on_a_laptop(serve: Serve, tmp_path: Path) -> None:
    """Two workers, one key: made once, told once, kept for its owner alone, also over restarts.

    The demo users are told once, and what the greeting says to type works as it stands.
    """
    laptop = {"SECRET_KEY": "", "DEMO_USERS": ""}
    first = serve(WORKERS="2", **laptop)
    output = first.process.output
    key = tmp_path / "state" / "secret_key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert output.count("No SECRET_KEY: made one") == 1
    assert key.read_text() not in output
    assert re.findall(r"Demo user (\w+), password", output) == ["alice", "bob"]
    typed = re.findall(r"^  (TOKEN=.*?-d '{.*?}')$", output, re.MULTILINE | re.DOTALL)
    said = subprocess.run(
        ["sh", "-c", f'{typed[0]}; echo; echo "$TOKEN"'], capture_output=True, text=True, check=True
    )
    assert '"done":true' in said.stdout
    token = said.stdout.split()[-1]
    password = re.findall(r"Demo user bob, password (\S+)", output)
    first.process.stop()

    again = serve(command=UVICORN, **laptop)
    assert re.findall(r"Demo user bob, password (\S+)", again.process.output) == password
    assert "No SECRET_KEY" not in again.process.output
    with again.waiting_client(token) as client:
        assert client.get("/api/v1/sessions").json()["count"] == 1


def test_production_prints_no_password(serve: Serve) -> None:
    """Only the users' file counts; nobody has to be announced."""
    service = serve(redis=False, **PRODUCTION | {"DEMO_USERS": ""})
    assert "password" not in service.process.output
    with service.waiting_client(service.log_in("carol")) as client:
        assert client.get("/api/v1/sessions").status_code == 200


def test_nobody_left_to_greet(checkout: Path, tmp_path: Path) -> None:
    """When nobody reads what it prints, as after `| head`, it ends, and its workers with it."""
    with OfflineModel(api_key=KEY) as model:
        more = with_model(model, WORKERS="2", REDIS_ENABLED="false")
        with subprocess.Popen(
            [sys.executable, *SERVE],
            cwd=checkout,
            env=environment(settings(tmp_path, **more)),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdout
            process.stdout.close()
            try:
                assert process.wait(60) != 0
            finally:
                if process.poll() is None:
                    for child in psutil.Process(process.pid).children():
                        child.kill()
