"""`python -m shared.offline_model`, as a process of its own."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from shared.offline_model import OfflineModel

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "shared.offline_model"]
REQUEST = {
    "model": "offline-assistant",
    "messages": [{"role": "user", "content": "Hello"}],
    "stream": True,
}
KEY = {"Authorization": "Bearer any"}


@contextmanager
def running(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and what it said until its last line of instructions."""
    process = subprocess.Popen(
        [*COMMAND, *options], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        said = ""
        while "export OPENAI_BASE_URL" not in said:
            line = process.stdout.readline()
            assert line, process.communicate()
            said += line
        yield process, said
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_it_runs_alone_and_stops_with_a_stream_open(ending: signal.Signals) -> None:
    """It prints where it is, answers, and is gone at once when told, open streams or not."""
    with running("--port", "0", "--token-delay", "60") as (process, said):
        base_url = re.findall(r"http://127\.0\.0\.1:\d+/v1", said)[0]
        with (
            httpx.Client(base_url=base_url, headers=KEY, trust_env=False) as http,
            http.stream("POST", "/chat/completions", json=REQUEST) as response,
        ):
            parts = response.iter_raw()
            assert b"assistant" in next(parts)
            told_at = time.monotonic()
            process.send_signal(ending)
            assert process.wait(timeout=5) == 0
            assert time.monotonic() - told_at < 2
            with pytest.raises(httpx.TransportError):
                list(parts)
        _, errors = process.communicate()
    assert errors == ""


def test_port_in_use_is_one_sentence() -> None:
    """A taken port ends the process with the way out, and no traceback."""
    with OfflineModel() as model:
        result = subprocess.run(
            [*COMMAND, "--port", str(model.port)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert f"Port {model.port} is in use" in result.stderr
    assert "--port" in result.stderr


def test_unix_socket_and_key(tmp_path: Path) -> None:
    """It serves a Unix socket, accepts the key that it was given, and cleans up behind itself."""
    path = tmp_path / "model.sock"
    with running("--uds", str(path), "--api-key", "right", "--model", "mine") as (process, said):
        assert f"--unix-socket {path}" in said
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as http:
            url = "http://localhost/v1/models"
            assert http.get(url, headers=KEY).status_code == 401
            listed = http.get(url, headers={"Authorization": "Bearer right"}).json()["data"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=5) == 0
    assert [card["id"] for card in listed] == ["mine"]
    assert not path.exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--port", "65536"], "65535"),
        (["--token-delay", "-1"], "3600"),
        (["--uds", "/nowhere/at/all"], "Cannot listen"),
        (["--host", "203.0.113.1"], "Cannot listen"),
    ],
)
def test_mistakes_are_told_without_a_traceback(options: list[str], word: str) -> None:
    """What cannot be served is said in a sentence."""
    result = subprocess.run(
        [*COMMAND, *options], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert result.returncode != 0
    assert word in result.stderr
    assert "Traceback" not in result.stderr
