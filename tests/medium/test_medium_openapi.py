"""The medium service's OpenAPI: complete, true, and its examples fit their schemas."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest

from shared.offline_model import OfflineModel
from tests.serving import Service
from tests.talking import PLAIN, STREAM, event_data

SEED = 20261123
SESSION = "/api/v1/session/{session_id}"
STATUSES = {
    ("get", "/"): {200},
    ("get", "/health"): {200},
    ("post", PLAIN): {200, 400, 404, 409, 413, 422, 500, 502, 503, 504},
    ("post", STREAM): {200, 404, 409, 413, 422, 500, 502, 503, 504},
    ("get", SESSION): {200, 404, 422, 500},
    ("delete", SESSION): {200, 404, 422, 500},
    ("get", "/api/v1/sessions"): {200, 422, 500},
}


@pytest.fixture
async def document(client: httpx.AsyncClient) -> dict[str, Any]:
    return dict((await client.get("/openapi.json")).json())


def resolved(node: Any, document: dict[str, Any]) -> Any:
    """The node with every $ref replaced by what it refers to."""
    if isinstance(node, list):
        return [resolved(item, document) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target: Any = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return resolved(target, document)
    return {key: resolved(value, document) for key, value in node.items()}


def contents(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Where, media type and description of every body, request and response."""
    found = []
    for path, operations in resolved(document["paths"], document).items():
        for method, operation in operations.items():
            bodies = dict(operation["responses"])
            if "requestBody" in operation:
                bodies["request"] = operation["requestBody"]
            for status, body in bodies.items():
                for media_type, content in body.get("content", {}).items():
                    found.append((f"{method} {path} {status}", media_type, content))
    return found


def examples(content: dict[str, Any]) -> list[Any]:
    """All examples of a body: its own, and its schema's."""
    own: list[Any] = [example["value"] for example in content.get("examples", {}).values()]
    return [*own, *content.get("schema", {}).get("examples", [])]


async def test_every_operation_documents_its_statuses(document: dict[str, Any]) -> None:
    """The operations are those of the contract, each with every status it may answer with."""
    documented = {
        (method, path): {int(status) for status in operation["responses"]}
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert documented == STATUSES


async def test_every_operation_is_described(document: dict[str, Any]) -> None:
    """Each operation has a summary, a description and a name of its own."""
    operations = [op for path in document["paths"].values() for op in path.values()]
    assert all(op.get("summary") and op.get("description") for op in operations)
    assert len({op["operationId"] for op in operations}) == len(operations)


async def test_every_body_has_a_schema_and_an_example(document: dict[str, Any]) -> None:
    """Requests, answers and errors all have a schema, and an example that shows them."""
    lacking = [
        where
        for where, _, content in contents(document)
        if not content.keys() & {"schema", "itemSchema"}
        or not (
            examples(content) or all(map(shows_itself, content["schema"]["properties"].values()))
        )
    ]
    assert lacking == []


def shows_itself(field: dict[str, Any]) -> bool:
    """Whether a field's own schema says what stands there."""
    return bool(field.keys() & {"examples", "const", "default"})


async def test_examples_are_valid(document: dict[str, Any]) -> None:
    """Every example fits its schema."""
    checked = 0
    for where, media_type, content in contents(document):
        for example in examples(content):
            if media_type == "application/json":
                jsonschema_rs.validate(content["schema"], example)
            else:
                assert media_type == "text/event-stream", where
                schema = content["itemSchema"]["properties"]["data"]["contentSchema"]
                for data in event_data(example.encode()):
                    jsonschema_rs.validate(schema, json.loads(data))
            checked += 1
    assert checked > len(STATUSES)


async def test_errors_are_documented_as_json(document: dict[str, Any]) -> None:
    """Every refusal is documented as an ErrorResponse in JSON, of the stream's endpoint as well."""
    for where, media_type, content in contents(document):
        if where.split()[-1] not in {"200", "request"}:
            assert media_type == "application/json", where
            assert set(content["schema"]["properties"]) == {"error", "detail", "code"}, where


async def test_examples_of_errors_have_the_code_of_their_status(document: dict[str, Any]) -> None:
    """The examples under a status are the codes that the contract gives it."""
    codes = {
        "400": {"use_stream_endpoint"}, "404": {"session_not_found"}, "409": {"session_busy"},
        "413": {"too_large"}, "422": {"validation_error"}, "500": {"internal_error"},
        "502": {"model_error"}, "503": {"model_unavailable", "overloaded"},
        "504": {"model_timeout"},
    }  # fmt: skip
    for where, _, content in contents(document):
        if (status := where.split()[-1]) in codes:
            said = {example["code"] for example in examples(content)}
            assert codes[status] <= said, where


def test_schemathesis_finds_nothing(service: Service, model: OfflineModel, tmp_path: Path) -> None:
    """Schemathesis, as it comes, with all its checks and phases, finds nothing to complain of."""
    run = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json",
            f"--seed={SEED}", "--max-examples=25", "--checks=all", "--continue-on-failure",
            "--request-timeout=10", "--no-color",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, f"seed {SEED}\n{run.stdout}\n{run.stderr}"
