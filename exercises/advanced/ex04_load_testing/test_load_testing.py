"""The graded suite of exercise 4: a load test is run against services, good and bad, and judged."""

import asyncio
import json
import random
import re
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from exercises.advanced.ex04_load_testing.stand_in import Conduct, Fault, Kind, StandIn, Turn
from grader.judge import check, only_until
from grader.judge.service import Service
from grader.sandbox.client import Run

USERS = 8
SHARES = {Kind.QUERY: 0.2, Kind.STREAM: 0.4, Kind.FOLLOW_UP: 0.3, Kind.SESSION: 0.1}
ENTRIES = {Kind.QUERY: "query", Kind.FOLLOW_UP: "follow-up", Kind.SESSION: "session"}
"""And the two of a stream."""

LATENCIES = ("P95_FIRST_TOKEN_MS", "P95_STREAM_MS", "P95_QUERY_MS")
SETTINGS = {
    **dict.fromkeys(LATENCIES, 5000),
    "MAX_FAIL_RATIO": 0,
    "LOCUST_USERS": USERS,
    "THINK_MIN": 0.005,
    "THINK_MAX": 0.015,
    "TURN_TIMEOUT": 20,
}
HEALTHY = Conduct(
    "a service that is late with one stream in fifty",
    late=0.8,
    faults={Kind.STREAM: [Fault.LATE]},
    every={Kind.STREAM: 50},
)
UNHURRIED = Conduct(
    "a service that takes its time, and is busy now and then",
    first=0.1,
    whole=0.4,
    plain=0.15,
    faults={Kind.FOLLOW_UP: [Fault.REFUSED]},
    every={Kind.FOLLOW_UP: 4},
)
LATE = {Kind.STREAM: [Fault.LATE], Kind.QUERY: [Fault.LATE]}


@dataclass
class Entry:
    """One of Locust's statistics, as the load test kept it. Times are in milliseconds."""

    entry: str
    count: int
    failed: int
    fastest: int
    median: int


@dataclass
class Outcome:
    """What one run of the load test came to."""

    service: Service
    stand_in: StandIn
    run: Run
    began: float
    told: float
    """The moment when it was told to end."""

    over: Sequence[Turn]
    """The turns that were over then; a few more may have been recorded."""

    code: int | None = None

    @property
    def entries(self) -> dict[str, Entry]:
        lines = [line for line in self.run.output.text.splitlines() if line.startswith('{"entry')]
        entries = [Entry(**json.loads(line)) for line in lines]
        return {entry.entry: entry for entry in entries}

    def show(self) -> None:
        """Let the report on this check end with what this run has printed."""
        if self.run in self.service.runs:
            self.service.runs.remove(self.run)
        self.service.runs.append(self.run)

    @property
    def missed(self) -> set[str]:
        """The objectives that are named in a line with that word, wherever they stand in it."""
        told = re.findall(r"^.*\bmissed\b.*$", self.run.output.text, re.IGNORECASE | re.MULTILINE)
        return set(re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", "\n".join(told)))


@dataclass
class Load:
    """The `load` fixture: one run of the load test, against a service that the judge plays."""

    service: Service
    folder: Path
    password: str
    known: dict[str, Outcome]
    count: int = 0

    async def __call__(
        self, conduct: Conduct, enough: Callable[[StandIn], bool], **settings: object
    ) -> Outcome:
        """Until there is enough to be judged, or Locust's own limit of time is reached."""
        self.count += 1
        stand_in = StandIn(conduct, "carol", self.password)
        settings |= {"AGENT_USERNAME": "carol", "AGENT_PASSWORD": self.password}
        began = time.monotonic()
        async with (
            stand_in.listening(self.folder / f"service-{self.count}") as address,
            self.service.running(
                forward={"LOCUST_HOST": ("http://127.0.0.1:{port}", address)},
                **{**SETTINGS, **settings},
            ) as run,
        ):
            await settled(run, stand_in, enough)
            outcome = Outcome(self.service, stand_in, run, began, time.monotonic(), stand_in.over())
            run.signal(signal.SIGUSR1)
            ended = await asyncio.to_thread(run.wait_until_ended, 8)
            outcome.code = ended.code if ended else None
        return outcome

    async def once(
        self, name: str, conduct: Conduct, enough: Callable[[StandIn], bool], **settings: object
    ) -> Outcome:
        """The same run for every check that asks for it by this name."""
        if name not in self.known:
            self.known[name] = await self(conduct, enough, **settings)
        outcome = self.known[name]
        outcome.service = self.service
        self.service.programs.append(outcome.run)
        outcome.show()
        return outcome

    async def healthy(self) -> Outcome:
        """Many turns, as fast as they come, and one stream in fifty that is late."""

        def enough(seen: StandIn) -> bool:
            return len(seen.turns) >= 350 and any(turn.fault for turn in seen.over())

        return await self.once("healthy", HEALTHY, enough, **dict.fromkeys(LATENCIES, 400))

    async def unhurried(self) -> Outcome:
        """A service that takes its time, and now and then is busy; and users who think."""
        settings = {"LOCUST_USERS": 2 * USERS, "THINK_MIN": 0.05, "THINK_MAX": 0.25}

        def enough(seen: StandIn) -> bool:
            over = seen.over()
            every_kind = {turn.kind for turn in over} == set(Kind)
            return len(over) >= 60 and every_kind and any(turn.fault for turn in over)

        return await self.once("unhurried", UNHURRIED, enough, MAX_FAIL_RATIO=0.5, **settings)


async def settled(run: Run, stand_in: StandIn, enough: Callable[[StandIn], bool]) -> None:
    """Until enough was seen, or so much that it will not come any more."""
    for _ in range(1000):
        says_todo = "NotImplementedError: TODO" in run.output.text
        in_vain = len(stand_in.turns) > 1500 or (says_todo and not stand_in.logins)
        if enough(stand_in) or run.ended or in_vain:
            return
        await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def known() -> dict[str, Outcome]:
    return {}


@pytest.fixture
def load(
    service: Service, short_folder: Path, rng: random.Random, known: dict[str, Outcome]
) -> Load:
    return Load(service, short_folder, f"p-{rng.getrandbits(64):x}", known)


# --- what a run has to come to


def passes(outcome: Outcome) -> None:
    outcome.show()
    what = outcome.stand_in.conduct.what
    assert outcome.code is not None, "the run should end when its time is over"
    assert not outcome.missed, f"{what} met its objectives, so none should be told as missed"
    assert outcome.code == 0, f"{what} met its objectives, so the exit code should be 0"


def fails(outcome: Outcome, *objectives: str) -> None:
    outcome.show()
    what = outcome.stand_in.conduct.what
    assert outcome.code is not None, "the run should end when its time is over"
    assert outcome.missed == set(objectives), (
        f"{what} missed objectives: the run should print `missed` and the name of each, no other"
    )
    assert outcome.code > 0, f"{what} missed objectives, so the exit code should be above 0"


def entry_of(outcome: Outcome, name: str) -> Entry:
    assert name in outcome.entries, f"the statistics should have an entry `{name}`"
    return outcome.entries[name]


def counts(outcome: Outcome, name: str, kind: Kind) -> None:
    """An entry has every turn of its kind; those with a fault are for the checks that have some."""
    least = sum(turn.kind is kind and not turn.fault for turn in outcome.over)
    begun = [turn for turn in outcome.stand_in.turns if turn.kind is kind]
    most = sum(turn.ended is not None or name == "first token" for turn in begun)
    assert least, f"users should have turns for the entry `{name}`"
    assert least <= entry_of(outcome, name).count <= most, (
        f"`{name}` should have one entry for each such turn"
    )


def counts_failures(outcome: Outcome, name: str, kind: Kind, what: str) -> None:
    """An entry has every bad answer as a failure, and no good one."""
    bad = sum(turn.kind is kind for turn in outcome.over if turn.fault)
    assert bad == outcome.stand_in.conduct.times, (
        f"users should have turns for the entry `{name}`, again and again"
    )
    assert entry_of(outcome, name).failed >= bad, f"in `{name}`, {what} should be a failure"
    with only_until(outcome.began + 12):
        assert entry_of(outcome, name).failed == bad, f"in `{name}`, a good answer is no failure"


def every_fault(seen: StandIn) -> bool:
    """All that it was told to have are over: what comes after them is good."""
    bad = Counter(turn.kind for turn in seen.over() if turn.fault)
    return all(bad[kind] == seen.conduct.times for kind in seen.conduct.faults)


# --- the users


@check("logs_in_once")
async def test_logs_in_once(load: Load) -> None:
    """Every user logs in once, before everything else, and then shows the token each time."""
    outcome = await load.healthy()
    seen = outcome.stand_in
    assert seen.turns, "users who have logged in should ask something"
    assert all(seen.logins), "each user should log in with AGENT_USERNAME and AGENT_PASSWORD"
    assert len(seen.logins) == USERS, "each user should log in once, and not again"
    assert {turn.token for turn in seen.turns} == set(seen.logins), (
        "every user should send the token of its own login, and with every request"
    )
    assert entry_of(outcome, "login").count == USERS, "`login` should have one entry for each user"


@check("realistic_mix")
async def test_realistic_mix(load: Load) -> None:
    """The kinds of turns have their shares, and no first question comes twice."""
    turns = (await load.healthy()).stand_in.turns
    assert len(turns) >= 300, "users should have hundreds of turns where nobody is slow"
    differences = 0.0
    for kind, share in SHARES.items():
        expected = share * len(turns)
        differences += (sum(turn.kind is kind for turn in turns) - expected) ** 2 / expected
    assert differences < 31, (  # chi-squared: one honest run in a million comes out above
        "query, stream, follow-up and session should have their shares of all turns"
    )
    questions = [turn.query for turn in turns if turn.kind in (Kind.QUERY, Kind.STREAM)]
    assert len(set(questions)) >= 0.95 * len(questions), (
        "first questions should be new ones, or it is a cache that is tested"
    )


@check("conversations")
async def test_conversations(load: Load) -> None:
    """Follow-ups go on with a conversation that this very user has begun."""
    seen = (await load.healthy()).stand_in
    continued = [turn for turn in seen.turns if turn.kind in (Kind.FOLLOW_UP, Kind.SESSION)]
    assert {turn.kind for turn in continued} == {Kind.FOLLOW_UP, Kind.SESSION}, (
        "users should ask follow-ups with a session_id, and look at their session"
    )
    for turn in continued:
        session = seen.sessions.get(turn.session_id or "")
        assert session, "a session's id should be one that the service gave"
        assert session.token == turn.token, "no user should go on with another user's session"
    assert not seen.crowded, "a session should have one turn at a time"


@check("thinks")
async def test_thinks(load: Load) -> None:
    """Between an answer and the next turn, a user thinks for a time between the two settings."""
    outcome = await load.unhurried()
    gaps = sorted(between_turns(outcome.stand_in.turns))
    assert len(gaps) >= 50, "users should have many turns, with THINK_MIN and THINK_MAX between"
    assert gaps[0] >= 0.9 * 0.05, "no turn should begin earlier than THINK_MIN after an answer"
    assert gaps[len(gaps) // 2] <= 2 * 0.25, "turns should begin within THINK_MAX of an answer"
    assert gaps[len(gaps) * 4 // 5] - gaps[len(gaps) // 5] > 0.04, (
        "users should not think equally long every time"
    )


def between_turns(turns: Sequence[Turn]) -> Iterator[float]:
    of_user = defaultdict[str, list[Turn]](list)
    for turn in turns:
        of_user[turn.token].append(turn)
    for mine in of_user.values():
        for before, after in pairwise(mine):
            if before.ended is not None:
                yield after.began - before.ended


# --- the figures


@check("separate_entries")
async def test_separate_entries(load: Load) -> None:
    """The first token and the whole stream are measured apart, from the question on."""
    outcome = await load.unhurried()
    for kind, name in ENTRIES.items():
        counts(outcome, name, kind)
    counts(outcome, "first token", Kind.STREAM)
    counts(outcome, "whole stream", Kind.STREAM)
    first, whole = entry_of(outcome, "first token"), entry_of(outcome, "whole stream")
    assert first.fastest >= 95, "`first token` is the time until the first words arrive"
    assert whole.fastest >= 380, "`whole stream` is the time until the last words arrive"
    assert entry_of(outcome, "query").fastest >= 142, "`query` is the time until the answer"
    for entry in (first, whole, entry_of(outcome, "query"), entry_of(outcome, "session")):
        assert not entry.failed, (
            f"in `{entry.entry}`, what the end of the run cuts off is no failure, and no entry"
        )
    with only_until(outcome.began + 12):
        assert first.median <= 300, "`first token` should not wait for the rest of the stream"


@check("objectives")
async def test_objectives(load: Load) -> None:
    """The same service meets some objectives and misses stricter ones; the exit code tells."""

    def enough(seen: StandIn) -> bool:
        kinds = Counter(turn.kind for turn in seen.over())
        return any(turn.fault for turn in seen.over()) and min(kinds[kind] for kind in LATE) >= 4

    strict, lax = await asyncio.gather(
        load(
            UNHURRIED,
            enough,
            P95_FIRST_TOKEN_MS=60,
            P95_STREAM_MS=250,
            P95_QUERY_MS=100,
            MAX_FAIL_RATIO=0.001,
        ),
        load.unhurried(),
    )
    passes(lax)
    fails(strict, *LATENCIES, "MAX_FAIL_RATIO")


@check("slow_answers")
async def test_slow_answers(load: Load) -> None:
    """One late answer in six is too many, one in fifty is not; and first words must not wait."""
    began = time.monotonic()
    quick, slow, buffered = await asyncio.gather(
        load.healthy(),
        load(
            Conduct(
                "a service that is late with one answer in six",
                late=0.8,
                faults=LATE,
                every=dict.fromkeys(LATE, 6),
            ),
            lambda seen: late_share(seen) >= 0.08,
            **dict.fromkeys(LATENCIES, 400),
        ),
        load(
            Conduct(
                "a service that holds its streams back until they are complete",
                whole=0.5,
                buffered=True,
            ),
            lambda seen: len(seen.over(Kind.STREAM)) >= 4,
            P95_FIRST_TOKEN_MS=350,
            P95_QUERY_MS=450,
        ),
    )
    with only_until(began + 12):
        passes(quick)
    fails(slow, *LATENCIES)
    others = buffered.missed & {"P95_QUERY_MS"}
    fails(buffered, "P95_FIRST_TOKEN_MS", *others)
    with only_until(began + 12):
        assert not others, "an objective is about its own entry, however slow the others are"


def late_share(seen: StandIn) -> float:
    """The least share of late answers, once there are many of each kind."""
    shares = []
    for kind in LATE:
        over = seen.over(kind)
        late = sum(turn.fault is Fault.LATE for turn in over)
        shares.append(late / len(over) if len(over) >= 24 else 0.0)
    return min(shares)


# --- the answers


@check("counts_errors")
async def test_counts_errors(load: Load) -> None:
    """Whoever is not let in stops, and what is refused has failed."""
    every = {Kind.QUERY: 2, Kind.STREAM: 2, Kind.FOLLOW_UP: 2, Kind.SESSION: 1}
    outcome = await load(
        Conduct(
            "a service that refuses every other turn",
            faults={kind: [Fault.REFUSED] for kind in every},
            every=every,
            times=6,
            logins=[Fault.REFUSED],
        ),
        every_fault,
        MAX_FAIL_RATIO=0.002,
    )
    assert entry_of(outcome, "login").failed == 1, "a login that is refused is a failure"
    assert all(turn.token for turn in outcome.stand_in.turns), (
        "a user who was not let in should stop"
    )
    refused = set[str]()
    for turn in outcome.stand_in.turns:
        assert turn.session_id not in refused, "a turn that failed should end the conversation"
        refused |= {turn.session_id} if turn.fault and turn.session_id else set()
    for kind, name in ENTRIES.items():
        counts_failures(outcome, name, kind, "a refusal")
    counts_failures(outcome, "whole stream", Kind.STREAM, "a refusal")
    fails(outcome, "MAX_FAIL_RATIO")


@check("broken_streams")
async def test_broken_streams(load: Load) -> None:
    """A stream that begins well and is cut off, or ends early or with an error, has failed."""
    ends = [Fault.HALF, Fault.NOT_DONE, Fault.CUT, Fault.ERROR_EVENT]
    outcome = await load(
        Conduct(
            "a service that breaks off every other stream",
            faults={Kind.STREAM: ends},
            every={Kind.STREAM: 2},
            times=8,
        ),
        every_fault,
        MAX_FAIL_RATIO=0.002,
    )
    counts_failures(outcome, "whole stream", Kind.STREAM, "a stream that did not end well")
    fails(outcome, "MAX_FAIL_RATIO")


@check("wrong_answers")
async def test_wrong_answers(load: Load) -> None:
    """An answer that is not the one to the question has failed, whatever its status."""
    faults = {
        Kind.QUERY: [Fault.WRONG, Fault.PAGE],
        Kind.STREAM: [Fault.WRONG],
        Kind.FOLLOW_UP: [Fault.WRONG, Fault.ELSEWHERE],
        Kind.SESSION: [Fault.WRONG, Fault.ELSEWHERE],
    }
    every = {Kind.QUERY: 2, Kind.STREAM: 2, Kind.FOLLOW_UP: 2, Kind.SESSION: 1}
    outcome = await load(
        Conduct(
            "a service that says something wrong every other time",
            faults=faults,
            every=every,
            times=6,
        ),
        every_fault,
        MAX_FAIL_RATIO=0.002,
    )
    for kind, name in ENTRIES.items():
        counts_failures(outcome, name, kind, "a wrong answer")
    counts_failures(outcome, "whole stream", Kind.STREAM, "a wrong answer")
    fails(outcome, "MAX_FAIL_RATIO")


GIVEN_UP = 6.0
"""Seconds, where TURN_TIMEOUT is half of one: a busy machine is late. No usual timeout is less."""


@check("gives_up")
async def test_gives_up(load: Load) -> None:
    """An answer that never ends is a failure after TURN_TIMEOUT, also when there are comments."""

    def for_long(seen: StandIn) -> bool:
        waiting = [turn.began for turn in seen.turns if turn.fault and turn.ended is None]
        return bool(waiting) and time.monotonic() - min(waiting) > GIVEN_UP

    faults = {Kind.QUERY: [Fault.SILENT], Kind.STREAM: [Fault.SILENT, Fault.PINGS]}
    outcome = await load(
        Conduct(
            "a service that does not finish every other answer",
            faults=faults,
            every={Kind.QUERY: 2, Kind.STREAM: 2},
            times=6,
        ),
        lambda seen: every_fault(seen) or for_long(seen),
        TURN_TIMEOUT=0.5,
        MAX_FAIL_RATIO=0.002,
    )
    faulty = [turn for turn in outcome.stand_in.turns if turn.fault]
    with only_until(outcome.began + 12):
        assert all((turn.ended or outcome.told) - turn.began <= GIVEN_UP for turn in faulty), (
            "an answer that does not end should be given up after TURN_TIMEOUT"
        )
    counts_failures(outcome, "query", Kind.QUERY, "an answer that never came")
    counts_failures(outcome, "whole stream", Kind.STREAM, "a stream that never ended")
    fails(outcome, "MAX_FAIL_RATIO")


@check("nothing_measured")
async def test_nothing_measured(load: Load) -> None:
    """A run in which nobody got in has met no objective."""
    outcome = await load(
        Conduct("a service that lets nobody in", logins=[Fault.SILENT] * USERS),
        lambda seen: len(seen.logins) >= USERS,
    )
    assert outcome.stand_in.logins, "users should log in first"
    fails(outcome, *LATENCIES, *(outcome.missed & {"MAX_FAIL_RATIO"}))  # none, or none of none
