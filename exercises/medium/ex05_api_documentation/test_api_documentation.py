"""The graded suite of exercise 5: an OpenAPI document that a stranger can work from."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import jsonschema_rs
import pytest

from grader.judge import PLAIN, STREAM, Client, check, event_data
from grader.judge.service import Service
from shared.offline_model import OfflineModel, Scenario

SESSION = "/api/v1/session/{session_id}"
SESSIONS = "/api/v1/sessions"
TURN = {404, 409, 413, 422, 500, 502, 503, 504}
POSSIBLE = {
    ("get", "/"): {500},
    ("get", "/health"): {500},
    ("post", PLAIN): TURN | {400},
    ("post", STREAM): TURN,
    ("get", SESSION): {404, 422, 500},
    ("delete", SESSION): {404, 422, 500},
    ("get", SESSIONS): {422, 500},
}
"""Which errors an operation can have at all."""

CODES = {
    400: {"use_stream_endpoint"}, 404: {"session_not_found"}, 409: {"session_busy"},
    413: {"too_large"}, 422: {"validation_error"}, 500: {"internal_error"},
    502: {"model_error"}, 503: {"model_unavailable", "overloaded"}, 504: {"model_timeout"},
}  # fmt: skip

READABLE = re.compile(r"[a-z][A-Za-z0-9]*([_-][A-Za-z0-9]+)*")
FROM_THE_PATH = re.compile(r"api_?v1|_(get|post|delete)$", re.IGNORECASE)
METHODS = ("get", "post", "put", "patch", "delete")
EVENT_FIELDS = {"chunk", "done", "metadata"}


@pytest.fixture(autouse=True)
def one_call_a_turn(model: OfflineModel) -> None:
    model.respond(Scenario("Good."))


# --- reading the document


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    about: dict[str, Any]
    """With every $ref replaced by what it refers to."""

    @property
    def name(self) -> str:
        return f"{self.method.upper()} {self.path}"

    @property
    def errors(self) -> dict[int, dict[str, Any]]:
        return {
            int(status): response
            for status, response in self.about["responses"].items()
            if status.isdecimal() and int(status) >= 400
        }

    @property
    def answer(self) -> dict[str, Any]:
        response = self.about["responses"].get("200")
        assert isinstance(response, dict), f"{self.name} should describe its answer, a 200"
        return response

    @property
    def parameters(self) -> list[dict[str, Any]]:
        return list(self.about.get("parameters", []))


@dataclass(frozen=True)
class Document:
    whole: dict[str, Any]
    operations: dict[tuple[str, str], Operation] = field(default_factory=dict)

    def __getitem__(self, key: tuple[str, str]) -> Operation:
        return self.operations[key]

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations.values())


async def document_of(client: Client, todo: int) -> Document:
    """The document, once it has all operations and the TODO is done."""
    whole = (await client.get("/openapi.json")).json()
    left = re.search(rf"TODO {todo}\b[^\n\"]*", json.dumps(whole).replace("\\n", "\n"))
    if left:
        raise AssertionError(f"the document itself still says: {left[0]}")
    found = {
        (method, path): Operation(method, path, resolved(about, whole))
        for path, item in whole["paths"].items()
        for method, about in item.items()
        if method in METHODS
    }
    missing = POSSIBLE.keys() - found.keys()
    assert not missing, "every operation of the service should stay in the document"
    return Document(whole, found)


def resolved(node: Any, whole: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [resolved(item, whole) for item in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("$ref"), str):
        target: Any = whole
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target.get(part)
            if target is None:  # it leads to a definition of the schema's own
                return node
        return {**resolved(target, whole), **{k: v for k, v in node.items() if k != "$ref"}}
    return {key: resolved(value, whole) for key, value in node.items()}


def own_examples(about: dict[str, Any]) -> list[Any]:
    """Those that stand beside a schema, by the names that OpenAPI has for them."""
    named = about.get("examples", {})
    values = [example.get("value") for example in named.values()] if named else []
    return values + ([about["example"]] if "example" in about else [])


def examples_of(about: dict[str, Any]) -> list[Any]:
    """A body's or parameter's own examples; where it has none, its schema's."""
    schema = about.get("schema", {})
    of_schema = list(schema.get("examples", []))
    return own_examples(about) or of_schema + ([schema["example"]] if "example" in schema else [])


def fits(schema: Any, value: Any) -> bool:
    return bool(jsonschema_rs.is_valid(schema, value))


def content(about: dict[str, Any], media_type: str, what: str) -> dict[str, Any]:
    found = about.get("content", {}).get(media_type)
    assert isinstance(found, dict), f"{what} should be described as {media_type}"
    return found


# --- names and words


@check("operation_ids")
async def test_operation_ids(service: Service) -> None:
    """Every operation has an id that reads like a function's name, and is its own."""
    async with service() as client:
        document = await document_of(client, 1)
    ids = [operation.about.get("operationId", "") for operation in document]
    for operation, id_ in zip(document, ids, strict=True):
        words = f"the operation id of {operation.name} should be a name such as a person would give"
        assert READABLE.fullmatch(id_), words
        assert len(id_) <= 40, words
        assert not FROM_THE_PATH.search(id_), f"{words}, without the path and the method"
    assert len(set(ids)) == len(ids), "two operations should not have the same id"


@check("summaries")
async def test_summaries(service: Service) -> None:
    """Every operation has a summary of its own, three words or more, and a description."""
    async with service() as client:
        document = await document_of(client, 1)
    for operation in document:
        summary = operation.about.get("summary", "")
        description = operation.about.get("description", "")
        assert 3 <= len(summary.split()) <= 12, (
            f"the summary of {operation.name} should say in three to twelve words what it does"
        )
        more = f"the description of {operation.name} should say more than its summary"
        assert description != summary, more
        assert len(description.split()) >= 5, more
    summaries = {operation.about["summary"] for operation in document}
    assert len(summaries) == len(document.operations), "no two summaries should be the same"


@check("tags")
async def test_tags(service: Service) -> None:
    """Every operation has a tag, and every tag is described."""
    async with service() as client:
        document = await document_of(client, 1)
    described = {
        tag["name"] for tag in document.whole.get("tags", []) if tag.get("description", "").strip()
    }
    used = {tag for operation in document for tag in operation.about.get("tags", [])}
    for operation in document:
        assert operation.about.get("tags"), f"{operation.name} should have a tag"
    assert len(used) >= 2, "tags should put the operations into groups: two at least"
    assert used <= described, "the document should say of each tag what it stands for"
    assert described <= used, "the document should not describe a tag that no operation has"


@check("parameters")
async def test_parameters(service: Service) -> None:
    """Every parameter says what it is, and shows an example that is valid."""
    async with service() as client:
        document = await document_of(client, 2)
    seen = 0
    for operation in document:
        for parameter in operation.parameters:
            seen += 1
            name = f"{parameter['name']} of {operation.name}"
            assert parameter.get("description", "").strip(), f"{name} should have a description"
            shown = examples_of(parameter)
            assert shown, f"{name} should have an example"
            assert all(fits(parameter["schema"], value) for value in shown), (
                f"the example of {name} should be valid"
            )
    assert seen >= 5, "the parameters of all operations should be in the document"
    limits = [p for p in document["get", SESSIONS].parameters if p["name"] == "limit"]
    assert [limit["schema"].get("default") for limit in limits] == [100], (
        "a page should have the length that it had: this exercise changes only what is said"
    )


# --- errors


@dataclass(frozen=True)
class Seen:
    """An error that the service was brought to answer with."""

    method: str
    path: str
    status: int
    code: str
    says_when: bool
    """Whether it came with Retry-After."""


async def provoked(service: Service, model: OfflineModel) -> list[Seen]:
    """Every error of every operation that can be had from outside."""
    seen: list[Seen] = []

    def note(response: httpx.Response, path: str) -> None:
        code = response.json()["code"]
        says_when = "Retry-After" in response.headers
        method = response.request.method.lower()
        seen.append(Seen(method, path, response.status_code, code, says_when))

    async with service(TURN_WAIT=0.2) as client:
        note(await client.post(PLAIN, json={"query": "hello", "stream": True}), PLAIN)
        for path in (PLAIN, STREAM):
            note(await client.post(path, json={"query": "x" * 70_000}), path)
            note(await client.post(path, json={"query": ""}), path)
            for scenario in (Scenario(html=True), Scenario(status=503, retry_after=5)):
                model.enqueue(scenario)
                note(await client.post(path, json={"query": "hello"}), path)
            session = f"s-{uuid4()}"
            async with holding(client, model, session):
                note(await client.post(path, json={"query": "?", "session_id": session}), path)
        unknown = SESSION.format(session_id=f"s-{uuid4()}")
        note(await client.get(unknown), SESSION)
        note(await client.delete(unknown), SESSION)
        note(await client.get(unknown, params={"include": "everything"}), SESSION)
        note(await client.get(SESSIONS, params={"limit": 0}), SESSIONS)
    model.respond(Scenario(hang=True))
    async with service(REQUEST_TIMEOUT=0.2) as client:
        for path in (PLAIN, STREAM):
            note(await client.post(path, json={"query": "hello"}), path)
    assert all(each.code in CODES.get(each.status, set()) for each in seen), (
        "the routes should go on answering as they did: this exercise changes only what is said"
    )
    return seen


@contextlib.asynccontextmanager
async def holding(client: Client, model: OfflineModel, session_id: str) -> AsyncIterator[None]:
    """While the block lasts, a turn of the session waits for a model that is silent."""
    model.enqueue(Scenario(hang=True))
    calls = model.call_count
    body = {"query": "wait", "session_id": session_id}
    first = asyncio.create_task(client.post(PLAIN, json=body))
    await model.wait_for_async(lambda model: model.call_count > calls)
    yield
    first.cancel()
    await asyncio.wait([first])


@check("errors_listed")
async def test_errors_listed(service: Service, model: OfflineModel) -> None:
    """Every error that the service answers with is in the document, where it can happen."""
    async with service() as client:
        document = await document_of(client, 3)
    for each in await provoked(service, model):
        operation = document[each.method, each.path]
        assert each.status in operation.errors, (
            f"{operation.name} can answer with {each.status}, and its description should say so"
        )
        described = operation.errors[each.status].get("description", "")
        assert described.strip(), (
            f"{operation.name} should say in words when it answers with {each.status}"
        )
        headers = {name.lower() for name in operation.errors[each.status].get("headers", {})}
        assert not each.says_when or "retry-after" in headers, (
            f"{each.status} of {operation.name} can come with a header that says when to ask "
            "again, and its description should name the header"
        )


@check("no_false_promises")
async def test_no_false_promises(service: Service) -> None:
    """No operation lists an error that it cannot have."""
    async with service() as client:
        document = await document_of(client, 3)
    for path in (PLAIN, STREAM):
        assert len(document["post", path].errors) >= 4, f"POST {path} should list its errors"
    for key, possible in POSSIBLE.items():
        for status in document[key].errors:
            assert status in possible, f"{document[key].name} can never answer with {status}"


@check("error_shape")
async def test_error_shape(service: Service) -> None:
    """Every error is described as what it is: JSON, an ErrorResponse."""
    async with service() as client:
        document = await document_of(client, 3)
        lost = await client.get(SESSION.format(session_id="nobody"))
    seen = 0
    for operation in document:
        for status, response in operation.errors.items():
            seen += 1
            what = f"{status} of {operation.name}"
            assert list(response.get("content", {})) == ["application/json"], (
                f"{what} should be described as application/json, and nothing else"
            )
            schema = content(response, "application/json", what).get("schema", {})
            assert set(schema.get("properties", {})) == {"error", "detail", "code"}, (
                f"the schema of {what} should be that of an ErrorResponse"
            )
            assert fits(schema, lost.json()), f"a real error should fit the schema of {what}"
    assert seen >= 8, "the errors should be in the document"


@check("error_examples")
async def test_error_examples(service: Service) -> None:
    """Every error has an example with a code that the service really sends with its status."""
    async with service() as client:
        document = await document_of(client, 3)
    seen = 0
    for operation in document:
        for status in operation.errors:
            shown = codes_shown(operation, status)
            seen += len(shown)
            assert shown, f"{status} of {operation.name} should have an example"
            assert shown <= CODES.get(status, set()), (
                f"the examples of {status} of {operation.name} should have a code that the service "
                "really sends with it"
            )
    assert seen >= 8, "the errors should have examples"


def codes_shown(operation: Operation, status: int) -> set[str]:
    what = f"{status} of {operation.name}"
    shown = examples_of(content(operation.errors[status], "application/json", what))
    assert all(isinstance(value, dict) for value in shown), f"an example of {what} is an object"
    return {str(value.get("code")) for value in shown}


# --- events


def stream_answer(document: Document) -> dict[str, Any]:
    answer = document["post", STREAM].answer
    return content(answer, "text/event-stream", "the answer of the stream endpoint")


def event_schema(document: Document) -> dict[str, Any]:
    """The schema of one event's data, wherever in the answer's schema it stands."""
    found = [
        schema
        for schema in walk(stream_answer(document))
        if set(schema.get("properties") or {}) >= EVENT_FIELDS
    ]
    assert found, (
        "the stream's schema should say what is in an event's data: chunk, done and metadata"
    )
    return found[0]


def walk(node: Any) -> Iterator[dict[str, Any]]:
    """Every object in the node that could be a schema; what is in examples is none."""
    if isinstance(node, dict):
        yield node
        for key, value in node.items():
            if key not in ("examples", "example"):
                yield from walk(value)
    elif isinstance(node, list):
        for item in node:
            yield from walk(item)


@check("events_described")
async def test_events_described(service: Service, model: OfflineModel) -> None:
    """A stream's answer is described as events, whose fields and whose last one are explained."""
    model.enqueue(Scenario("Good."), Scenario(pieces=["One", " two"], cut_after=1))
    async with service() as client:
        document = await document_of(client, 4)
        streams = [await client.post(STREAM, json={"query": "hello"}) for _ in range(2)]
    schema = event_schema(document)
    for name in sorted(EVENT_FIELDS):
        assert schema["properties"][name].get("description", "").strip(), (
            f"the event's field {name} should have a description"
        )
    for response in streams:
        for data in event_data(response.content):
            assert fits(schema, json.loads(data)), "real events should fit the event's schema"
    said = document["post", STREAM].answer.get("description", "")
    for word in ("done", "error"):
        assert word in said, (
            "the answer's description should say how a stream ends: with `done`, and with an "
            "`error` if it failed on its way"
        )


@check("event_examples")
async def test_event_examples(service: Service) -> None:
    """The examples of a stream are whole streams, as they go over the wire: a good, a failed."""
    async with service() as client:
        document = await document_of(client, 4)
    schema = event_schema(document)
    endings = []
    for example in own_examples(stream_answer(document)):
        assert isinstance(example, str), "an example of a stream is text: its lines, as they come"
        events = parsed(example)
        assert events, "an example of a stream has `data:` lines, each event ended by an empty one"
        assert all(fits(schema, event) for event in events), (
            "the events of an example should fit the event's schema"
        )
        done = [event.get("done", False) for event in events]
        assert done == [False] * (len(done) - 1) + [True], (
            "in an example, too, exactly the last event is done"
        )
        endings.append((events[-1].get("metadata") or {}).get("error"))
    assert any(error is None for error in endings), "an example should show a stream that ends well"
    failed = [error for error in endings if error is not None]
    assert failed, "an example should show a stream that fails on its way"
    known = {code for codes in CODES.values() for code in codes}
    assert all(set(error) == {"error", "detail", "code"} for error in failed), (
        "the error in an example's last event is an ErrorResponse"
    )
    assert all(error["code"] in known for error in failed), (
        "the error in an example should be one that the service has"
    )


def parsed(example: str) -> list[Any]:
    try:
        return [json.loads(data) for data in event_data(example.encode())]
    except ValueError:
        raise AssertionError("each `data:` of an example should be JSON") from None


# --- examples


def bodies(document: Document) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each JSON body is, and what is said of it."""
    for operation in document:
        if "requestBody" in operation.about:
            what = f"the question of {operation.name}"
            yield what, content(operation.about["requestBody"], "application/json", what)
        for status, response in operation.about["responses"].items():
            if "application/json" in response.get("content", {}):
                yield f"{status} of {operation.name}", response["content"]["application/json"]


def shows_itself(schema: dict[str, Any]) -> bool:
    """Whether each field's own schema says what stands there."""
    fields = schema.get("properties", {}).values()
    return bool(fields) and all(
        field.keys() & {"examples", "example", "const", "default"} for field in fields
    )


@check("examples_fit")
async def test_examples_fit(service: Service) -> None:
    """Every JSON body has an example, which fits its own schema and has no field beyond it."""
    async with service() as client:
        document = await document_of(client, 5)
    for what, about in bodies(document):
        schema, shown = about.get("schema", {}), examples_of(about)
        assert shown or shows_itself(schema), f"{what} should have an example"
        for example in shown:
            assert fits(schema, example), f"the example of {what} should fit its schema"
            assert set(example) <= set(schema.get("properties", {})), (
                f"the example of {what} has a field that its schema does not know"
            )


@check("examples_work")
async def test_examples_work(service: Service) -> None:
    """Questions, reading, deleting: sent in this order, every example is answered as described."""
    async with service() as client:
        document = await document_of(client, 5)
        for path in (PLAIN, STREAM):
            await ask_the_examples(client, document["post", path])
        for key in (("get", "/"), ("get", "/health"), ("get", SESSION), ("get", SESSIONS)):
            await follow_the_examples(client, document[key])
        reply = await client.get(SESSION.format(session_id=await a_session(client)))
        assert reply.json()["messages"] is None, (
            "a session should show its conversation to those who ask for it, and to no others"
        )
        await follow_the_examples(client, document["delete", SESSION])


async def a_session(client: Client) -> str:
    """The id of one that is there."""
    sessions: list[str] = (await client.get(SESSIONS)).json()["sessions"]
    return sessions[0]


async def ask_the_examples(client: Client, operation: Operation) -> None:
    what = f"the question of {operation.name}"
    body = operation.about.get("requestBody", {})
    shown = examples_of(content(body, "application/json", what))
    assert any(example.get("session_id") for example in shown), (
        f"an example of {what} should name its session"
    )
    assert any(not example.get("session_id") for example in shown), (
        f"an example of {what} should have no session yet"
    )
    for example in shown:
        response = await client.post(operation.path, json=example)
        assert response.status_code == 200, f"the examples of {what} should be answered with 200"
        if operation.path == PLAIN:
            answered_as_described(operation, response)


async def follow_the_examples(client: Client, operation: Operation) -> None:
    """With the required parameters' first examples, and each example of the others, one by one."""
    in_path = {
        parameter["name"]: first_shown(operation, parameter)
        for parameter in operation.parameters
        if parameter["in"] == "path"
    }
    queries: list[dict[str, Any]] = [{}]
    for parameter in operation.parameters:
        if parameter["in"] == "query":
            queries += [{parameter["name"]: value} for value in examples_of(parameter)]
    path = operation.path.format(**in_path)
    for query in queries:
        response = await client.request(operation.method.upper(), path, params=query)
        assert response.status_code == 200, (
            f"the examples of {operation.name} should work after those of the questions"
        )
        answered_as_described(operation, response)


def first_shown(operation: Operation, parameter: dict[str, Any]) -> Any:
    shown = examples_of(parameter)
    assert shown, f"{parameter['name']} of {operation.name} should have an example"
    return shown[0]


def answered_as_described(operation: Operation, response: httpx.Response) -> None:
    about = content(operation.answer, "application/json", f"the answer of {operation.name}")
    assert about.get("schema"), f"the answer of {operation.name} should have a schema"
    assert fits(about["schema"], response.json()), (
        f"the real answer of {operation.name} should fit its schema"
    )
