"""A worker for the sessions' tests: `python session_worker.py FILE LEASE`, commands on stdin.

    ask ID TEXT      one turn of the session that adds TEXT; then prints `stored TEXT`
    hold ID TEXT     the same, but the turn prints `holding TEXT` and waits for `release`
    chatter ID TEXT  turn after turn, for ever: TEXT0, TEXT1, ...
    release          let every held turn go on

A turn that fails prints `failed TEXT CODE` instead.
"""

import asyncio
import itertools
import sys
from datetime import UTC, datetime
from pathlib import Path

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import empty_checkpoint

from advanced.app.sessions import SqliteSessions
from shared.errors import AgentError

OWNER = "alice"


async def conversation(sessions: SqliteSessions, session_id: str) -> list[str]:
    saved = await sessions.checkpoints.aget_tuple(thread(session_id))
    return [m.text for m in saved.checkpoint["channel_values"]["messages"]] if saved else []


async def add(sessions: SqliteSessions, session_id: str, text: str) -> None:
    """What the end of a graph's run does: question and answer join the conversation."""
    config = thread(session_id)
    saved = await sessions.checkpoints.aget_tuple(config)
    before = saved.checkpoint["channel_values"]["messages"] if saved else []
    checkpoint = empty_checkpoint()
    checkpoint["ts"] = datetime.now(UTC).isoformat()
    new = [HumanMessage(text, id=f"q{text}"), AIMessage(f"{text}!", id=f"a{text}")]
    checkpoint["channel_values"] = {"query": text, "messages": [*before, *new]}
    await sessions.checkpoints.aput(config, checkpoint, {"step": 1}, {"messages": 1})


def thread(session_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": session_id}}


class Worker:
    def __init__(self, sessions: SqliteSessions) -> None:
        self.sessions = sessions
        self.release = asyncio.Event()

    async def ask(self, session_id: str, text: str, *, hold: bool = False) -> None:
        try:
            async with self.sessions.of(OWNER).turn(session_id, wait=30):
                if hold:
                    print("holding", text, flush=True)
                    await self.release.wait()
                await add(self.sessions, session_id, text)
        except AgentError as exc:
            print("failed", text, exc.code, flush=True)
        else:
            print("stored", text, flush=True)

    async def obey(self, command: str, *words: str) -> None:
        match command:
            case "ask":
                await self.ask(*words)
            case "hold":
                await self.ask(*words, hold=True)
            case "chatter":
                for number in itertools.count():
                    await self.ask(words[0], f"{words[1]}{number}")
            case "release":
                self.release.set()


async def main(file: str, lease: str) -> None:
    async with SqliteSessions(Path(file), lease=float(lease)) as sessions, asyncio.TaskGroup() as g:
        worker = Worker(sessions)
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            g.create_task(worker.obey(*line.split()))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
