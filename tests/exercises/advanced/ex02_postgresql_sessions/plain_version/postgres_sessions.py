"""The course's own sessions: one SQLite file, which is a replica's own."""

import tempfile
from datetime import timedelta
from pathlib import Path

from advanced.app.sessions import SqliteSessions


class PostgresSessions(SqliteSessions):
    def __init__(
        self,
        url: str,
        *,
        ttl: timedelta,
        limit: int,
        lease: float,
        sweep_every: float,
        pool_size: int,
        patience: float,
    ) -> None:
        path = Path(tempfile.mkdtemp()) / "sessions.db"
        super().__init__(path, ttl=ttl, limit=limit, lease=lease, patience=patience)
