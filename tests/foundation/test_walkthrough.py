"""A page is followed to the letter, and the first untruth in it is named."""

import shlex
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import walkthrough
from scripts.markdown import read_page
from scripts.walkthrough import Misled, Walkthrough

SERVER = """
import http.server, os, signal, sys

class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        key = os.environ.get("OPENAI_API_KEY") or None
        self.wfile.write(f"hello from {WHO}, key {key}".encode())

if "stubborn" in sys.argv:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
WHO, PORT = sys.argv[1], int(os.environ["PORT"])
with http.server.HTTPServer(("127.0.0.1", PORT), Hello) as server:
    print(f"{WHO} listens on http://127.0.0.1:{PORT}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        if "noisy" in sys.argv:
            raise
"""

PYTHON = shlex.quote(sys.executable)  # a path may have a space

Follow = Callable[[str], Walkthrough]


@pytest.fixture
def follow(tmp_path: Path) -> Follow:
    """Reads a page in a folder that has one server, `python -m shared.hello NAME`."""
    package = tmp_path / "shared"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "hello.py").write_text(SERVER)

    def read(text: str) -> Walkthrough:
        page = tmp_path / "guide.md"
        page.write_text(textwrap.dedent(text).replace("python -m", f"{PYTHON} -m"))
        with Walkthrough(tmp_path, f"{PYTHON} -m shared.hello default") as reader:
            reader.read(read_page(page))
        return reader

    return read


def test_true_page_is_followed_to_its_end(follow: Follow, tmp_path: Path) -> None:
    """Commands run in order, in the page's folder; dots stand for what differs."""
    follow("""
        ```console
        $ echo one > made.txt
        $ cat made.txt; \\
          echo two
        o...
        two
        ```

        ```python
        print(open("made.txt").read(), end="")
        ```
        ```output
        one
        ```
    """)
    assert (tmp_path / "made.txt").read_text() == "one\n"


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        ("```console\n$ true\n$ echo one\ntwo\n```", "guide.md:3: expected\ntwo"),
        ("```console\n$ false\n```", "guide.md:2: exit 1"),
        ("```sh\nls\n```", "guide.md:2: commands go in a console block"),
        ("```python\nassert False\n```", "guide.md:2: exit 1"),
        ("```python\nprint(1)\n```\n```output\n2\n```", "guide.md:2: expected\n2"),
        ("```console\n$ python -m shared.nothing\n```", "does not listen"),
        ("```console\n$ python -m shared.hello Ann\nBob listens\n```", "expected\nBob"),
    ],
)
def test_untruth_is_named_with_its_line(follow: Follow, block: str, complaint: str) -> None:
    """What fails, prints something else or would not be run stops the reader there."""
    with pytest.raises(Misled) as misled:
        follow(block)
    assert complaint in str(misled.value)


def test_servers_of_a_page_listen_where_it_says(follow: Follow) -> None:
    """A server starts in the background, is talked to at the page's address, and then stops."""
    reader = follow("""
        ```console
        $ python -m shared.hello Ann
        Ann listens on http://127.0.0.1:8000
        $ curl http://localhost:8000/
        hello from Ann...
        $ PORT=9000 python -m shared.hello Bob
        Bob listens on http://127.0.0.1:9000
        $ curl http://127.0.0.1:9000/
        hello from Bob...
        $ python -m shared.hello Eve
        $ curl http://127.0.0.1:8000/
        hello from Eve...
        ```
    """)
    assert 8000 not in reader.ports.values()
    assert all(server.process.returncode is not None for server in reader.servers.values())


def test_server_must_end_quietly(follow: Follow) -> None:
    """A traceback after Ctrl-C fails the page."""
    with pytest.raises(Misled, match="ends in a traceback"):
        follow("```console\n$ python -m shared.hello noisy\n```")


def test_server_must_end_on_ctrl_c(follow: Follow, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not is ended, and the page fails."""
    monkeypatch.setattr(walkthrough, "LAST_WORDS", 0.2)
    with pytest.raises(Misled, match="does not end on Ctrl-C"):
        follow("```console\n$ python -m shared.hello stubborn\n```")


def test_page_may_talk_to_a_service_that_it_did_not_start(
    follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default service answers on port 8000, without the keys of whoever runs the tests."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-someone")
    follow("""
        ```python
        from urllib.request import urlopen

        print(urlopen("http://127.0.0.1:8000/").read().decode())
        ```
        ```output
        hello from default, key None
        ```
    """)


def test_excerpts_and_illustrations_are_not_run(follow: Follow) -> None:
    """A quotation is compared with its source instead, and an illustration is only to be read."""
    follow("""
        ```python
        # shared/hello.py
        raise SystemExit(1)
        ```

        ```python illustration
        except: ...
        ```
    """)


def test_long_make_targets_are_rehearsed(follow: Follow, tmp_path: Path) -> None:
    """`make test` inside a page must exist, but does not run the tests inside the tests."""
    (tmp_path / "Makefile").write_text("test:\n\ttouch ran\n")
    follow("```console\n$ make test\n```")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(Misled):
        follow("```console\n$ make bench\n```")


def test_program_beside_tells_others(follow: Follow, tmp_path: Path) -> None:
    """What runs beside the service is ended with the page, and `NAME=...` is what it printed."""
    package = tmp_path / "exercises/one"
    package.mkdir(parents=True)
    (package / "postgres.py").write_text(
        "import time\nprint(\"DATABASE_URL='at home'\")\n"
        "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    open('ended', 'w')\n"
    )
    follow(
        """
        ```console
        $ python -m exercises.one.postgres
        $ DATABASE_URL=... sh -c 'echo "$DATABASE_URL"'
        at home
        ```
        """
    )
    assert (tmp_path / "ended").exists()


def test_nothing_has_told_it(follow: Follow) -> None:
    """A `NAME=...` that nothing prints is found."""
    with pytest.raises(Misled, match="nothing has printed DATABASE_URL"):
        follow("```console\n$ DATABASE_URL=... true\n```")
