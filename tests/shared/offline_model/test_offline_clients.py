"""The clients that people use: the official openai client and LangChain's ChatOpenAI."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from shared.offline_model import OfflineModel, Scenario, ToolCall, Usage


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def model() -> Iterator[OfflineModel]:
    with OfflineModel() as model:
        yield model


@tool
def look(query: str, limit: int = 3) -> str:
    """Look something up."""
    return f"{query} {limit}"


def chat(model: OfflineModel) -> ChatOpenAI:
    return ChatOpenAI(
        model="offline-assistant",
        api_key="any",
        base_url=model.base_url,
        stream_usage=True,
        use_responses_api=False,
        max_retries=0,
    )


def test_openai_client_plain_and_streamed(model: OfflineModel) -> None:
    """The synchronous openai client gets the same text, whole and in pieces."""
    model.respond(Scenario("Hello there, friend."))
    with openai.OpenAI(base_url=model.base_url, api_key="any", max_retries=0) as client:
        create = client.chat.completions.create
        plain = create(model="gpt-4o-mini", messages=[{"role": "user", "content": "Hi"}])
        streamed = create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": "Hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(streamed)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert plain.choices[0].message.content == text == "Hello there, friend."
    assert plain.usage is not None
    assert plain.usage == chunks[-1].usage


async def test_async_openai_client(model: OfflineModel) -> None:
    """The asynchronous openai client streams tool calls and lists the models."""
    model.respond(Scenario(tool_calls=[ToolCall("look", {"query": "x"})]))
    async with openai.AsyncOpenAI(base_url=model.base_url, api_key="any") as client:
        names = [card.id async for card in client.models.list()]
        stream = await client.chat.completions.create(
            model="offline-assistant", messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        reasons = [chunk.choices[0].finish_reason async for chunk in stream]
        card = await client.models.retrieve("gpt-4o-mini")
    assert "offline-assistant" in names
    assert card.id == "gpt-4o-mini"
    assert reasons[-1] == "tool_calls"


@pytest.mark.parametrize(
    ("scenario", "error"),
    [
        (Scenario(status=400), openai.BadRequestError),
        (Scenario(status=401), openai.AuthenticationError),
        (Scenario(status=403), openai.PermissionDeniedError),
        (Scenario(status=404), openai.NotFoundError),
        (Scenario(status=429), openai.RateLimitError),
        (Scenario(status=500), openai.InternalServerError),
        (Scenario(status=503), openai.InternalServerError),
        (Scenario(status=529), openai.InternalServerError),
        (Scenario(drop=True), openai.APIConnectionError),
        (Scenario("a b c", cut_after=1), openai.APIConnectionError),
    ],
)
def test_faults_raise_the_clients_own_errors(
    model: OfflineModel, scenario: Scenario, error: type[Exception]
) -> None:
    """What OpenAI's client raises for a real fault, it raises for ours."""
    model.respond(scenario)
    with (
        openai.OpenAI(base_url=model.base_url, api_key="any", max_retries=0) as client,
        pytest.raises(error),
    ):
        client.chat.completions.create(
            model="offline-assistant", messages=[{"role": "user", "content": "Hi"}]
        )


def test_clients_retry_what_they_are_told_to_retry(model: OfflineModel) -> None:
    """Enqueued faults are used up one by one: the client's retry finds the answer."""
    model.enqueue(
        Scenario(status=500, retry_after="0.01"), Scenario(status=429, retry_after="0.01")
    )
    model.respond(Scenario("At last."))
    with openai.OpenAI(base_url=model.base_url, api_key="any", max_retries=2) as client:
        answer = client.chat.completions.create(
            model="offline-assistant", messages=[{"role": "user", "content": "Hi"}]
        )
    assert answer.choices[0].message.content == "At last."
    assert [call.status for call in model.calls] == [500, 429, 200]


async def test_chat_openai_plain(model: OfflineModel) -> None:
    """ChatOpenAI gets text and usage, and the messages reach the model verbatim."""
    model.respond(Scenario("Hello {name}.", usage=Usage(3, 4)))
    answer = await chat(model).ainvoke([HumanMessage("{braces} and 😀")])
    assert answer.text == "Hello {name}."
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["total_tokens"] == 7
    assert model.calls[0].messages == [{"role": "user", "content": "{braces} and 😀"}]


async def test_chat_openai_streams_tool_calls_and_usage(model: OfflineModel) -> None:
    """ChatOpenAI puts streamed tool calls together, and reads the usage at the end."""
    calls = [ToolCall("look", {"query": "naïve 😀", "limit": 5}), ToolCall("look", {"query": "b"})]
    model.respond(Scenario(tool_calls=calls, preamble="Let me see."))
    whole = AIMessageChunk(content="")
    async for chunk in chat(model).bind_tools([look]).astream("Hi"):
        assert isinstance(chunk, AIMessageChunk)
        whole = whole + chunk
    assert whole.text == "Let me see."
    assert [call["args"] for call in whole.tool_calls] == [call.arguments for call in calls]
    assert len({call["id"] for call in whole.tool_calls}) == 2
    assert whole.response_metadata["finish_reason"] == "tool_calls"
    assert whole.usage_metadata is not None
    assert model.calls[0].tool_names == ["look"]


def test_malformed_tool_arguments_arrive_as_they_are(model: OfflineModel) -> None:
    """Arguments given as a string are not checked: the client sees the broken JSON."""
    model.respond(Scenario(tool_calls=[ToolCall("look", '{"query": "x')]))
    answer = chat(model).bind_tools([look]).invoke("Hi")
    assert answer.invalid_tool_calls[0]["args"] == '{"query": "x'


def test_unix_socket(tmp_path: Path) -> None:
    """The same server answers on a Unix socket."""
    path = tmp_path / "model.sock"
    with OfflineModel(uds=path) as model:
        model.respond(Scenario("Through a file."))
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(base_url=model.base_url, transport=transport) as http:
            answer = http.post(
                "/chat/completions",
                headers={"Authorization": "Bearer any"},
                json={
                    "model": "offline-assistant",
                    "messages": [{"role": "user", "content": "Hi"}],
                },
            )
    assert answer.json()["choices"][0]["message"]["content"] == "Through a file."
