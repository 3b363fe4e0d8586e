"""The docs check finds what a page promises and the repository does not keep."""

from pathlib import Path

import pytest

from scripts.check_docs import find_problems


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside.md").touch()
    root = tmp_path / "repository"
    (root / "app").mkdir(parents=True)
    (root / "Makefile").write_text("medium: ready\n\ttrue\n.PHONY: medium\n")
    (root / "app/main.py").write_text("def main():\n    first()\n    second()\n    third()\n")
    (root / "app/notes.md").write_text("# Notes\n\n## It's `one_thing`, twice\n\n## Notes\n")
    return root


def problems(root: Path, text: str) -> list[str]:
    (root / "README.md").write_text(text)
    return list(find_problems(root))


@pytest.mark.parametrize(
    "text",
    [
        "[notes](app/notes.md), [it](app/notes.md#its-one_thing-twice) [2](app/notes.md#notes-1)",
        "# Top\n\n[up](#top) [dir](app/) [out](https://example.org/x) ![](app/main.py)",
        '<a id="here"></a> [here](#here)',
        "`[not](a-link.md)`",
        "```python\nawait service()\n```",
        "```python illustration\nexcept Exception: ...\n```",
        "```python\n# app/main.py\ndef main():\n    ...\n    third()\n```",
        "```console\n$ make -s medium PORT=9000\nmake nothing\n```",
        "```sh\ncd app && python main.py # then\nmake medium & ls app/main.py\n```",
        "```sh\ncurl -H 'Accept: text/html' http://localhost/a/b#c -o /tmp/x .venv/bin/python\n```",
        "```text\nmake nothing missing/file.py\n```",
    ],
)
def test_true_page_passes(root: Path, text: str) -> None:
    """What is there, compiles or is not ours to promise is no problem."""
    assert problems(root, text) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[x](app/gone.md)", "README.md:1: app/gone.md leads nowhere"),
        ("[x](../outside.md)", "README.md:1: ../outside.md leads nowhere"),
        ('\n\n<img src="gone.png">', "README.md:3: gone.png leads nowhere"),
        ("a [x][r]\n\n[r]: app/gone.md", "README.md:1: app/gone.md leads nowhere"),
        ("[x](app/notes.md#two)", "README.md:1: app/notes.md#two names no heading there"),
        ("# Top\n\n[x](#bottom)", "README.md:3: #bottom names no heading there"),
        ("```python\nx = 1\nx = = 2\n```", "README.md:3: this Python does not compile"),
        ("```python\n# app/gone.py\nx = 1\n```", "README.md:2: there is no app/gone.py"),
        ("```python\n# app/main.py\nsecond()\nfirst()\n```", "README.md:2: app/main.py reads diff"),
        ("```python\n# app/main.py\nfirst()\nthird()\n```", "README.md:2: app/main.py reads diff"),
        (
            "```console\nmake x\n$ make medium gone\n```",
            "README.md:3: the Makefile has no target gone",
        ),
        ("```bash\nls\ncat app/gone.py\n```", "README.md:3: there is no app/gone.py"),
        ("```sh\ncurl http://x/a#b -d @y app/gone.py\n```", "README.md:2: there is no app/gone.py"),
        ("```sh\ncd gone\n```", "README.md:2: there is no gone"),
        ("```sh\necho 'one\n```", "README.md:2: a shell cannot read this"),
    ],
)
def test_untruth_is_found_where_it_stands(root: Path, text: str, problem: str) -> None:
    """Each kind of untruth is reported once, with file and line."""
    found = problems(root, text)
    assert len(found) == 1
    assert found[0].startswith(problem)
