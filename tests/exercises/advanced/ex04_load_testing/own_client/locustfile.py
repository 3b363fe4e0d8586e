"""With a client and figures of its own: Locust has the users, and is told what was measured."""

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import requests
from locust import User, between, events
from locust.env import Environment
from locust.exception import StopUser

from exercises.advanced.ex04_load_testing.questions import Question, first_question, follow_up
from exercises.advanced.ex04_load_testing.settings import read_settings

settings = read_settings()
times: defaultdict[str, list[float]] = defaultdict(list)
"""Milliseconds, of each entry."""

failed: list[str] = []


class TooLong(Exception):
    """The turn is not over, and its time is."""


class Visitor(User):
    wait_time = between(settings.think_min, settings.think_max)

    def on_start(self) -> None:
        self.http = requests.Session()
        self.talk: list[Question] = []
        self.session_id = ""
        form = {"username": settings.agent_username, "password": settings.agent_password}
        with self.measured("login"):
            answer = self.http.post(self.url("/auth/login"), data=form)
            answer.raise_for_status()
            self.http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
            return
        raise StopUser

    def url(self, path: str) -> str:
        return f"{self.host}/api/v1{path}"

    def begin(self, *, streamed: bool) -> None:
        self.talk, self.session_id = [first_question()], ""
        if streamed:
            with self.measured("whole stream") as began:
                self.listen(self.talk[0], began)
        else:
            self.ask("query")

    def listen(self, question: Question, began: float) -> None:
        url, text, ends = self.url("/query/stream"), "", []
        with self.http.post(url, json={"query": question.text}, stream=True) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                field, _, data = line.partition(b": ")
                if field != b"data":
                    continue
                event = json.loads(data)
                if event["chunk"] and not text:
                    self.tell("first token", began)
                text += event["chunk"]
                ends += [event] if event["done"] else []
        (end,) = ends
        assert "error" not in end["metadata"], "an error in the last event"
        assert question.is_answered_by(text), "a wrong answer"
        self.session_id = end["metadata"]["session_id"]

    def ask(self, name: str) -> None:
        body = {"query": self.talk[-1].text}
        if self.session_id:
            body["session_id"] = self.session_id
        with self.measured(name):
            response = self.http.post(self.url("/query"), json=body)
            response.raise_for_status()
            answer = response.json()
            assert self.talk[-1].is_answered_by(answer["response"]), "a wrong answer"
            assert self.session_id in ("", answer["session_id"]), "another session"
            self.session_id = answer["session_id"]

    def query(self) -> None:
        self.begin(streamed=False)

    def stream(self) -> None:
        self.begin(streamed=True)

    def follow_up(self) -> None:
        if not self.session_id:
            return self.begin(streamed=False)
        self.talk.append(follow_up(self.talk[-1]))
        self.ask("follow-up")
        return None

    def session(self) -> None:
        if not self.session_id:
            return self.begin(streamed=False)
        with self.measured("session"):
            response = self.http.get(self.url(f"/session/{self.session_id}"))
            response.raise_for_status()
            seen = response.json()
            assert seen["session_id"] == self.session_id, "another session"
            assert seen["message_count"] == 2 * len(self.talk), "messages are missing"
        return None

    tasks = [query] * 2 + [stream] * 4 + [follow_up] * 3 + [session]  # type: ignore[assignment]

    @contextmanager
    def measured(self, name: str) -> Iterator[float]:
        began = time.monotonic()
        try:
            with gevent.Timeout(settings.turn_timeout, TooLong(f"over {settings.turn_timeout} s")):
                yield began
        except Exception as exc:  # noqa: BLE001 - whatever it is, the turn has failed
            self.session_id = ""
            self.tell(name, began, exc)
        else:
            self.tell(name, began)

    def tell(self, name: str, began: float, exc: Exception | None = None) -> None:
        self.environment.events.request.fire(
            request_type="TURN",
            name=name,
            response_time=1000 * (time.monotonic() - began),
            response_length=0,
            exception=exc,
            context={},
        )


@events.request.add_listener
def note(name: str, response_time: float, exception: Exception | None, **_: Any) -> None:
    times[name].append(response_time)
    if exception:
        failed.append(name)


@events.test_stop.add_listener
def judge(environment: Environment, **_: Any) -> None:
    for objective, name, promised in (
        ("P95_FIRST_TOKEN_MS", "first token", settings.p95_first_token_ms),
        ("P95_STREAM_MS", "whole stream", settings.p95_stream_ms),
        ("P95_QUERY_MS", "query", settings.p95_query_ms),
    ):
        if not times[name] or p95(times[name]) > promised:
            miss(environment, objective)
    if len(failed) > settings.max_fail_ratio * sum(map(len, times.values())):
        miss(environment, "MAX_FAIL_RATIO")
    environment.process_exit_code = environment.process_exit_code or 0


def miss(environment: Environment, objective: str) -> None:
    print(f"missed {objective}", flush=True)
    environment.process_exit_code = 3


def p95(sample: list[float]) -> float:
    return sorted(sample)[math.ceil(0.95 * len(sample)) - 1]
