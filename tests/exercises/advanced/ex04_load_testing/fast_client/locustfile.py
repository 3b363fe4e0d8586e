"""With Locust's other client, and one method for every turn."""

import json
import random
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

from locust import FastHttpUser, events, task
from locust.contrib.fasthttp import FAILURE_EXCEPTIONS, ResponseContextManager
from locust.env import Environment

from exercises.advanced.ex04_load_testing.questions import Question, first_question, follow_up
from exercises.advanced.ex04_load_testing.settings import read_settings

settings = read_settings()
BAD = (*FAILURE_EXCEPTIONS, AssertionError, AttributeError, LookupError, TypeError, ValueError)
OBJECTIVES = {
    "P95_FIRST_TOKEN_MS": ("first token", settings.p95_first_token_ms),
    "P95_STREAM_MS": ("whole stream", settings.p95_stream_ms),
    "P95_QUERY_MS": ("query", settings.p95_query_ms),
}


class Asker(FastHttpUser):
    network_timeout = settings.turn_timeout
    token = ""
    session_id: str | None = None
    asked: Question
    messages = 0

    def wait_time(self) -> float:
        return settings.think_min + random.random() * (settings.think_max - settings.think_min)

    def on_start(self) -> None:
        form = {"username": settings.agent_username, "password": settings.agent_password}

        def keep(response: ResponseContextManager) -> None:
            self.token = response.json()["access_token"]

        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        self.turn("login", "POST", "/auth/login", keep, data=urlencode(form), headers=headers)
        if not self.token:
            self.stop()

    @task
    def next_turn(self) -> None:
        kinds = (self.query, self.stream, self.follow_up, self.session)
        kind = random.choices(kinds, (20, 40, 30, 10))[0]
        if kind in (self.follow_up, self.session) and not self.session_id:
            kind = self.query
        kind()

    def query(self) -> None:
        self.begin()
        self.turn("query", "POST", "/query", self.look_at_answer, json={"query": self.asked.text})

    def follow_up(self) -> None:
        self.asked = follow_up(self.asked)
        body = {"query": self.asked.text, "session_id": self.session_id}
        self.turn("follow-up", "POST", "/query", self.look_at_answer, json=body)

    def stream(self) -> None:
        self.begin()
        body = {"query": self.asked.text}
        self.turn("whole stream", "POST", "/query/stream", self.listen, json=body, stream=True)

    def session(self) -> None:
        def look(response: ResponseContextManager) -> None:
            seen = response.json()
            assert (seen["session_id"], seen["message_count"]) == (self.session_id, self.messages)

        self.turn("session", "GET", f"/session/{self.session_id}", look)

    def begin(self) -> None:
        self.asked, self.session_id, self.messages = first_question(), None, 0

    def look_at_answer(self, response: ResponseContextManager) -> None:
        answer = response.json()
        self.look_at_text(answer["response"])
        assert self.session_id in (None, answer["session_id"]), "another session"
        self.session_id = answer["session_id"]

    def look_at_text(self, text: str) -> None:
        assert self.asked.is_answered_by(text), "a wrong answer"
        self.messages += 2

    def listen(self, response: ResponseContextManager) -> None:
        chunks: list[str] = []
        last: dict[str, Any] = {}
        for last in self.events_of(response):
            if last["chunk"]:
                if not chunks:
                    self.tell_first_token()
                chunks.append(last["chunk"])
        assert last.get("done"), "not done"
        self.look_at_text("".join(chunks))
        self.session_id = last["metadata"]["session_id"]  # which an error does not have

    def events_of(self, response: ResponseContextManager) -> Iterator[dict[str, Any]]:
        assert response._response, "no answer"
        while line := response._response.readline(b"\n"):
            assert time.perf_counter() - self.began < settings.turn_timeout, "too long"
            if line.startswith(b"data:"):
                yield json.loads(line[5:])

    def turn(
        self,
        name: str,
        method: str,
        path: str,
        look: Callable[[ResponseContextManager], None],
        **how: Any,
    ) -> None:
        headers = {"Authorization": f"Bearer {self.token}", **how.pop("headers", {})}
        self.began = time.perf_counter()
        with self.client.request(
            method, f"/api/v1{path}", name=name, headers=headers, catch_response=True, **how
        ) as response:
            try:
                response.raise_for_status()
                look(response)
            except BAD as exc:
                self.session_id = None
                response.failure(exc)
            response.request_meta["response_time"] = self.milliseconds()

    def milliseconds(self) -> float:
        return (time.perf_counter() - self.began) * 1000

    def tell_first_token(self) -> None:
        self.environment.events.request.fire(
            request_type="",
            name="first token",
            response_time=self.milliseconds(),
            response_length=0,
            exception=None,
        )


@events.quitting.add_listener
def decide(environment: Environment, **_: Any) -> None:
    stats = environment.stats
    p95 = {
        name: entry.get_response_time_percentile(0.95) for (name, _), entry in stats.entries.items()
    }
    missed = [name for name, (of, most) in OBJECTIVES.items() if p95.get(of, most + 1) > most]
    if stats.total.fail_ratio > settings.max_fail_ratio:
        missed.append("MAX_FAIL_RATIO")
    print(*(f"missed {name}" for name in missed), sep="\n")
    environment.process_exit_code = len(missed)
