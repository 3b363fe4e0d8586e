"""Runs the offline model alone: `python -m shared.offline_model`."""

import argparse
import errno
import signal
import sys
import threading
from collections.abc import Sequence

from shared.offline_model.control import MODELS, OfflineModel
from shared.offline_model.scenarios import Scenario

IN_USE = (errno.EADDRINUSE, errno.EEXIST)
HOW_TO_USE = """\
The offline model is running. It needs no key and no network; Ctrl-C stops it.

  base URL   {base_url}{socket}
  model      {models}
  API key    {key_in_words}

Ask it something:

  curl -N {curl}{base_url}/chat/completions -H 'Authorization: Bearer {key}' \\
    -H 'Content-Type: application/json' -d '{{"model": "{model}", "stream": true,
    "messages": [{{"role": "user", "content": "Hello, what can you do?"}}]}}'

Or point any OpenAI client at it:

  export OPENAI_BASE_URL={base_url} OPENAI_API_KEY={key}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; 0 then, 1 with a sentence if it cannot listen."""
    options = _parser().parse_args(arguments)
    models = options.model or MODELS
    model = OfflineModel(
        host=options.host,
        port=options.port,
        uds=options.uds,
        api_key=options.api_key,
        models=models,
        keep=False,
    )
    model.respond(
        Scenario(first_token_delay=options.first_token_delay, token_delay=options.token_delay)
    )
    try:
        model.start()
    except OSError as exc:
        print(_way_out(exc, options), file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        print(_how_to_use(model, models, options.api_key), flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        print("The offline model has stopped.")
    finally:
        model.stop()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m shared.offline_model",
        description="An OpenAI-compatible model that runs offline, without a key.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
    parser.add_argument(
        "--port", type=_port, default=8001, help="port; 0 takes a free one (default: %(default)s)"
    )
    parser.add_argument("--uds", metavar="PATH", help="listen on this Unix socket instead")
    parser.add_argument("--api-key", metavar="KEY", help="the one key to accept (default: any)")
    parser.add_argument(
        "--model", action="append", help=f"a model name to answer to, can be repeated ({MODELS[0]})"
    )
    parser.add_argument(
        "--token-delay", type=_seconds, default=0.0, metavar="S", help="seconds between two tokens"
    )
    parser.add_argument(
        "--first-token-delay", type=_seconds, default=0.0, metavar="S", help="before the first one"
    )
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError("between 0 and 65535")
    return port


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("between 0 and 3600 seconds")
    return seconds


def _how_to_use(model: OfflineModel, models: Sequence[str], api_key: str | None) -> str:
    return HOW_TO_USE.format(
        base_url=model.base_url,
        socket=f"  (on the Unix socket {model.uds})" if model.uds else "",
        curl=f"--unix-socket {model.uds} " if model.uds else "",
        models=", ".join(models),
        model=models[0],
        key=api_key or "any",
        key_in_words="the one given" if api_key else "any text will do",
    )


def _way_out(exc: OSError, options: argparse.Namespace) -> str:
    if options.uds:
        return f"Cannot listen on {options.uds}: {exc.strerror or exc}. Choose another --uds path."
    if exc.errno in IN_USE:
        return (
            f"Port {options.port} is in use: stop what runs there, or choose another one"
            " with --port (0 takes a free one)."
        )
    return f"Cannot listen on {options.host}:{options.port}: {exc.strerror or exc}."


if __name__ == "__main__":
    sys.exit(main())
