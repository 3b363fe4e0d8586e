"""A PostgreSQL to try your answer with, until Ctrl-C; then it is gone. Given.

`.venv/bin/python -m exercises.advanced.ex02_postgresql_sessions.postgres`
"""

import signal
from contextlib import suppress

from grader.judge.servers import Postgres, private_folder


def main() -> None:
    with private_folder() as folder, Postgres(folder) as server, server.database() as database:
        url, address = database.forward["DATABASE_URL"]
        print(f"DATABASE_URL='{url.replace('127.0.0.1:{port}', '')}?host={address.parent}'")
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
