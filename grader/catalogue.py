"""The exercises: what `exercise.toml` says, checked, and found again by a short name."""

import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

ROOT = Path(__file__).resolve().parents[1]

Track = Literal["medium", "advanced"]
TRACKS = ("medium", "advanced")

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


def _inside(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or str(pure) != path or path == ".":
        raise ValueError("must be a plain path, without .. and not from the root")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]


class GradingError(Exception):
    """Nothing can be graded; the text is one sentence that says what to do."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class File(Strict):
    """A file that the student may change, and no other is taken from a submission."""

    path: RelativePath
    """In the exercise's folder."""

    reference: RelativePath | None = None
    """The course's own file that solves it: hidden from the submission. From the root."""

    place: RelativePath | None = None
    """Where it lies when it is served, from the root; as a rule in the exercise's folder."""

    optional: bool = False
    step: int | None = Field(default=None, ge=1)
    """A lab's file: the part in which work on it begins; `make checkpoint` goes by it."""


class Serve(Strict):
    """How a submission is started."""

    app: str | None = None
    """`module:attribute`, the module in the exercise's folder unless it is `absolute`."""

    factory: bool = False
    module: str | None = None
    """Instead of an app: run as with `python -m`."""

    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    absolute: bool = False
    """`app` is named from the root, as in `medium.app.main:app`."""

    start_seconds: float = Field(default=10, gt=0, le=60)
    memory_mb: int = Field(default=1024, ge=128, le=8192)


class Criterion(Strict):
    """One of the hand-out's assessment criteria."""

    id: Name
    track: Literal["medium", "advanced"]
    title: Text


@cache
def criteria() -> tuple[Criterion, ...]:
    with Path(__file__).with_name("criteria.toml").open("rb") as file:
        return tuple(map(Criterion.model_validate, tomllib.load(file)["criterion"]))


def _known_criterion(id_: str) -> str:
    if id_ not in {criterion.id for criterion in criteria()}:
        raise ValueError("is none of those in grader/criteria.toml")
    return id_


CriterionId = Annotated[str, AfterValidator(_known_criterion)]


class Check(Strict):
    id: Name
    points: int = Field(ge=1, le=100)
    proves: Text
    """One sentence: what holds when this check passes."""

    next: Text
    """The next thing to try when it does not."""

    criterion: CriterionId | None = None
    """Which of the hand-out's assessment criteria it belongs to; the exercise's unless said."""

    link: str | None = None
    """A page that helps, from the root, with an anchor; the exercise's README otherwise."""

    seconds: float = Field(default=15, gt=0, le=120)


class Misconception(Strict):
    """A known wrong idea, recognised by exactly the checks that it fails."""

    id: Name
    idea: Text
    fails: frozenset[Name] = Field(min_length=1)
    tell: Text
    """What to tell the student."""

    guide: str | None = None
    """The trainer guide's section, as an anchor."""


class Exercise(Strict):
    """One `exercise.toml`."""

    title: Text
    track: Track
    minutes: int = Field(ge=1, le=600)
    prerequisites: tuple[str, ...] = ()
    include: tuple[RelativePath, ...] = ()
    """More of the course that the served app needs, from the root, beside shared and the track."""

    leave_out: tuple[RelativePath, ...] = ()
    """Parts of the course that would answer the exercise if they were imported, from the root."""

    files: tuple[File, ...] = Field(min_length=1)
    serve: Serve | None = None
    seconds: float = Field(default=60, gt=0, le=600)
    """For all checks together; what is left over then has timed out."""

    criterion: CriterionId | None = None
    """Of the checks that name none."""

    checks: tuple[Check, ...] = Field(min_length=1)
    hints: tuple[Text, ...] = Field(min_length=3)
    misconceptions: tuple[Misconception, ...] = ()

    folder: Path = Field(exclude=True)
    root: Path = Field(exclude=True)
    private: Path | None = Field(default=None, exclude=True)
    """Where a suite of the trainer's own lies, which `checks` are then those of."""

    share: int = Field(default=100, exclude=True)
    """Of a private suite: how many of the exercise's hundred points it decides."""

    @property
    def id(self) -> str:
        """As people type it in full: medium/ex02_rate_limit_per_session."""
        return f"{self.track}/{self.folder.name}"

    @property
    def key(self) -> str:
        """The id, and another one for its private suite."""
        return f"{self.id} private" if self.private else self.id

    @property
    def short(self) -> str:
        """As people type it: medium/ex02."""
        return f"{self.track}/{self.folder.name.partition('_')[0]}"

    @property
    def home(self) -> PurePosixPath:
        """The exercise's folder, from the root."""
        return PurePosixPath("exercises", self.track, self.folder.name)

    @property
    def suite(self) -> list[Path]:
        return sorted((self.private or self.folder).glob("test_*.py"))

    @property
    def solution(self) -> Path:
        return self.root / "solutions" / self.track / self.folder.name

    def check(self, id_: str) -> Check:
        return next(check for check in self.checks if check.id == id_)

    def misconception(self, failed: Sequence[str]) -> Misconception | None:
        """The one whose checks are exactly those that failed."""
        matches = (known for known in self.misconceptions if known.fails == frozenset(failed))
        return next(matches, None)

    @model_validator(mode="before")
    @classmethod
    def _hand_on_the_criterion(cls, written: dict[str, Any]) -> dict[str, Any]:
        of_all, checks = written.get("criterion"), written.get("checks")
        if not of_all or not isinstance(checks, list):
            return written
        named = [{**c, "criterion": c.get("criterion") or of_all} for c in checks]
        return {**written, "checks": named}

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        ids = [check.id for check in self.checks]
        if len(set(ids)) < len(ids):
            raise ValueError("two checks have the same id")
        if (points := sum(check.points for check in self.checks)) != 100:
            raise ValueError(f"the points of all checks add up to {points}, not to 100")
        for known in self.misconceptions:
            if unknown := known.fails - set(ids):
                raise ValueError(
                    f"misconception {known.id} fails {min(unknown)}, which is no check"
                )
        fails = [known.fails for known in self.misconceptions]
        if len(set(fails)) < len(fails):
            raise ValueError(
                "two misconceptions fail the same checks, so nobody can tell them apart"
            )
        return self


class PrivateSuite(Strict):
    """One `private.toml`: checks that students do not have."""

    share: int = Field(ge=1, le=100)
    seconds: float = Field(default=60, gt=0, le=600)
    checks: tuple[Check, ...] = Field(min_length=1)


def is_suite(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("exercise.toml", "private.toml"))


def load(folder: Path, root: Path = ROOT) -> Exercise:
    """The exercise in `folder`, or with the private suite there. Raises GradingError."""
    if (folder / "private.toml").exists():
        return _load_private(folder, root)
    with _mistakes_told(path := folder / "exercise.toml"):
        written = tomllib.loads(path.read_text(encoding="utf-8"))
        return Exercise.model_validate({**written, "folder": folder, "root": root})


def _load_private(folder: Path, root: Path) -> Exercise:
    exercise = find(f"{folder.parent.name}/{folder.name}", root)
    with _mistakes_told(path := folder / "private.toml"):
        private = PrivateSuite.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        return Exercise.model_validate(
            {
                **exercise.model_dump(exclude={"misconceptions", "checks", "seconds"}),
                "checks": [check.model_dump() for check in private.checks],
                "seconds": private.seconds,
                "folder": exercise.folder,
                "root": root,
                "private": folder,
                "share": private.share,
            }
        )


@contextmanager
def _mistakes_told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise GradingError(f"Cannot read {path}: {exc.strerror}.") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise GradingError(f"{path} is not TOML: {exc}.") from exc
    except ValidationError as exc:
        faults = "; ".join(_fault(error["loc"], error["msg"]) for error in exc.errors())
        raise GradingError(f"{path} needs mending: {faults}.") from exc


def _fault(place: tuple[str | int, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    return f"{'.'.join(map(str, place))}: {message}" if place else message


def all_exercises(root: Path = ROOT) -> list[Exercise]:
    """In the order in which they are done: medium first, and in each track the lab."""
    found = [load(path.parent, root) for path in (root / "exercises").glob("*/*/exercise.toml")]
    return sorted(found, key=lambda exercise: (TRACKS.index(exercise.track), _lab_first(exercise)))


def _lab_first(exercise: Exercise) -> tuple[bool, str]:
    return exercise.folder.name != "lab", exercise.folder.name


def private_suites(folder: Path, root: Path = ROOT) -> list[Exercise]:
    """Those below `folder`, as <track>/<exercise>/private.toml. Raises GradingError."""
    found = [load(path.parent.resolve(), root) for path in sorted(folder.glob("*/*/private.toml"))]
    if not found:
        raise GradingError(f"PRIVATE={folder} has no <track>/<exercise>/private.toml.")
    return found


def find(name: str, root: Path = ROOT) -> Exercise:
    """The exercise whose id begins with `name`, such as medium/ex02. Raises GradingError."""
    if not name:
        raise GradingError("Name the exercise, such as EX=medium/ex02; make progress lists them.")
    wanted = name.strip("/").removeprefix("exercises/")
    folders = sorted(path.parent for path in (root / "exercises").glob("*/*/exercise.toml"))
    ids = {f"{folder.parent.name}/{folder.name}": folder for folder in folders}
    matches = [id_ for id_ in ids if wanted and id_.startswith(wanted)]
    if wanted in ids:
        matches = [wanted]
    if len(matches) == 1:
        return load(ids[matches[0]], root)
    if matches:
        raise GradingError(f"EX={name} could be {' or '.join(matches)}; type more of it.")
    there = ", ".join(sorted({id_.partition("_")[0] for id_ in ids})) or "none"
    raise GradingError(f"There is no exercise EX={name}; there are: {there}.")
