"""What is told about a submission names its files as it does, and nothing of this machine's."""

import re
import sys
import sysconfig
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from grader.catalogue import ROOT

COURSE = re.compile(r"(?<![\w./-])/course/")
"""Where the walls have the submission."""

SYSTEMS = (Path("/"), Path("/usr"), Path("/usr/local"))
"""As everywhere, and so nobody's own."""


@cache
def _always() -> dict[Path, str]:
    paths = sysconfig.get_paths()
    named = {Path(paths[kind]): Path(paths[kind]).name for kind in ("purelib", "stdlib")}
    ours = dict.fromkeys((ROOT, Path(sys.prefix), Path(sys.base_prefix)), "")
    every = {**ours, Path.home(): "~", **named}
    every |= {path.resolve(): name for path, name in every.items()}
    return {path: name for path, name in every.items() if path not in SYSTEMS}


def without_places(*workplaces: Path) -> Callable[[Any], Any]:
    """Takes them, and this machine's folders, out of texts, and out of dicts and lists of them."""
    known = {**_always(), **dict.fromkeys(workplaces, "")}
    names = {str(path): name for path, name in known.items()}
    longest_first = sorted(names, key=len, reverse=True)
    pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})(/|(?![\\w-]|\\.\\w))")

    def found(match: re.Match[str]) -> str:
        name = names[match[1]]
        return name + match[2] if name else "" if match[2] else "."

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return COURSE.sub("", pattern.sub(found, value))
        if isinstance(value, Mapping):
            return {key: clean(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [clean(each) for each in value]
        return value

    return clean
