"""Your part: a load test of the agent, which fails when the service misses its objectives."""

import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from locust import HttpUser, events, task
from locust.clients import ResponseContextManager
from locust.env import Environment
from locust.exception import StopUser
from locust.stats import RequestStats
from requests import RequestException

from exercises.advanced.ex04_load_testing.questions import Question, first_question, follow_up
from exercises.advanced.ex04_load_testing.settings import read_settings

settings = read_settings()


class BadAnswer(Exception):
    """An answer came, and is not what was asked for."""


@dataclass(frozen=True)
class Conversation:
    """What a user has to remember in order to go on."""

    session_id: str
    question: Question
    """The last one that was answered."""

    turns: int = 1


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BadAnswer(otherwise)


def _body(response: ResponseContextManager) -> Any:
    response.raise_for_status()
    return response.json()


class AgentUser(HttpUser):
    """Somebody who talks to the agent: logs in, asks, thinks, asks again."""

    conversation: Conversation | None = None
    """None, too, after a turn that failed."""

    def wait_time(self) -> float:
        """Seconds until the next turn."""
        return random.uniform(settings.think_min, settings.think_max)

    def on_start(self) -> None:
        """Log in, once."""
        form = {"username": settings.agent_username, "password": settings.agent_password}
        with self._recorded("login", "POST", "/auth/login", data=form) as response:
            token = _body(response)["access_token"]
            self.client.headers["Authorization"] = f"Bearer {token}"
        if "Authorization" not in self.client.headers:
            raise StopUser

    @task(2)
    def query(self) -> None:
        """Begin a conversation, and wait for the whole answer."""
        self._ask("query", first_question())

    @task(4)
    def stream(self) -> None:
        """Begin a conversation, and read the answer while it is written."""
        question = first_question()
        how = {"json": {"query": question.text}, "stream": True}
        with self._recorded("whole stream", "POST", "/query/stream", **how) as response:
            text, metadata = self._read(response)
            _expect(question.is_answered_by(text), "the answer to another question")
            self.conversation = Conversation(metadata["session_id"], question)

    @task(3)
    def follow_up(self) -> None:
        """Go on with the conversation."""
        if self.conversation is None:
            self.query()
        else:
            self._ask("follow-up", follow_up(self.conversation.question), self.conversation)

    @task(1)
    def session(self) -> None:
        """Look at the conversation."""
        if self.conversation is None:
            self.query()
            return
        begun = self.conversation
        with self._recorded("session", "GET", f"/session/{begun.session_id}") as response:
            seen = _body(response)
            _expect(seen["session_id"] == begun.session_id, "another session")
            _expect(seen["message_count"] == 2 * begun.turns, "messages are missing")
            self.conversation = begun

    def _ask(self, name: str, question: Question, begun: Conversation | None = None) -> None:
        session_id = begun.session_id if begun else None
        body = {"query": question.text, "session_id": session_id}
        with self._recorded(name, "POST", "/query", json=body) as response:
            answer = _body(response)
            _expect(question.is_answered_by(answer["response"]), "the answer to another question")
            _expect(session_id in (None, answer["session_id"]), "another session")
            turns = begun.turns + 1 if begun else 1
            self.conversation = Conversation(answer["session_id"], question, turns)

    def _read(self, response: ResponseContextManager) -> tuple[str, dict[str, Any]]:
        """The text of a stream, and what its last event says besides."""
        response.raise_for_status()
        text = ""
        last: dict[str, Any] = {}
        for line in response.iter_lines():
            _expect(self._elapsed_ms() < 1000 * settings.turn_timeout, "it does not end")
            if not line.startswith(b"data: "):
                continue
            last = json.loads(line.removeprefix(b"data: "))
            if last["chunk"] and not text:
                self._record_first_token()
            text += last["chunk"]
        _expect(last["done"], "it ends before it is done")
        _expect("error" not in last["metadata"], "it ends with an error")
        return text, last["metadata"]

    @contextmanager
    def _recorded(
        self, name: str, method: str, path: str, **how: Any
    ) -> Iterator[ResponseContextManager]:
        """One entry of the statistics: the time until the block is left, and what it raises."""
        self.conversation = None
        self._began = time.perf_counter()
        with self.client.request(
            method,
            f"/api/v1{path}",
            name=name,
            timeout=settings.turn_timeout,  # of silence
            catch_response=True,
            **how,
        ) as response:
            try:
                yield response
            except (BadAnswer, RequestException, LookupError, TypeError, ValueError) as exc:
                response.failure(f"{type(exc).__name__}: {exc}")
            response.request_meta["response_time"] = self._elapsed_ms()

    def _elapsed_ms(self) -> float:
        return 1000 * (time.perf_counter() - self._began)

    def _record_first_token(self) -> None:
        self.environment.events.request.fire(
            request_type="SSE",
            name="first token",
            response_time=self._elapsed_ms(),
            response_length=0,
            exception=None,
            context={},
        )


@events.quitting.add_listener
def judge(environment: Environment, **_: object) -> None:
    """At the end of a run: its exit code says whether every objective was met."""
    missed = list(_missed(environment.stats))
    for sentence in missed:
        print(f"missed {sentence}")
    environment.process_exit_code = 1 if missed else 0


def _missed(stats: RequestStats) -> Iterator[str]:
    """A sentence for each, which begins with its name. What was never measured is missed."""
    objectives = {
        "P95_FIRST_TOKEN_MS": ("first token", settings.p95_first_token_ms),
        "P95_STREAM_MS": ("whole stream", settings.p95_stream_ms),
        "P95_QUERY_MS": ("query", settings.p95_query_ms),
    }
    entries = {entry.name: entry for entry in stats.entries.values()}
    for objective, (name, most) in objectives.items():
        if name not in entries:
            yield f"{objective}: nothing was measured"
        elif (p95 := entries[name].get_response_time_percentile(0.95)) > most:
            yield f"{objective}: {p95:g} ms, and {most:g} are promised"
    if stats.total.fail_ratio > settings.max_fail_ratio:
        yield f"MAX_FAIL_RATIO: {stats.total.fail_ratio:.1%} failed"
