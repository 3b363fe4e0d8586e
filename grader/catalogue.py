"""The exercises: what `exercise.toml` says, checked, and found again by a short name."""

import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import SequenceMatcher
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

ENOUGH = 4
"""Letters of a word that say something about an exercise's name."""

ALIKE = 0.85
"""A letter or two in a short name: `medium/ex22` is like `medium/ex02`, `medium/ex99` is not."""

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
    """The trainer guide's section, as an anchor; the exercise's unless said."""


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

    guide: str | None = None
    """Of the misconceptions that name none."""

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
    def _hand_on(cls, written: dict[str, Any]) -> dict[str, Any]:
        """What is said once for the exercise holds for each that says nothing else."""
        handed = dict(written)
        for what, to in (("criterion", "checks"), ("guide", "misconceptions")):
            of_all, each = written.get(what), written.get(to)
            if of_all and isinstance(each, list):
                handed[to] = [{**one, what: one.get(what) or of_all} for one in each]
        return handed

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
    """What people call medium/ex02, or by a path into it, in any case. Raises GradingError."""
    if not name.strip():
        raise GradingError("Name the exercise, such as EX=medium/ex02; make progress lists them.")
    folders = {
        f"{path.parent.parent.name}/{path.parent.name}": path.parent
        for path in (root / "exercises").glob("*/*/exercise.toml")
    }
    ids = sorted(folders, key=_in_order)
    track, wanted = _called(name)
    here = [id_ for id_ in ids if track in ("", id_.partition("/")[0])]
    matches = [id_ for id_ in here if wanted in (_home(id_), _home(id_).partition("_")[0])]
    matches = matches or [id_ for id_ in here if _home(id_).startswith(wanted)]
    if len(matches) == 1:
        return load(folders[matches[0]], root)
    if matches:
        raise GradingError(f"EX={name} could be {_listed(matches)}; type more of it.")
    if near := _near(track, wanted, ids):
        raise GradingError(f"There is no exercise EX={name}. Did you mean {_listed(near)}?")
    raise GradingError(f"There is no exercise EX={name}; there are: {_listed(ids, ', ')}.")


def _called(name: str) -> tuple[str, str]:
    """The track and the exercise's folder, as far as they are named: ex2 is ex02."""
    parts = [part for part in re.split(r"[/\\]", name.strip().lower()) if part not in ("", ".")]
    tracks = [at for at, part in enumerate(parts) if part in TRACKS]
    if tracks:
        parts = parts[tracks[-1] :]
    elif len(parts) == 1:
        parts = ["", *parts]
    track, folder, *_ = [*parts, "", ""]
    return track, re.sub(r"^ex(\d)(?!\d)", r"ex0\1", folder)


def _in_order(id_: str) -> tuple[bool, bool, str]:
    return not id_.startswith(TRACKS[0]), _home(id_) != "lab", id_


def _home(id_: str) -> str:
    return id_.partition("/")[2]


def _near(track: str, wanted: str, ids: Sequence[str]) -> list[str]:
    """Those that have the word in their name, or else those that differ by a letter or two."""
    named = [id_ for id_ in ids if track in ("", id_.partition("/")[0]) and wanted in id_]
    if named and len(wanted) >= ENOUGH:
        return named
    typed = "/".join(filter(None, (track, wanted)))
    alike = {id_: max(_likeness(typed, id_), _likeness(typed, _short(id_))) for id_ in ids}
    return [id_ for id_ in ids if alike[id_] == max(*alike.values(), ALIKE)]


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()


def _short(id_: str) -> str:
    return id_.partition("_")[0]


def _listed(ids: Iterable[str], between: str = " or ") -> str:
    """As people type them."""
    return between.join(map(_short, ids)) or "none"
