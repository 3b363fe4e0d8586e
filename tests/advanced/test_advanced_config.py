"""Settings of the advanced service: where they come from, and what does not start."""

import json
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from advanced.app.config import Settings
from advanced.app.signing_key import signing_key
from shared.errors import ConfigurationError
from shared.web.lifecycle import sentence
from tests.serving import ROOT

GOOD_KEY = "b5e2c9f07a41d68392fe60b7c8d1a35410fb9ed26c7853a4de91f6b80c2745ea"
GOOD = {"ENVIRONMENT": "production", "SECRET_KEY": GOOD_KEY}

HANDOUT = """
API_TITLE API_VERSION API_PREFIX DEBUG HOST PORT WORKERS OPENAI_API_KEY OPENAI_MODEL
OPENAI_TEMPERATURE OPENAI_MAX_TOKENS REDIS_HOST REDIS_PORT REDIS_DB REDIS_PASSWORD REDIS_ENABLED
SECRET_KEY ALGORITHM ACCESS_TOKEN_EXPIRE_MINUTES RATE_LIMIT_ENABLED RATE_LIMIT_REQUESTS
RATE_LIMIT_WINDOW CACHE_ENABLED CACHE_TTL ENABLE_METRICS ENABLE_TRACING LOG_LEVEL
LANGCHAIN_TRACING_V2 LANGCHAIN_API_KEY LANGCHAIN_PROJECT
"""


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*Settings.model_fields, "SECRETS_DIR"):
        monkeypatch.delenv(name, raising=False)


def read(monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings(_env_file=None)


def refusal(monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]) -> str:
    with pytest.raises(ValidationError) as refused:
        read(monkeypatch, environment)
    return sentence(refused.value)


def test_every_field_of_the_handout_is_there() -> None:
    """The hand-out's settings keep their names."""
    assert set(HANDOUT.split()) <= set(Settings.model_fields)


def test_every_setting_has_a_line_in_the_readme() -> None:
    """The guide's table of settings names each one, and no other."""
    readme = (ROOT / "advanced" / "README.md").read_text()
    table = readme.partition("## Settings")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`([A-Z0-9_]+)`", " ".join(rows))) == set(Settings.model_fields)


def test_production_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a key of its own production starts, without demo users and docs."""
    settings = read(monkeypatch, GOOD)
    assert signing_key(settings).get_secret_value() == GOOD_KEY
    assert not settings.DEMO_USERS
    assert not settings.DOCS_ENABLED


REFUSED = [
    ("SECRET_KEY", {"SECRET_KEY": ""}),
    ("SECRET_KEY", {"SECRET_KEY": GOOD_KEY[:31]}),
    ("SECRET_KEY", {"SECRET_KEY": GOOD_KEY[:47], "ALGORITHM": "HS384"}),
    ("SECRET_KEY", {"SECRET_KEY": GOOD_KEY[:63], "ALGORITHM": "HS512"}),
    ("SECRET_KEY", {"SECRET_KEY": "your-secret-key-change-in-production"}),
    ("SECRET_KEY", {"SECRET_KEY": "Change_Me! " * 4}),
    ("SECRET_KEY", {"SECRET_KEY": "an-example-of-a-key-with-many-letters"}),
    ("SECRET_KEY", {"SECRET_KEY": "0" * 64}),
    (
        "SECRET_KEY",
        {"SECRET_KEY": "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7"},
    ),
    ("ALGORITHM", {"ALGORITHM": "none"}),
    ("ALGORITHM", {"ALGORITHM": "RS256"}),
    ("ALGORITHM", {"ALGORITHM": "hs256"}),
    ("CORS_ALLOW_CREDENTIALS", {"CORS_ORIGINS": "*", "CORS_ALLOW_CREDENTIALS": "true"}),
    ("METRICS_TOKEN", {"METRICS_TOKEN": "changeme-changeme-changeme"}),
    ("METRICS_TOKEN", {"METRICS_TOKEN": GOOD_KEY[:15]}),
    ("DEBUG", {"DEBUG": "true"}),
    ("DEMO_USERS", {"DEMO_USERS": "true"}),
]


@pytest.mark.parametrize(("field", "change"), REFUSED)
def test_production_refuses(
    monkeypatch: pytest.MonkeyPatch, field: str, change: dict[str, str]
) -> None:
    """Production refuses in one sentence that names the field, and never its value."""
    said = refusal(monkeypatch, GOOD | change)
    assert said.startswith(f"The service does not start as configured: {field}: ")
    assert "\n" not in said
    secret = change.get("SECRET_KEY")
    assert not secret or secret.strip() not in said


@pytest.mark.parametrize(
    "change",
    [
        {"SECRET_KEY": "your-secret-key-change-in-production"},
        {"CORS_ORIGINS": "*", "CORS_ALLOW_CREDENTIALS": "true"},
        {"DEBUG": "true"},
        {"DEMO_USERS": "true"},
    ],
)
def test_development_permits(monkeypatch: pytest.MonkeyPatch, change: dict[str, str]) -> None:
    """What production refuses for being unsafe, and not impossible, is fine on a laptop."""
    assert read(monkeypatch, change).ENVIRONMENT == "development"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ENVIRONMENT", "staging"),
        ("API_PREFIX", "api"),
        ("PORT", "65536"),
        ("WORKERS", "0"),
        ("OPENAI_TEMPERATURE", "2.1"),
        ("OPENAI_MAX_TOKENS", "0"),
        ("REDIS_PORT", "0"),
        ("REDIS_DB", "-1"),
        ("REDIS_TIMEOUT", "0"),
        ("ACCESS_TOKEN_EXPIRE_MINUTES", "0"),
        ("RATE_LIMIT_REQUESTS", "ten"),
        ("RATE_LIMIT_WINDOW", "0"),
        ("CACHE_TTL", "0"),
        ("LOG_LEVEL", "LOUD"),
        ("TRUSTED_PROXIES", "*"),
        ("CORS_ORIGINS", "course.example"),
    ],
)
def test_values_have_limits(monkeypatch: pytest.MonkeyPatch, field: str, value: str) -> None:
    """A value out of its range stops the start, and the sentence names the field."""
    assert f" {field}" in refusal(monkeypatch, {field: value})


def test_names_are_case_sensitive(monkeypatch: pytest.MonkeyPatch) -> None:
    """`port` is somebody else's variable."""
    assert read(monkeypatch, {"port": "9000"}).PORT == 8000
    assert read(monkeypatch, {"PORT": "9000"}).PORT == 9000


def test_settings_are_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody changes a setting after the start."""
    with pytest.raises(ValidationError):
        read(monkeypatch, {}).PORT = 9000  # type: ignore[misc]  # on purpose


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Origins and proxies are lists without brackets."""
    both = {"CORS_ORIGINS": "https://a.example, http://localhost:5173"}
    settings = read(monkeypatch, both | {"TRUSTED_PROXIES": "10.0.0.0/8,::1"})
    assert settings.CORS_ORIGINS == ("https://a.example", "http://localhost:5173")
    assert [str(network) for network in settings.TRUSTED_PROXIES] == ["10.0.0.0/8", "::1/128"]


def test_debug_widens_the_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """DEBUG decides the level of the logs."""
    assert read(monkeypatch, {"LOG_LEVEL": "warning"}).log_level == "WARNING"
    assert read(monkeypatch, {"DEBUG": "true"}).log_level == "DEBUG"


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the settings nor an error print a secret."""
    names = ("SECRET_KEY", "OPENAI_API_KEY", "REDIS_PASSWORD", "LANGCHAIN_API_KEY")
    settings = read(monkeypatch, dict.fromkeys(names, GOOD_KEY))
    assert GOOD_KEY not in repr(settings) + settings.model_dump_json()
    with pytest.raises(ValidationError) as refused:
        read(monkeypatch, GOOD | {"SECRET_KEY": GOOD_KEY[:31]})
    assert GOOD_KEY[:31] not in f"{refused.value}{refused.value!r}"


def test_secrets_can_be_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container's secrets are files; the environment goes before them."""
    (tmp_path / "SECRET_KEY").write_text(GOOD_KEY + "\n")
    (tmp_path / "REDIS_PASSWORD").write_text("from-a-file\n")
    folder = {"SECRETS_DIR": str(tmp_path), "REDIS_PASSWORD": "from-the-environment"}
    settings = read(monkeypatch, {"ENVIRONMENT": "production", **folder})
    key, password = settings.SECRET_KEY, settings.REDIS_PASSWORD
    assert (key, password) == (SecretStr(GOOD_KEY), SecretStr("from-the-environment"))


def run(folder: Path, code: str, **environment: str) -> subprocess.Popen[str]:
    """`code` in a process of its own, in a checkout with nothing but the packages."""
    for package in ("advanced", "shared"):
        if not (folder / package).exists():
            (folder / package).symlink_to(ROOT / package, target_is_directory=True)
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in Settings.model_fields and not name.startswith("LANG")
    }
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        env=inherited | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out, err


SHOW = """
from advanced.app.config import get_settings
settings = get_settings()
assert settings is get_settings()
print(settings.PORT, settings.API_TITLE, settings.CACHE_TTL)
"""


def test_the_file_comes_after_the_environment(tmp_path: Path) -> None:
    """`.env` in the root is read; the environment wins, unless its value is empty."""
    (tmp_path / ".env").write_text("PORT=1111\nAPI_TITLE=from-file\nCACHE_TTL=\nUNKNOWN=1\n")
    out, _ = finished(run(tmp_path, SHOW, PORT="2222", API_TITLE=""))
    assert out.split() == ["2222", "from-file", "3600"]


KEY = """
import os, time
from advanced.app.config import Settings
from advanced.app.signing_key import signing_key
settings = Settings()
time.sleep(max(0, float(os.environ["AT"]) - time.time()))
print(signing_key(settings).get_secret_value())
"""


def test_one_key_for_all_workers_and_starts(tmp_path: Path) -> None:
    """Workers that start at once agree on one key, one of them says so, and it is kept."""
    state = tmp_path / "deep" / "state"
    at_once = {"STATE_DIR": str(state), "AT": str(time.time() + 3)}
    workers = [run(tmp_path, KEY, **at_once) for _ in range(6)]
    results = [finished(worker) for worker in workers]
    keys = {out.strip() for out, _ in results}
    said = [err for _, err in results if "No SECRET_KEY" in err]
    path = state / "secret_key"
    assert len(keys) == len(said) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert keys == {path.read_text()}
    assert path.read_text() not in said[0]
    assert finished(run(tmp_path, KEY, **at_once)) == (results[0][0], "")


def test_each_laptop_has_its_own_key(tmp_path: Path) -> None:
    """Two folders, two keys: nothing about the key is in the source."""
    one, other = (
        signing_key(Settings(_env_file=None, STATE_DIR=tmp_path / name)) for name in ("a", "b")
    )
    assert one != other
    assert len(one.get_secret_value()) >= 64


def test_a_key_that_others_could_read_is_closed(tmp_path: Path) -> None:
    """A copied state folder may have lost its modes."""
    settings = Settings(_env_file=None, STATE_DIR=tmp_path)
    key = signing_key(settings)
    (tmp_path / "secret_key").chmod(0o644)
    assert signing_key(settings) == key
    assert stat.S_IMODE((tmp_path / "secret_key").stat().st_mode) == 0o600


def test_a_broken_key_file_stops_the_start(tmp_path: Path) -> None:
    """A cut file is named, and never used as a short key."""
    (tmp_path / "secret_key").write_text("cut")
    with pytest.raises(ConfigurationError, match="secret_key holds no key"):
        signing_key(Settings(_env_file=None, STATE_DIR=tmp_path))


def test_a_folder_that_cannot_be_made_stops_the_start(tmp_path: Path) -> None:
    """The sentence names STATE_DIR."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"^STATE_DIR: "):
        signing_key(Settings(_env_file=None, STATE_DIR=tmp_path / "file" / "state"))


TRACE = """
import json
from advanced.app.config import Settings
from advanced.app.tracing import apply_tracing
apply_tracing(Settings())
from langchain_core.runnables import RunnableLambda
from langsmith import utils
from langsmith.client import Client

handlers = []
Client.create_run = Client.update_run = lambda *_, **__: None  # nothing leaves this test

def look(value, config):
    handlers.extend(type(h).__name__ for h in config["callbacks"].handlers)

RunnableLambda(look).invoke(1)
key = utils.get_env_var("API_KEY")
print(json.dumps([handlers, key, utils.get_tracer_project()]))
"""


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"LANGCHAIN_TRACING_V2": "true"},
        {"LANGSMITH_TRACING": "true", "LANGSMITH_TRACING_V2": "true"},
        {"LANGSMITH_TRACING": "true", "LANGSMITH_API_KEY": "a-key-of-the-shell"},
        {"LANGCHAIN_TRACING": "true", "LANGCHAIN_HANDLER": "langchain"},
        {"LANGCHAIN_API_KEY": "example-key"},
    ],
)
def test_nothing_is_traced_by_chance(tmp_path: Path, environment: dict[str, str]) -> None:
    """Without the wish and a key of ours no run goes to LangSmith, whatever the shell has set."""
    out, _ = finished(run(tmp_path, TRACE, **environment))
    assert json.loads(out)[0] == []


def test_tracing_can_be_had(tmp_path: Path) -> None:
    """With both, LangSmith gets the key and the project, also from `.env`."""
    lines = ["LANGCHAIN_TRACING_V2=true", "LANGCHAIN_API_KEY=example-key", "LANGCHAIN_PROJECT=mine"]
    (tmp_path / ".env").write_text("\n".join(lines))
    out, _ = finished(run(tmp_path, TRACE, LANGSMITH_ENDPOINT="http://127.0.0.1:9"))
    assert json.loads(out) == [["LangChainTracer"], "example-key", "mine"]
