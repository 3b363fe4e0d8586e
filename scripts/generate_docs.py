"""`make docs`: write anew what pages take from the code, so that it is true by construction.

A page has blocks between `<!-- generated: NAME ARGUMENTS -->` and `<!-- /generated -->`; some files
are generated whole. The tests compare both with what this would write.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts import diagrams, misconceptions, postman, reference
from scripts.check_docs import ROOT, pages_of

BLOCK = re.compile(r"(<!-- generated: ([a-z ]+?)( \S+)? -->\n).*?(<!-- /generated -->)", re.DOTALL)

BLOCKS: dict[str, Callable[[str], str]] = {
    "misconceptions": misconceptions.table,
    "graph": diagrams.graph,
    "request path": diagrams.request_path,
}
"""What a block may be called; the word after its name, if any, is the argument."""

FILES: dict[str, Callable[[], str]] = {
    "docs/reference.md": reference.page,
    "docs/postman/medium.json": lambda: postman.collection("medium"),
    "docs/postman/advanced.json": lambda: postman.collection("advanced"),
}


def generated(root: Path = ROOT) -> Iterator[tuple[Path, str]]:
    """Every file that holds something generated, and what should be in it."""
    for path in pages_of(root):
        text = path.read_text(encoding="utf-8")
        if BLOCK.search(text):
            yield path, BLOCK.sub(_fresh, text)
    for name, write in FILES.items():
        yield root / name, write()


def _fresh(block: re.Match[str]) -> str:
    return f"{block[1]}{BLOCKS[block[2]]((block[3] or '').strip())}\n{block[4]}"


def main() -> None:
    for path, text in generated():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"{path.relative_to(ROOT)} is new.")


if __name__ == "__main__":
    main()
