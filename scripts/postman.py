"""A Postman collection of each service, from its OpenAPI document; format 2.1.0.

Sent from the top, every request works: the login keeps its token, a question keeps its session.
"""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from scripts.diagrams import the_app

SCHEMA = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
FIRST = ("login", "query", "query_stream", "get_session", "list_sessions", "delete_session")
LAST = ("logout",)
KEPT = {"login": ("token", "access_token"), "query": ("session_id", "session_id")}
"""What an answer is for: which variable takes which of its fields."""

QUESTION = {"query": "What is 17.5% of 2480, minus 12?"}

Operation = dict[str, Any]


def collection(track: str) -> str:
    """The file's text."""
    app = the_app(track)
    document = app.openapi()
    variables = {"base_url": "http://localhost:8000", "session_id": ""}
    if track == "advanced":
        variables |= {"token": "", "username": "alice", "password": "", "metrics_token": ""}
    written = {
        "info": {
            "name": app.title,
            "description": "Made by `make docs` from the service's OpenAPI document. Set base_url"
            + (", and alice's password, which the service prints" if track == "advanced" else "")
            + "; then send the requests from the top.",
            "schema": SCHEMA,
        },
        "variable": [{"key": key, "value": value} for key, value in variables.items()],
        "item": [_item(*operation, document) for operation in _in_order(document)],
    }
    if track == "advanced":
        token = {"key": "token", "value": "{{token}}", "type": "string"}
        written["auth"] = {"type": "bearer", "bearer": [token]}
    return json.dumps(written, indent=2, ensure_ascii=False) + "\n"


def _in_order(document: dict[str, Any]) -> list[tuple[str, str, str, Operation]]:
    """Each operation's name, method, path and description, in an order in which all work."""
    found = [
        (operation["operationId"].partition("_api_v1_")[0], method, path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]

    def place(entry: tuple[str, str, str, Operation]) -> int:
        name = _short(entry[0])
        return 1 + FIRST.index(name) if name in FIRST else 100 if name in LAST else 0

    return sorted(found, key=place)


def _short(operation_id: str) -> str:
    """The function's name: FastAPI adds the path and the method behind it."""
    names = sorted((*FIRST, *LAST), key=len, reverse=True)
    return next((name for name in names if operation_id.startswith(name)), operation_id)


def _item(
    operation_id: str, method: str, path: str, operation: Operation, document: dict[str, Any]
) -> dict[str, Any]:
    name = _short(operation_id)
    request = {
        "method": method.upper(),
        "header": [],
        "url": _url(path, operation),
        "description": operation.get("description", ""),
        **_body(name, operation),
        **_authorisation(path, operation),
    }
    item: dict[str, Any] = {
        "name": f"{method.upper()} {path}: {operation['summary']}",
        "request": request,
        "response": list(_answers(operation, request)),
    }
    if name in KEPT:
        variable, field = KEPT[name]
        script = f'pm.collectionVariables.set("{variable}", pm.response.json().{field});'
        item["event"] = [
            {"listen": "test", "script": {"type": "text/javascript", "exec": [script]}}
        ]
    return item


def _url(path: str, operation: Operation) -> dict[str, Any]:
    named = path.replace("{session_id}", "{{session_id}}")
    query = [
        {
            "key": parameter["name"],
            "value": "messages" if parameter["name"] == "include" else "",
            "description": parameter.get("description", ""),
            "disabled": True,
        }
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "query"
    ]
    url: dict[str, Any] = {
        "raw": "{{base_url}}" + named,
        "host": ["{{base_url}}"],
        "path": [quote(part, safe="{}") for part in named.strip("/").split("/") if part],
    }
    return {**url, "query": query} if query else url


def _body(name: str, operation: Operation) -> dict[str, Any]:
    content = operation.get("requestBody", {}).get("content", {})
    if "application/x-www-form-urlencoded" in content:
        fields = [{"key": key, "value": f"{{{{{key}}}}}"} for key in ("username", "password")]
        return {"body": {"mode": "urlencoded", "urlencoded": fields}}
    if "application/json" in content:
        question = QUESTION if name == "query" else {**QUESTION, "session_id": "{{session_id}}"}
        text = json.dumps(question, indent=2)
        return {
            "header": [{"key": "Content-Type", "value": "application/json"}],
            "body": {"mode": "raw", "raw": text, "options": {"raw": {"language": "json"}}},
        }
    return {}


def _authorisation(path: str, operation: Operation) -> dict[str, Any]:
    """The collection's token, unless the operation wants none or another one."""
    if path == "/metrics":
        token = {"key": "token", "value": "{{metrics_token}}", "type": "string"}
        return {"auth": {"type": "bearer", "bearer": [token]}}
    return {} if operation.get("security") else {"auth": {"type": "noauth"}}


def _answers(operation: Operation, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One for each example in the document, refusals included."""
    for status, answer in operation["responses"].items():
        for kind, content in answer.get("content", {}).items():
            for label, example in content.get("examples", {}).items():
                value = example["value"]
                yield {
                    "name": f"{status} {label}",
                    "originalRequest": request,
                    "code": int(status),
                    "status": answer["description"],
                    "header": [{"key": "Content-Type", "value": kind}],
                    "body": value if isinstance(value, str) else json.dumps(value, indent=2),
                }
