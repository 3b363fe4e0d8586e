"""How the log looks: a record is one line, and what belongs to it follows behind a bar. Given."""

import logging


class Blocks(logging.Formatter):
    """So that nobody can mistake one record's traceback for another's, or forge a record."""

    def format(self, record: logging.LogRecord) -> str:
        first, *rest = super().format(record).splitlines() or [""]
        return "\n".join([first, *(f"  | {line}" for line in rest)])


def log_in_blocks() -> None:
    """Everything that is logged through `logging` goes to standard error like this."""
    handler = logging.StreamHandler()
    handler.setFormatter(Blocks("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
