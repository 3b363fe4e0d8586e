"""What a submission hands in to be read, and not to be run: text, within bounds."""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

MOST_CHARACTERS = 64 * 1024

TODO = re.compile(r"(TODO \d+) \(([\w, ]+)\)(: [^\n]*)")
"""As a starter has it, with the checks that it keeps from passing; nothing is to do here."""


class Unreadable(AssertionError):
    """What is no document of its kind. An assertion, since it is the submission that is wrong."""


def read_text(path: Path) -> str:
    """Raises Unreadable, also when there is no such file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Unreadable(f"There is no {path.name}.") from None
    except UnicodeDecodeError:
        raise Unreadable(f"{path.name} is not UTF-8: save it as UTF-8 in your editor.") from None
    if len(text) > MOST_CHARACTERS:
        raise Unreadable(f"{path.name} has more than {MOST_CHARACTERS} characters.")
    return text


def todo_for(check: str, files: Sequence[Path]) -> str:
    """What the files themselves say is still to do for a check: `TODO 3 (limits, pinned): ...`."""
    for path in files:
        with suppress(Unreadable):
            for number, checks, what in TODO.findall(read_text(path)):
                if check in checks.split(", "):
                    return f"{number}{what}"[:300]
    return ""
