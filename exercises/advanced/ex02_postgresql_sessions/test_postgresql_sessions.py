"""The graded suite of exercise 2: one conversation, several replicas, one database."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import httpx
import psycopg

from grader.judge import (
    PLAIN,
    STREAM,
    Client,
    Reply,
    check,
    only_until,
    read_reply,
    request_bytes,
)
from grader.judge.servers import Database
from grader.judge.service import Service
from shared.offline_model import Call, OfflineModel, Scenario

USERS = list(json.loads(Path(__file__).with_name("users.json").read_text()))
ALICE, BOB, ODD = USERS

SLOW, HANG, FAIL = "slow", "hang", "fail"
"""How a question begins that the model answers late, never, or with nothing usable."""

KEPT = "sessions should be kept in the database"
WHAT_IS_BACK = "what was answered should be there again, and nothing that was refused"

Messages = list[tuple[str, str]]


def behave(model: OfflineModel, slow: float = 0.5) -> None:
    """The model says "Good." at once, unless the question tells it otherwise."""
    special = {
        SLOW: Scenario("Good.", first_token_delay=slow),
        HANG: Scenario(hang=True),
        FAIL: Scenario(malformed=True),
    }
    good = Scenario("Good.")

    def answer(call: Call) -> Scenario:
        return special.get(question_of(call).partition(" ")[0], good)

    model.respond(answer)


def question_of(call: Call) -> str:
    return str(call.messages[-1].get("content"))


def questions_of(call: Call) -> list[str]:
    """All that the user has said in the conversation, as the model sees it."""
    return [str(m.get("content")) for m in call.messages if m.get("role") == "user"]


def said(*questions: str) -> Messages:
    """The conversation in which these were answered."""
    return [each for q in questions for each in (("user", q), ("assistant", "Good."))]


def new_word(rng: Random) -> str:
    return "".join(rng.choices("bcdfghjklmnpqrstvwxz", k=12))


# --- replicas, and who talks to them


@asynccontextmanager
async def replicas(
    service: Service, postgres: Database, of: int = 2, **settings: object
) -> AsyncIterator[list[Client]]:
    """So many of them on one database, started one after the other, and alice talks to them."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                service(forward=postgres.forward, data=None, **settings)
            )
            for _ in range(of)
        ]
        await log_in(clients[0], ALICE)
        for client in clients[1:]:
            client.headers["Authorization"] = clients[0].headers["Authorization"]
        yield clients


async def log_in(client: Client, name: str) -> None:
    form = {"username": name, "password": f"{name}'s password"}
    response = await client.post("/api/v1/auth/login", data=form)
    assert response.status_code == 200, "logging in, which is given, should work"
    client.headers["Authorization"] = f"Bearer {response.json()['access_token']}"


@asynccontextmanager
async def seen_by(name: str, replica: Client, service: Service) -> AsyncIterator[Client]:
    """The same replica, and another user who talks to it."""
    async with Client(replica.run, service.journal) as client:
        await log_in(client, name)
        yield client


def question_from(client: Client, query: str, session_id: str | None) -> bytes:
    """What the client would send; for one that is going to leave."""
    body = json.dumps({"query": query, "session_id": session_id}).encode()
    return request_bytes(body, headers={"Authorization": client.headers["Authorization"]})


async def begin(client: Client, question: str = "hello", path: str = PLAIN) -> str:
    """A new session with one turn in it."""
    reply = await client.ask(question, path=path)
    assert reply.status == 200, "a first question should be answered, and make a session"
    return reply.session_id


async def info(client: Client, session_id: str) -> dict[str, Any]:
    response = await client.get(f"/api/v1/session/{session_id}?include=messages")
    assert response.status_code == 200, "a session of one's own should be there to be read"
    return dict(response.json())


async def messages(client: Client, session_id: str) -> Messages:
    return [(m["role"], m["content"]) for m in (await info(client, session_id))["messages"]]


async def listed(client: Client, **query: object) -> dict[str, Any]:
    response = await client.get("/api/v1/sessions", params={k: str(v) for k, v in query.items()})
    assert response.status_code == 200, "one's sessions should be listed"
    return dict(response.json())


async def in_line(client: Client, session_id: str, before: str) -> str:
    """Wait until one more turn has been accepted, which shows as activity; the new time of it."""
    now = before
    for _ in range(60):
        now = (await info(client, session_id))["last_activity"]
        if now != before:
            break
        await asyncio.sleep(0.01)
    return now


def refused(reply: Reply, status: int, code: str, what: str) -> None:
    assert reply.status == status, f"{what} should be refused with {status}"
    assert reply.code == code, f"{what} should be refused with the code {code}"


async def asked(model: OfflineModel, question: str) -> None:
    """Until the model has been asked this."""
    try:
        await model.wait_for_async(lambda m: question in map(question_of, m.calls))
    except TimeoutError:
        raise AssertionError("the model should be asked as soon as it is a turn's turn") from None


async def left_alone(model: OfflineModel, question: str) -> None:
    """Until nobody waits for the model's answer to this any more."""
    try:
        await model.wait_for_async(
            lambda m: all(c.outcome != "open" for c in m.calls if question_of(c) == question)
        )
    except TimeoutError:
        raise AssertionError("when a turn ends, its call to the model should end, too") from None


async def soon(turn: asyncio.Task[Reply], what: str) -> Reply:
    try:
        return await asyncio.wait_for(turn, 4)
    except TimeoutError:
        raise AssertionError(what) from None


# --- what is in the database


def rows_about(postgres: Database, *words: str) -> list[str]:
    """The rows, of whatever tables, in which one of the words occurs, as text or as bytes."""
    traces = [trace for word in words for trace in (word, word.encode().hex())]
    with postgres.connection() as connection:
        rows = [
            row
            for table in tables(connection)
            for (row,) in connection.execute(f"SELECT t::text FROM {table} t")  # noqa: S608 - quoted by the server
        ]
    return [row for row in rows if any(trace in row for trace in traces)]


def tables(connection: psycopg.Connection) -> list[str]:
    found = connection.execute(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
        " WHERE schemaname NOT IN ('pg_catalog', 'information_schema', 'judge')"
    )
    return [table for (table,) in found]


def lock_all_tables(connection: psycopg.Connection) -> None:
    """Until the connection is closed."""
    if all_of_them := ", ".join(tables(connection)):
        connection.execute(f"BEGIN; LOCK TABLE {all_of_them}")


async def nothing_about(postgres: Database, *words: str, within: float) -> bool:
    """Whether all rows about the words go within so many seconds."""
    deadline = time.monotonic() + within
    while rows_about(postgres, *words):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


# --- a conversation and its replicas


@check("survives_kill")
async def test_survives_kill(
    service: Service, postgres: Database, model: OfflineModel, rng: Random
) -> None:
    """A replica is killed, and another one goes on with the conversation as if it were its own."""
    behave(model)
    with postgres.connection() as connection:  # the database's clock is not set to UTC
        connection.execute(f"ALTER DATABASE {postgres.name} SET timezone TO 'Asia/Kolkata'")
    questions = [f"{new_word(rng)} {number}" for number in range(3)]
    async with AsyncExitStack() as stack:
        [one] = await stack.enter_async_context(replicas(service, postgres, of=1))
        session = await begin(one, questions[0], rng.choice((PLAIN, STREAM)))
        [two] = await stack.enter_async_context(replicas(service, postgres, of=1))
        assert (await one.ask(questions[1], session)).status == 200, (
            "a session should go on in the replica that began it, whoever starts meanwhile"
        )
        one.signal(signal.SIGKILL)
        ready = await two.get("/health/ready")
        assert ready.status_code == 200, "a replica with its database is ready"
        kept = await info(two, session)
        reply = await two.ask(questions[2], session, STREAM)
        assert reply.status == 200, "when a replica was killed, another one should go on"
        assert reply.session_id == session, "the conversation should keep its id"
        assert await messages(two, session) == said(*questions), (
            "nothing of what was answered should be lost when a replica is killed"
        )
    assert questions_of(model.calls[-1]) == questions, (
        "the model should be told the whole conversation, whichever replica had it"
    )
    assert kept["created_at"] <= kept["last_activity"], "activity comes after the beginning"
    for when in (kept["created_at"], kept["last_activity"]):
        assert when.endswith(("Z", "+00:00")), "times should be told in UTC"


# --- the order of turns


@check("in_order")
async def test_in_order(service: Service, postgres: Database, model: OfflineModel) -> None:
    """Turns of one session run one at a time, in the order in which the replicas took them.

    The first one takes much longer than a lease, and so do the others wait.
    """
    behave(model, slow=1.8)
    async with replicas(service, postgres, TURN_LEASE=1) as (one, two):
        session = await begin(one, "0")
        questions = [f"{SLOW} 1", "2", "3", "4", "5"]
        turns, seen = [], (await info(one, session))["last_activity"]
        for number, question in enumerate(questions):
            replica = (one, two, two, one, two)[number]
            path = (PLAIN, STREAM)[number % 2]
            turns.append(asyncio.create_task(replica.ask(question, session, path)))
            before, seen = seen, await in_line(one, session, seen)
            assert seen > before, "a turn should show as activity when it takes its place in line"
        replies = await asyncio.gather(*turns)
        over = (await info(one, session))["last_activity"]
        history = await messages(two, session)
    assert [reply.status for reply in replies] == [200] * 5, "turns that wait should be answered"
    calls = [call for call in model.calls if question_of(call) in questions]
    assert [question_of(call) for call in calls] == questions, (
        "turns should run in the order in which they were taken, whichever replica took them"
    )
    assert one_at_a_time(calls), (
        "while a replica is alive and at work, its turn should keep the session, however long"
    )
    assert [len(questions_of(call)) for call in calls] == [2, 3, 4, 5, 6], (
        "each turn should know all that was said before it"
    )
    assert history == said("0", *questions), "no turn should be lost"
    assert over > seen, "a turn should show as activity again when it is over"


def one_at_a_time(calls: Sequence[Call]) -> bool:
    ends = [call.ended_at for call in calls]
    return all(
        end is not None and call.started_at >= end
        for end, call in zip(ends[:-1], calls[1:], strict=True)
    )


@check("waits_no_longer")
async def test_waits_no_longer(service: Service, postgres: Database, model: OfflineModel) -> None:
    """A turn that waited for TURN_WAIT is refused, one whose client leaves gives up its place."""
    behave(model, slow=1.2)
    async with replicas(service, postgres, TURN_WAIT=0.5) as (one, two):
        session = await begin(one, "0")
        slow = asyncio.create_task(one.ask(f"{SLOW} 1", session))
        await asked(model, f"{SLOW} 1")
        for reply in await asyncio.gather(two.ask("late", session), one.ask("late", session)):
            refused(reply, 409, "session_busy", "a turn that has waited for TURN_WAIT")
        before = (await info(one, session))["last_activity"]
        with two.connect() as connection:
            connection.sendall(question_from(two, "left", session))
            await in_line(one, session, before)
        assert (await slow).status == 200, "a turn should not suffer from those who wait for it"
        last = await two.ask("2", session)
        history = await messages(one, session)
    assert last.status == 200, "turns that were refused, or left, should not stay in the line"
    assert history == said("0", f"{SLOW} 1", "2"), (
        "turns that were refused, or left, should not run after all"
    )


@check("killed_in_a_turn")
async def test_killed_in_a_turn(service: Service, postgres: Database, model: OfflineModel) -> None:
    """A replica that is killed in mid-turn blocks its sessions for a lease, and leaves nothing."""
    behave(model)
    async with replicas(service, postgres, TURN_LEASE=1, TURN_WAIT=4, SWEEP_EVERY=0.3) as (
        one,
        two,
    ):
        session = await begin(one, "0")
        turns = [
            asyncio.create_task(one.ask(question, session_id))
            for question, session_id in ((f"{HANG} 1", session), (f"{HANG} new", None))
        ]
        await asyncio.gather(asked(model, f"{HANG} 1"), asked(model, f"{HANG} new"))
        before = (await info(two, session))["last_activity"]
        turns.append(asyncio.create_task(one.ask("waits", session)))
        await in_line(two, session, before)
        one.signal(signal.SIGKILL)
        await asyncio.gather(*turns, return_exceptions=True)
        reply = await two.ask("2", session)
        assert reply.status == 200, (
            "a replica that was killed in mid-turn should block the session for a lease at most"
        )
        assert await messages(two, session) == said("0", "2"), (
            "a turn that was killed should leave no half of itself"
        )
        for _ in range(60):
            if (await listed(two))["sessions"] == [session]:
                break
            await asyncio.sleep(0.05)
        else:
            raise AssertionError("a session whose first turn was killed should go by itself")


@check("stalled_replica")
async def test_stalled_replica(service: Service, postgres: Database, model: OfflineModel) -> None:
    """A replica that was stopped for longer than a lease has lost its turn, and stores nothing."""
    behave(model, slow=1.2)
    async with replicas(service, postgres, TURN_LEASE=1, TURN_WAIT=4) as (one, two):
        session = await begin(one, "0")
        stalled = asyncio.create_task(one.ask(f"{SLOW} 1", session))
        await asked(model, f"{SLOW} 1")
        await stop_between_transactions(one, postgres)
        other = await two.ask("2", session)
        assert other.status == 200, "a replica that stands still should not block a session"
        one.signal(signal.SIGCONT)
        late = await soon(stalled, "a turn that has lost its place should end")
        history = await messages(two, session)
    assert late.status in (409, 503), "a turn that has lost its place should be refused at last"
    assert history == said("0", "2"), (
        "a turn that has lost its place should not overwrite what was said meanwhile"
    )


async def stop_between_transactions(one: Client, postgres: Database) -> None:
    """Else it would keep locks that no lease ends; one that is always in the middle has to."""
    for _ in range(5):
        one.signal(signal.SIGSTOP)
        one.connect().close()  # made after it has been stopped
        await until(lambda: not postgres.transactions(), within=0.3)
        if not postgres.transactions():
            break
        one.signal(signal.SIGCONT)
        await asyncio.sleep(0.01)
    else:
        one.signal(signal.SIGSTOP)


@check("deleted_elsewhere")
async def test_deleted_elsewhere(
    service: Service, postgres: Database, model: OfflineModel, rng: Random
) -> None:
    """What is deleted at one replica is gone at all, and no turn under way brings it back."""
    behave(model)
    word = new_word(rng)
    async with AsyncExitStack() as stack:
        [one] = await stack.enter_async_context(replicas(service, postgres, of=1, TURN_LEASE=1))
        session = await begin(one, word)
        turn = asyncio.create_task(one.ask(f"{HANG} {word}", session))
        await asked(model, f"{HANG} {word}")
        [two] = await stack.enter_async_context(replicas(service, postgres, of=1, TURN_LEASE=1))
        assert rows_about(postgres, session, word), KEPT
        waiting, seen = [], (await info(two, session))["last_activity"]
        for replica in (one, two):
            waiting.append(asyncio.create_task(replica.ask(f"waits {word}", session)))
            seen = await in_line(two, session, seen)
        idle = await begin(two, word)  # who does not wait in line is answered meanwhile
        for session_id in (session, idle):
            response = await two.delete(f"/api/v1/session/{session_id}")
            assert response.status_code == 200, "one's sessions can be deleted at every replica"
        reply = await soon(turn, "a turn should end when its session is deleted elsewhere")
        refused(reply, 404, "session_not_found", "a turn whose session was deleted elsewhere")
        for waits in waiting:
            reply = await soon(waits, "a turn in line should end when its session is deleted")
            refused(reply, 404, "session_not_found", "a turn in line whose session was deleted")
        await left_alone(model, f"{HANG} {word}")
        for session_id in (session, idle):
            refused(await one.ask("again", session_id), 404, "session_not_found", "a deleted one")
        assert (await listed(one))["count"] == 0, "a deleted session should not be listed"
        assert await nothing_about(postgres, session, idle, word, within=2), (
            "of a deleted session nothing should stay in the database, checkpoints included"
        )


@check("no_half_turn")
async def test_no_half_turn(
    service: Service, postgres: Database, model: OfflineModel, rng: Random
) -> None:
    """A turn that fails, or is left, leaves the session as it was; a first one leaves none."""
    behave(model)
    word = new_word(rng)
    async with replicas(service, postgres, of=1, TURN_WAIT=3) as [one]:
        session = await begin(one, "0")
        with one.connect() as connection:
            connection.sendall(question_from(one, f"{HANG} {word}", None))
            await asked(model, f"{HANG} {word}")
        for path in (PLAIN, STREAM):
            refused(await one.ask(f"{FAIL} {word}", None, path), 502, "model_error", "nonsense")
        await left_alone(model, f"{HANG} {word}")
        await forgotten_but(one, session)
        assert not rows_about(postgres, word), (
            "and with it what was said in it: its checkpoints are nobody's"
        )
        for path in (PLAIN, STREAM):
            refused(await one.ask(f"{FAIL} 1", session, path), 502, "model_error", "nonsense")
        with one.connect() as connection:
            connection.sendall(question_from(one, f"{HANG} 2", session))
            await asked(model, f"{HANG} 2")
        await left_alone(model, f"{HANG} 2")
        assert (await one.ask("3", session)).status == 200, "a failure should not block a session"
        history = await messages(one, session)
    assert history == said("0", "3"), "a failed turn should leave no half of itself"
    assert questions_of(model.calls[-1]) == ["0", "3"], "the model should not hear of it either"


async def forgotten_but(one: Client, session: str) -> None:
    """Until there is only this session; what a client has left needs a moment to notice."""
    for _ in range(60):
        if (await listed(one))["sessions"] == [session]:
            break
        await asyncio.sleep(0.05)
    else:
        raise AssertionError("a session whose only turn has failed should be forgotten again")


# --- what the database has to bear


@check("starts_together")
async def test_starts_together(service: Service, postgres: Database, model: OfflineModel) -> None:
    """Two replicas meet at an empty database at the same moment, and both come up."""
    behave(model)
    with gate(postgres) as at_the_gate:
        async with AsyncExitStack() as stack:

            async def come_up() -> Client:
                replica = service(forward=postgres.forward)
                client = await stack.enter_async_context(replica)
                await log_in(client, ALICE)
                await begin(client)
                return client

            first = asyncio.create_task(come_up())
            await until(lambda: first.done() or postgres.waiting() >= 1, within=8)
            connected = postgres.connections()
            second = asyncio.create_task(come_up())
            await until(lambda: second.done() or postgres.connections() > connected, within=8)
            await until(lambda: second.done() or postgres.waiting() >= 2, within=0.3)
            at_the_gate.open()
            one, two = await asyncio.gather(first, second)
            two.headers["Authorization"] = one.headers["Authorization"]
            assert (await listed(two))["count"] == 2, "both should use the same tables"


class Gate:
    """Stops whoever makes tables in the middle of it, until it is opened."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def open(self) -> None:
        self._connection.execute("DROP EVENT TRIGGER gate")
        self._connection.execute("SELECT pg_advisory_unlock_all()")


@contextmanager
def gate(postgres: Database) -> Iterator[Gate]:
    with postgres.connection() as connection:
        connection.execute(
            """
            CREATE SCHEMA judge;
            GRANT USAGE ON SCHEMA judge TO PUBLIC;
            CREATE FUNCTION judge.gate() RETURNS event_trigger LANGUAGE plpgsql AS
                'BEGIN PERFORM pg_advisory_xact_lock_shared(20260131, 1); END';
            CREATE EVENT TRIGGER gate ON ddl_command_end EXECUTE FUNCTION judge.gate();
            SELECT pg_advisory_lock(20260131, 1);
            """
        )
        yield Gate(connection)


async def until(holds: Callable[[], bool], within: float) -> None:
    """Until it holds, or for so many seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if holds():
            break
        await asyncio.sleep(0.02)


@check("hostile_names")
async def test_hostile_names(service: Service, postgres: Database, model: OfflineModel) -> None:
    """Quotes and percent signs do no harm in a user's name, or in an id."""
    behave(model)
    async with (
        replicas(service, postgres, of=1) as [one],
        seen_by(ODD, one, service) as odd_one,
    ):
        alices, odds = await begin(one), await begin(odd_one)
        assert (await odd_one.ask("again", odds)).status == 200, "a name may be odd"
        assert (await listed(odd_one))["sessions"] == [odds], (
            "somebody with an odd name should see their own sessions, and nobody else's"
        )
        refused(await odd_one.ask("mine?", alices), 404, "session_not_found", "somebody else's")
        for strange in (f"{alices}' OR 'a'='a", "%s", "%", '"', "' --"):
            await not_found(one, strange)
        assert (await listed(one))["sessions"] == [alices], "an odd id should do no harm"


@check("hostile_text")
async def test_hostile_text(
    service: Service, postgres: Database, model: OfflineModel, rng: Random
) -> None:
    """Quotes, percent signs and NUL are kept as they were, and NUL does no harm in an id."""
    odd = ["'", '"', "%", "%s", "%(x)s", "\\", "\0", "\\u0000", "--", ";", "$1", "{}", "\U0001f9ff"]
    model.respond(Scenario("Good."))
    async with replicas(service, postgres, of=1) as [one]:
        for path in (PLAIN, STREAM):
            first, answer, second = (
                f"{new_word(rng)} {' '.join(rng.sample(odd, len(odd)))} end" for _ in range(3)
            )
            model.enqueue(Scenario(answer))
            session = await begin(one, first, path)
            reply = await one.ask(second, session, path)
            assert reply.status == 200, "a question may hold any character"
            talk = [("user", first), ("assistant", answer), *said(second)]
            assert await messages(one, session) == talk, "what was said should be kept as it was"
            told = questions_of(model.calls[-1])
            assert told == [first, second], "and be told the model as it was"
            for strange in ("\0", f"{session}\0"):
                await not_found(one, strange)


async def not_found(client: Client, session_id: str) -> None:
    for method in ("GET", "DELETE"):
        path = f"/api/v1/session/{quote(session_id, safe='')}"
        response = await client.request(method, path)
        assert response.status_code == 404, "there should be no session with an odd id"
        assert response.json()["code"] == "session_not_found", "its code is session_not_found"


@check("bounded_pool")
async def test_bounded_pool(service: Service, postgres: Database, model: OfflineModel) -> None:
    """Turns that wait or run hold no connection, and a replica has as many as it may, no more."""
    behave(model)
    async with replicas(service, postgres, of=1, DATABASE_POOL_SIZE=2) as [one]:
        session = await begin(one)
        slow = [asyncio.create_task(one.ask(f"{HANG} {n}")) for n in range(7)]
        slow.append(asyncio.create_task(one.ask(f"{HANG} here", session)))
        try:
            await model.wait_for_async(lambda m: m.call_count == 1 + 8)
        except TimeoutError:
            raise AssertionError(
                "eight slow turns should run side by side on two connections"
            ) from None
        assert await often_at_rest(postgres), (
            "while turns run, a replica should ask its database a few things a second at most"
        )
        slow += [asyncio.create_task(one.ask("waits", session)) for _ in range(3)]
        most = 0
        for _ in range(3):
            quick = asyncio.gather(*(one.ask(f"quick {n}") for n in range(6)))
            while not quick.done():
                most = max(most, postgres.connections())
                await asyncio.sleep(0.005)
            assert [reply.status for reply in await quick] == [200] * 6, (
                "while slow turns run and others wait, there should be connections for new ones"
            )
        assert most > 0, KEPT
        assert most <= 2, "a replica should never have more connections than it may"
        for turn in slow:
            turn.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        one.signal(signal.SIGTERM)
        await until(lambda: one.ended is not None, within=6)
        assert one.ended, "a replica that is told to end should end"
    assert postgres.connections() == 0, "a replica that has ended should hold no connection"


async def often_at_rest(postgres: Database) -> bool:
    """Whether there are times in which the submission asks the database nothing."""
    moments = set()
    with postgres.server.connection() as connection:
        for _ in range(20):
            moments.add(
                connection.execute(
                    "SELECT max(state_change) FROM pg_stat_activity"
                    " WHERE usename = %s AND datname = %s",
                    [postgres.server.owner, postgres.name],
                ).fetchone()
            )
            await asyncio.sleep(0.03)
    return len(moments) <= 15


@check("database_away")
async def test_database_away(service: Service, postgres: Database, model: OfflineModel) -> None:
    """While its database is not there, a replica says so, and does not wait."""
    behave(model)
    async with replicas(
        service, postgres, of=1, DATABASE_PATIENCE=1, TURN_LEASE=1, TURN_WAIT=4
    ) as [one]:
        session = await begin(one, "0")
        slow = asyncio.create_task(one.ask(f"{SLOW} 1", session))
        await asked(model, f"{SLOW} 1")
        cut_off = await cut_off_in_the_middle(postgres, one)
        ready = asyncio.create_task(one.get("/health/ready"))
        await everything_is_refused(one, session)
        refused(await slow, 503, "session_store_unavailable", "a turn that cannot be stored")
        what = "whatever asks when the database goes"
        refused(await read_reply(await cut_off), 503, "session_store_unavailable", what)
        assert (await ready).status_code == 503, "without its database a replica is not ready"
        postgres.server.start()
        await everything_is_back(one, session)
        assert await messages(one, session) == said("0", "back"), WHAT_IS_BACK


async def cut_off_in_the_middle(postgres: Database, one: Client) -> asyncio.Task[httpx.Response]:
    """Stop the database while somebody waits for what they have asked it."""
    with closing(postgres.connection()) as connection:
        lock_all_tables(connection)
        waits = asyncio.create_task(one.get("/api/v1/sessions"))
        await until(lambda: waits.done() or postgres.waiting() > 0, within=0.8)
        postgres.server.stop()
    return waits


@check("database_away")
async def test_database_silent(service: Service, postgres: Database, model: OfflineModel) -> None:
    """While its database says nothing, a replica does, and does not wait."""
    behave(model)
    async with replicas(service, postgres, of=1, DATABASE_PATIENCE=1, TURN_LEASE=1) as [one]:
        session = await begin(one, "0")
        postgres.server.freeze()
        await everything_is_refused(one, session)
        postgres.server.thaw()
        await everything_is_back(one, session)
        assert await messages(one, session) == said("0", "back"), WHAT_IS_BACK


@check("heals")
async def test_heals(service: Service, postgres: Database, model: OfflineModel) -> None:
    """The database is restarted while nobody looks, and no connection stays broken."""
    behave(model)
    async with replicas(service, postgres, of=1) as [one]:
        session = await begin(one, "0")
        assert rows_about(postgres, session), KEPT
        with closing(postgres.connection()) as connection:  # until they have a connection each
            lock_all_tables(connection)
            lists = [asyncio.create_task(listed(one)) for _ in range(6)]
            await until(lambda: postgres.waiting() >= 6, within=1)
        await asyncio.gather(*lists)
        postgres.server.stop()
        postgres.server.start()
        many = await asyncio.gather(*(one.ask("new") for _ in range(6)))
        assert [reply.status for reply in many] == [200] * 6, (
            "when the database is back, no broken connection should be used"
        )
        await everything_is_back(one, session)
        assert await messages(one, session) == said("0", "back"), (
            "what was answered before a restart of the database should be there after it"
        )


async def everything_is_refused(one: Client, session: str) -> None:
    path = f"/api/v1/session/{session}"
    try:
        async with asyncio.timeout(1 + 3):
            turns = asyncio.gather(
                one.ask("away", session), one.ask("away", session, STREAM), one.ask("away")
            )
            others = asyncio.gather(one.get(path), one.delete(path), one.get("/api/v1/sessions"))
            replies = [*await turns, *[await read_reply(each) for each in await others]]
    except TimeoutError:
        raise AssertionError(
            "without an answer of the database a request should be refused within its patience"
        ) from None
    for reply in replies:
        refused(reply, 503, "session_store_unavailable", "whatever needs a database that is away")
        assert int(reply.headers.get("Retry-After", "0")) >= 1, "503 should say when to come back"


async def everything_is_back(one: Client, session: str) -> None:
    deadline = time.monotonic() + 3
    while (reply := await one.ask("back", session)).status != 200:
        assert reply.status == 503, "until it is back, a replica should say so"
        assert time.monotonic() < deadline, "a replica should find a database again that is back"
        await asyncio.sleep(0.1)
    replies = await asyncio.gather(*(one.ask("new") for _ in range(6)))
    assert [reply.status for reply in replies] == [200] * 6, (
        "when the database is back, no broken connection should be left"
    )


# --- whose sessions, and how long


@check("owners")
async def test_owners(service: Service, postgres: Database, model: OfflineModel) -> None:
    """To others a session does not exist, at any replica; to its owner it is on the list."""
    behave(model)
    async with (
        replicas(service, postgres) as (one, two),
        seen_by(BOB, two, service) as bob,
    ):
        alices = [await begin(one) for _ in range(3)]
        bobs = await begin(bob)
        calls = model.call_count
        for unknown in ("of-nobody", "2f1c9a52-6a5f-4a0e-9d37-1d3c8f0a7f11"):
            refused(await bob.ask("mine?", unknown), 404, "session_not_found", "an unknown session")
            nobodys = (await bob.get(f"/api/v1/session/{unknown}")).json()
        for path in (PLAIN, STREAM):
            reply = await bob.ask("mine?", alices[0], path)
            refused(reply, 404, "session_not_found", "somebody else's session")
            assert reply.error == nobodys, "foreign and unknown should be one and the same 404"
        for method in ("GET", "DELETE"):
            response = await bob.request(method, f"/api/v1/session/{alices[0]}")
            assert (response.status_code, response.json()) == (404, nobodys), (
                "foreign and unknown should be one and the same 404, to read and to delete"
            )
        assert model.call_count == calls, "who may not talk in a session should not reach the model"
        assert (await listed(bob))["sessions"] == [bobs], "a list should have one's own alone"

        assert (await two.ask("again", alices[0])).status == 200, "the owner should go on"
        assert await messages(two, alices[0]) == said("hello", "again"), "as if nothing had been"
        whole, first = await listed(two, limit=3), await listed(two, limit=2)
        second = await listed(one, limit=2, cursor=first["next_cursor"])
    assert first["sessions"] + second["sessions"] == [alices[0], alices[2], alices[1]], (
        "a list should be in pages, newest activity first, whichever replica it was at"
    )
    assert whole["sessions"] == first["sessions"] + second["sessions"], "one page may hold all"
    assert (first["count"], second["count"]) == (3, 3), "a page should count all sessions"
    assert (whole["next_cursor"], second["next_cursor"]) == (None, None), (
        "the last page should have no cursor, and be it full"
    )


@check("expires")
async def test_expires(
    service: Service, postgres: Database, model: OfflineModel, rng: Random
) -> None:
    """A session expires when it has been idle for SESSION_TTL."""
    behave(model)
    word = new_word(rng)
    async with replicas(service, postgres, of=1, SESSION_TTL=2) as [one]:
        begun = time.monotonic()
        session = await begin(one, word)
        idle = await begin(one, word)
        idle_since = time.monotonic()
        await asyncio.sleep(1)
        with only_until(begun + 2):
            asked_again, again = time.monotonic(), await one.ask(word, session)
            assert again.status == 200, "a session should not expire before SESSION_TTL"
        await asyncio.sleep(idle_since + 2.02 - time.monotonic())
        with only_until(asked_again + 2):
            assert (await listed(one))["sessions"] == [session], (
                "a session should live for SESSION_TTL after its last activity"
            )
            measured = (await one.get("/metrics")).text.splitlines()
            assert "agent_active_sessions 1.0" in measured, (
                "/metrics should count the sessions that have not expired"
            )
        response = await one.get(f"/api/v1/session/{idle}")
        assert response.status_code == 404, "a session that has expired should not be there"
        refused(await one.ask("?", idle), 404, "session_not_found", "an expired session")


@check("expires")
async def test_sweeps(
    service: Service, postgres: Database, model: OfflineModel, rng: Random
) -> None:
    """All of what has expired is deleted, though nobody asks for it any more, and nothing else."""
    behave(model, slow=1.3)
    word = new_word(rng)
    async with replicas(service, postgres, of=1, SESSION_TTL=1, SWEEP_EVERY=0.2) as [one]:
        reply = await one.ask(f"{SLOW} {word}")
        answered = time.monotonic()
        assert reply.status == 200, "a session that is being answered in is not idle"
        with only_until(answered + 0.9):
            assert rows_about(postgres, word), KEPT
        assert await nothing_about(postgres, reply.session_id, word, within=4), (
            "what has expired should be deleted from the database, its checkpoints included"
        )


@check("expires")
async def test_makes_room(
    service: Service, postgres: Database, model: OfflineModel, rng: Random
) -> None:
    """Each user has MAX_SESSIONS of them; the longest idle makes room, its checkpoints included."""
    behave(model)
    word = new_word(rng)
    async with (
        replicas(service, postgres, of=1, MAX_SESSIONS=2) as [one],
        seen_by(BOB, one, service) as bob,
    ):
        bobs = await begin(bob)
        first, second = await begin(one), await begin(one, word)
        assert (await one.ask("again", first)).status == 200, "a session should go on"
        third = await begin(one)
        assert (await listed(one))["sessions"] == [third, first], (
            "with MAX_SESSIONS of them, the longest idle one should make room for a new one"
        )
        assert not rows_about(postgres, second, word), "and so should what was said in it"
        assert (await listed(bob))["sessions"] == [bobs], "nobody makes room for somebody else"
        turn = asyncio.create_task(one.ask(f"{HANG} 1", first))
        await asked(model, f"{HANG} 1")
        assert (await one.ask("again", third)).status == 200, "a session should go on"
        await begin(one)
        assert first in (await listed(one))["sessions"], (
            "a session that is being answered in is not idle, and makes no room"
        )
        turn.cancel()


@check("grows_slowly")
async def test_grows_slowly(
    service: Service, postgres: Database, model: OfflineModel, rng: Random
) -> None:
    """A conversation three times as long takes about three times the room, not nine times."""
    behave(model)
    async with replicas(service, postgres, of=1) as [one]:
        session, sizes = None, []
        for turns in (5, 10):
            for _ in range(turns):
                reply = await one.ask(f"{new_word(rng)} " * 20, session)
                assert reply.status == 200, "a session should go on"
                session = reply.session_id
            sizes.append(sum(map(len, rows_about(postgres, str(session)))))
    assert sizes[0] > 0, KEPT
    assert sizes[1] <= 4 * sizes[0], (
        "what is kept of a conversation should not be a copy of all of it for every turn"
    )
