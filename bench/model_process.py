"""The child's side of `bench.model`: reads one Script per line and says when it is in force.

It ends when the pipe closes, so that it cannot outlive the bench.
"""

import json
import sys

from bench.model import Script
from shared.offline_model import OfflineModel, Scenario


def main() -> None:
    with OfflineModel(keep=False) as model:
        for line in sys.stdin:
            script = Script(**json.loads(line))
            model.respond(
                Scenario(
                    pieces=script.pieces,
                    first_token_delay=script.delay,
                    token_delay=script.delay,
                )
            )
            print(model.base_url, flush=True)


if __name__ == "__main__":
    main()
