"""`python -m exercises.serve medium/lab`, behind `make serve`: try your answer, with your files.

A lab's files are served in the place of the course's own, so that `shared.agent_service` is yours.
The advanced track's get a Redis of their own, unless REDIS_HOST names one.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path, PurePosixPath
from types import ModuleType

from advanced.embedded_redis import NoEmbeddedRedis, embedded_redis
from grader.catalogue import Exercise, GradingError, find
from grader.workspace import app_name
from shared import serve


class Yours(MetaPathFinder):
    """Finds the modules that are yours before anybody finds the course's."""

    def __init__(self, exercise: Exercise) -> None:
        self._files = {
            ".".join(PurePosixPath(file.place).with_suffix("").parts): exercise.folder / file.path
            for file in exercise.files
            if file.place and file.place.endswith(".py")
        }

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        file: Path | None = self._files.get(fullname)
        return spec_from_file_location(fullname, file) if file else None


def main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        sys.exit("Name the exercise to serve: make serve EX=medium/lab")
    try:
        exercise = find(arguments[0])
    except GradingError as exc:
        sys.exit(str(exc))
    if not (app := app_name(exercise)):
        sys.exit(f"{exercise.short} has nothing to serve; its README says how to try it.")
    if exercise.serve:
        os.environ.update({**exercise.serve.environment, **os.environ})
    sys.meta_path.insert(0, Yours(exercise))
    with redis_for(exercise):
        serve.main([app])


@contextmanager
def redis_for(exercise: Exercise) -> Iterator[None]:
    if exercise.track == "medium" or serve.given_settings().get("REDIS_HOST"):
        yield
        return
    try:
        with embedded_redis() as redis:
            os.environ.update(redis.environment)
            print(f"No REDIS_HOST: a Redis of our own runs on port {redis.port}.")
            yield
    except NoEmbeddedRedis as exc:
        sys.exit(f"{exc}: set REDIS_HOST to one of yours.")


if __name__ == "__main__":
    main(sys.argv[1:])
