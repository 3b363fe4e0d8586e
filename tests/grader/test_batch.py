"""A batch, with a fake team: each answer once, only "could not tell" again, on where it was."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from grader.batch import TRIES, Batch, Done, Job, Suites
from grader.catalogue import GradingError, find
from grader.grade import CheckGrade, Grade
from grader.journal import NAME, Journal
from grader.report import Verdict
from grader.workspace import Intake

EXERCISE = find("medium/ex02")
SUITES = Suites()


def job(number: int) -> Job:
    return SUITES.job(EXERCISE, Intake({"rate_limit.py": b"x = %d\n" % number}), seed=7)


def grade(job: Job, verdict: Verdict = Verdict.PASSED, tier: int = 1) -> Grade:
    points = 100 if verdict is Verdict.PASSED else 0
    check = CheckGrade(id="at_once", verdict=verdict, points=100, earned=points)
    return Grade(
        exercise=job.exercise.id,
        suite=job.suite,
        seed=job.seed,
        files={},
        checks=(check,),
        misconception=None,
        tier=tier,
    )


def passes(job: Job) -> Done:
    return Done(job, grade(job))


def nobody_can_tell(job: Job) -> Done:
    return Done(job, grade(job, Verdict.COULD_NOT_TELL), again=True)


@dataclass
class FakeTeam:
    """Answers at once, in turn, with what it is given; and remembers what it was asked."""

    answers: Callable[[Job], Done] = passes
    at_once: int = 2
    started: list[str] = field(default_factory=list)
    prepared: int = 0

    def prepare(self) -> None:
        self.prepared += 1

    def start(self, job: Job, done: Callable[[Done], None]) -> None:
        self.started.append(job.key)
        done(self.answers(job))

    def stop(self) -> None:
        pass


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path, lambda: 5) as journal:
        yield journal


def run(team: FakeTeam, journal: Journal, jobs: Sequence[Job], accept_tier: int = 3) -> list[Done]:
    told: list[Done] = []
    done = Batch(team, journal, told.append, accept_tier).run(jobs)
    assert {each.job.key for each in told} <= done.keys()
    return list(done.values())


def test_each_once(journal: Journal) -> None:
    """Answers that are the same bytes are graded once; the order is the given one."""
    team, jobs = FakeTeam(), [job(1), job(2), job(1), job(3)]
    assert [each.job.key for each in run(team, journal, jobs)] == [
        job(number).key for number in (1, 2, 3)
    ]
    assert len(team.started) == 3


def test_what_a_job_is() -> None:
    """Another file, another seed, or something that is no file: another job."""
    files = {"rate_limit.py": b"x = 1\n"}
    others = [
        SUITES.job(EXERCISE, Intake(files), seed=8),
        SUITES.job(EXERCISE, Intake({}), seed=7),
        SUITES.job(EXERCISE, Intake({}, tampered=["it is a link"]), seed=7),
        SUITES.job(find("medium/ex04"), Intake(files), seed=7),
    ]
    assert len({job(1).key, *(other.key for other in others)}) == 5


def test_not_graded_again(tmp_path: Path) -> None:
    """What the journal knows is not graded again, nobody is made ready, and the seed stays."""
    with Journal(tmp_path, lambda: 5) as journal:
        run(FakeTeam(), journal, [job(1), job(2)])
    team = FakeTeam()
    with Journal(tmp_path, lambda: 6) as journal:
        assert journal.seed == 5
        kept = run(team, journal, [job(1), job(2)])
        assert [each.kept for each in kept] == [True, True]
        assert (team.started, team.prepared) == ([], 0)
        run(team, journal, [job(1), job(3)])
    assert team.started == [job(3).key]


def test_weaker_walls_are_graded_again(journal: Journal) -> None:
    """What was graded below the tier that is asked for does not count."""
    run(FakeTeam(lambda job: Done(job, grade(job, tier=3))), journal, [job(1)])
    assert run(FakeTeam(), journal, [job(1)], accept_tier=1)[0].grade == grade(job(1))


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_line_that_was_cut_short(tmp_path: Path, cut: int) -> None:
    """Killed while it wrote: that one is graded again, and the lines after it are whole."""
    with Journal(tmp_path, lambda: 5) as journal:
        run(FakeTeam(at_once=1), journal, [job(1), job(2)])
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:-cut])
    team = FakeTeam()
    for _ in range(2):
        with Journal(tmp_path, lambda: 6) as journal:
            run(team, journal, [job(1), job(2)])
    assert len(team.started) == 1


def test_damage_in_the_middle(tmp_path: Path) -> None:
    """A line that cannot be read is as if it were not there; a lost beginning is a new one."""
    with Journal(tmp_path, lambda: 5) as journal:
        run(FakeTeam(at_once=1), journal, [job(1), job(2)])
    path = tmp_path / NAME
    first, second, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b"\xff{}\n" + third)
    with Journal(tmp_path, lambda: 6) as journal:
        team = FakeTeam()
        run(team, journal, [job(1), job(2)])
        assert len(team.started) == 1
    path.write_bytes(b"nothing\n" + second)
    with Journal(tmp_path, lambda: 6) as journal:
        assert (journal.seed, journal.get(job(1).key)) == (6, None)


def test_one_at_a_time_writes(tmp_path: Path, journal: Journal) -> None:
    """Two runs into one folder would grade everything twice."""
    with pytest.raises(GradingError, match="Another run"):
        Journal(tmp_path, lambda: 1)


def test_only_what_nobody_could_tell_is_tried_again(journal: Journal) -> None:
    """A failure is final; a "could not tell" gets more tries, and stays open for the next run."""

    def answer(each: Job) -> Done:
        if each.key == job(1).key:
            return Done(each, grade(each, Verdict.FAILED))
        return nobody_can_tell(each)

    team = FakeTeam(answer)
    undecided = run(team, journal, [job(1), job(2)])[1]
    assert team.started.count(job(1).key) == 1
    assert team.started.count(job(2).key) == TRIES
    assert undecided.grade is not None
    assert undecided.grade.undecided
    again = FakeTeam()
    assert run(again, journal, [job(1), job(2)])[1].grade == grade(job(2))
    assert again.started == [job(2).key]


def test_a_broken_suite_stops_nobody(journal: Journal) -> None:
    """It is told, it is not tried again, and the others are graded."""

    def answer(each: Job) -> Done:
        if each.key == job(1).key:
            return Done(each, problem="The suite is broken")
        return passes(each)

    team = FakeTeam(answer)
    first, second = run(team, journal, [job(1), job(2)])
    assert (first.grade, first.problem) == (None, "The suite is broken")
    assert second.grade == grade(job(2))
    assert len(team.started) == 2


def test_stopping_leaves_the_rest(journal: Journal) -> None:
    """Told to stop, it gives out no more, and keeps what there is."""
    told: list[Done] = []
    team = FakeTeam(at_once=1)
    batch = Batch(team, journal, told.append)

    def stop_after_two(done: Done) -> None:
        told.append(done)
        if len(told) == 2:
            batch.stopping.set()

    batch.tell = stop_after_two
    done = batch.run([job(number) for number in range(5)])
    assert len(team.started) == 2
    assert [bool(each.grade) for each in done.values()].count(True) == 2
    assert journal.get(team.started[1]) is not None
