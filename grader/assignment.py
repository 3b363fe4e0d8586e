"""What the runner tells a judge: which submission, how to run it, and where the results go."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

VARIABLE = "GRADER_ASSIGNMENTS"
"""The judge's end of a socket, as a number; no submission sees this environment."""

MEMORY = "GRADER_MEMORY"
"""A folder in memory, for many files that are soon gone, if there is one."""

MAX_BYTES = 65536
LANE_FDS = 2
MAX_LANES = 16


class Assignment(BaseModel):
    """One submission."""

    warm: Path
    tier: int
    workspace: Path
    seed: int
    first_failure_only: bool = False
    only: Sequence[str] = ()
    """Of the checks; all of them if there are none."""


@dataclass(frozen=True)
class Lane:
    """One of the judges that share an assignment. File descriptors to write to."""

    results: int
    printed: int


def send(connection: socket.socket, assignment: Assignment, lanes: Sequence[Lane]) -> None:
    """Returns when it has been taken; OSError if the judge has gone."""
    fds = [fd for lane in lanes for fd in (lane.results, lane.printed)]
    socket.send_fds(connection, [assignment.model_dump_json().encode()], fds)
    connection.recv(1)


def receive(connection: socket.socket) -> tuple[Assignment, list[Lane]] | None:
    """Waits. None when there are to be no more."""
    data, fds, _, _ = socket.recv_fds(connection, MAX_BYTES, MAX_LANES * LANE_FDS)
    if not data:
        return None
    connection.sendall(b"!")
    lanes = [Lane(*fds[at : at + LANE_FDS]) for at in range(0, len(fds), LANE_FDS)]
    return Assignment.model_validate_json(data), lanes
