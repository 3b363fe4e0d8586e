"""``python -m bench``: these services beside two plain ones, on one model, under one load.

Prints medians and ratios to the bare LangGraph app. A missed target or a failed request is shown;
it is an error only with --strict.
"""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import FIGURES, FULL, QUICK
from bench.hardened import HARDENED
from bench.report import heading, machine_facts, records, section
from bench.rounds import measure_all
from bench.service import Service

BARE = Service("bare", "bench.baselines.bare_langgraph:app", baseline=True)
KNOWN = {
    "medium": Service("medium", "medium.app.main:app"),
    "advanced": HARDENED,
    "passthrough": Service("passthrough", "bench.baselines.passthrough:app", baseline=True),
}

SERVICE_HELP = f"beside the bare app, instead of {' and '.join(KNOWN)}; repeatable"


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    if options.list:
        print("\n\n".join(f"{figure.name}\n{figure.definition}" for figure in FIGURES))
        return 0
    try:
        return asyncio.run(run(options))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("stopped; nothing is left running", file=sys.stderr)
        return 130


async def run(options: argparse.Namespace) -> int:
    """Everything started in here is stopped in here, also on Ctrl-C and SIGTERM."""
    if task := asyncio.current_task():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    facts = machine_facts(options.rounds, options.quick)
    print(heading(facts), flush=True)
    services = [*(options.service or KNOWN.values()), BARE]
    figures = [figure for figure in FIGURES if figure.name in (options.only or figure.name)]
    sizes = QUICK if options.quick else FULL
    results: list[dict[str, Any]] = []
    async for outcomes in measure_all(figures, services, options.rounds, sizes, say):
        print(section(outcomes, outcomes[-1]), flush=True)
        results += records(outcomes, outcomes[-1])
    if options.json:
        options.json.write_text(json.dumps({"facts": facts, "results": results}, indent=1) + "\n")
    return exit_code(results, options.strict)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=positive, default=3, metavar="N", help="rounds per figure (3)")
    add("--quick", action="store_true", help="small loads: shows that it runs, measures little")
    add(
        "--only", action="append", choices=[f.name for f in FIGURES], help="this figure; repeatable"
    )
    add("--service", action="append", type=service, metavar="NAME[=MODULE:APP]", help=SERVICE_HELP)
    add("--json", type=Path, metavar="FILE", help="write every round's values there too")
    add("--strict", action="store_true", help="exit 1 if a target is missed or a request failed")
    add("--list", action="store_true", help="print the figures and what exactly they are")
    return parser.parse_args(argv)


def service(text: str) -> Service:
    name, _, app = text.partition("=")
    if app:
        return Service(name, app)
    if name not in KNOWN:
        raise argparse.ArgumentTypeError(
            f"{name} is none of {', '.join(KNOWN)}; say NAME=MODULE:APP"
        )
    return KNOWN[name]


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least one round")
    return number


def exit_code(results: Sequence[dict[str, Any]], strict: bool) -> int:
    """With `strict` 1 when a target is missed or a request failed, else 0."""
    bad = any(result["failures"] or result["holds"] is False for result in results)
    return int(strict and bad)


def say(progress: str) -> None:
    """Where we are, for whoever waits; not part of the report."""
    if sys.stderr.isatty():
        print(f"\r{progress:<60}\r", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
