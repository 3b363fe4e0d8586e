"""Your part: a load test of the agent, which fails when the service misses its objectives."""

from dataclasses import dataclass

from locust import HttpUser, events, task
from locust.env import Environment

from exercises.advanced.ex04_load_testing.questions import Question
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


class AgentUser(HttpUser):
    """Somebody who talks to the agent: logs in, asks, thinks, asks again."""

    conversation: Conversation | None = None

    def wait_time(self) -> float:
        """Seconds until the next turn."""
        raise NotImplementedError("TODO 2: think for a time between the two settings")

    def on_start(self) -> None:
        """Log in, once."""
        raise NotImplementedError("TODO 1: log in, and keep the token for every request")

    @task
    def query(self) -> None:
        """Begin a conversation, and wait for the whole answer."""
        raise NotImplementedError("TODO 3: ask first_question(), and look at the answer")

    @task
    def stream(self) -> None:
        """Begin a conversation, and read the answer while it is written."""
        raise NotImplementedError("TODO 4: read event by event, and take the time twice")

    @task
    def follow_up(self) -> None:
        """Go on with the conversation."""
        raise NotImplementedError("TODO 5: ask follow_up(...) in the same session")

    @task
    def session(self) -> None:
        """Look at the conversation."""
        raise NotImplementedError("TODO 6: compare the session with what you remember")


@events.quitting.add_listener
def judge(environment: Environment, **_: object) -> None:
    """At the end of a run: its exit code says whether every objective was met."""
    environment.process_exit_code = 1  # no run passes that nobody has judged
    if environment.stats.total.num_requests:
        raise NotImplementedError("TODO 7: compare the statistics with the objectives")
