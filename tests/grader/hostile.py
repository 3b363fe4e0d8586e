"""The hostile submissions: each is the starter of exercise 2 with an attack built in."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from grader.catalogue import ROOT, Exercise, find, load

HERE = Path(__file__).parent
ATTACKS = sorted((HERE / "submissions").glob("*.py"))
HOOKS = """
async def in_a_call() -> None: ...


async def in_a_stream():
    return
    yield


"""


def make_exercise(folder: Path) -> Exercise:
    """Exercise 2 with the small suite in `target/`, in a copy of its folder."""
    original = find("medium/ex02")
    copy = folder / "exercises" / "medium" / original.folder.name
    shutil.copytree(original.folder, copy, ignore=shutil.ignore_patterns("test_*", "__pycache__"))
    shutil.copytree(HERE / "target", copy, dirs_exist_ok=True)
    shutil.copy(ROOT / "exercises/conftest.py", folder / "exercises")
    return load(copy)


def armed(attack: Path) -> bytes:
    """The starter, with the attack in front and its hooks called from the routes."""
    starter = (find("medium/ex02").folder / "rate_limit.py").read_text()
    in_a_call = "        if (answer := await in_a_call()) is not None:\n            return answer\n"
    in_a_stream = "        async for chunk in in_a_stream():\n            yield chunk\n"
    starter = starter.replace(
        '        raise NotImplementedError("TODO 2',
        in_a_call + '        raise NotImplementedError("TODO 2',
    ).replace(
        '        raise NotImplementedError("TODO 3',
        in_a_stream + '        raise NotImplementedError("TODO 3',
    )
    assert starter.count("in_a_") == 2
    return (HOOKS + attack.read_text() + "\n" + starter).encode()


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.open(path.parent, os.O_RDONLY)
        try:
            bound.bind(f"/proc/self/fd/{here}/{path.name}")
        finally:
            os.close(here)


def write_huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 30)


NO_FILES: dict[str, Callable[[Path], object]] = {
    "symlink_to_the_solution": lambda path: path.symlink_to(
        ROOT / "solutions/medium/ex02_rate_limit_per_session/rate_limit.py"
    ),
    "symlink_to_a_secret": lambda path: path.symlink_to("/etc/shadow"),
    "symlink_to_itself": lambda path: path.symlink_to(path),
    "named_pipe": os.mkfifo,
    "folder": lambda path: path.mkdir(),
    "socket": make_socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "huge_and_sparse": write_huge,
}
"""What may lie where a file should be."""
