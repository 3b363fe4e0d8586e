"""The advanced service's OpenAPI: every status, every scheme; and schemathesis as a user."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest

from tests.advanced.conftest import Serve
from tests.advanced.serving_advanced import LOGIN, LOGOUT, SECRET_KEY
from tests.medium.test_medium_openapi import contents, examples
from tests.talking import PLAIN, STREAM

SEED = 20261123
SESSION = "/api/v1/session/{session_id}"
USER = {401, 422, 429, 500, 503}
STATUSES = {
    ("get", "/"): {200},
    ("get", "/health"): {200, 422, 500, 503},
    ("get", "/health/ready"): {200, 422, 500, 503},
    ("get", "/health/live"): {200},
    ("get", "/metrics"): {200, 401, 422, 500},
    ("post", LOGIN): {200, 413, *USER},
    ("post", LOGOUT): {200, *USER},
    ("post", PLAIN): {200, 400, 404, 409, 413, 502, 504, *USER},
    ("post", STREAM): {200, 404, 409, 413, 502, 504, *USER},
    ("get", SESSION): {200, 404, *USER},
    ("delete", SESSION): {200, 404, *USER},
    ("get", "/api/v1/sessions"): {200, *USER},
}
OF_USERS = {operation for operation, statuses in STATUSES.items() if statuses >= USER} - {
    ("post", LOGIN)
}


@pytest.fixture
async def document(nobody: httpx.AsyncClient) -> dict[str, Any]:
    return dict((await nobody.get("/openapi.json")).json())


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method, path): operation
        for path, found in document["paths"].items()
        for method, operation in found.items()
    }


async def test_every_operation_documents_its_statuses(document: dict[str, Any]) -> None:
    """The operations are those of the contract, each with every status it may answer with."""
    documented = {
        key: {int(status) for status in operation["responses"]}
        for key, operation in operations(document).items()
    }
    assert documented == STATUSES


async def test_every_users_route_says_that_it_is_one(document: dict[str, Any]) -> None:
    """HTTPBearer on each of them and on no other; 401 has its challenge, 429 and 503 their wait."""
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    for key, operation in operations(document).items():
        secured = operation.get("security", [])
        assert (secured == [{"HTTPBearer": []}]) == (key in OF_USERS), key
        if key in OF_USERS:
            headers = {s: set(r.get("headers", {})) for s, r in operation["responses"].items()}
            assert headers["401"] == {"WWW-Authenticate"}, key
            assert headers["429"] == headers["503"] == {"Retry-After"}, key


async def test_examples_are_valid_and_refusals_are_errors(document: dict[str, Any]) -> None:
    """Every JSON example fits its schema; every refusal is an ErrorResponse with examples."""
    checked = 0
    for where, media_type, content in contents(document):
        if media_type == "application/json":
            for example in examples(content):
                jsonschema_rs.validate(content["schema"], example)
                checked += 1
            if where.split()[-1] not in {"200", "request"}:
                assert set(content["schema"]["properties"]) == {"error", "detail", "code"}, where
                assert examples(content), where
    assert checked > len(STATUSES)


async def test_production_has_no_documentation_unless_it_is_wanted(serve: Serve) -> None:
    """/docs and /openapi.json are a 404 like any other there, and back with DOCS_ENABLED."""
    production = {"ENVIRONMENT": "production", "DEMO_USERS": "", "SECRET_KEY": SECRET_KEY}
    for enabled, status in (("", 404), ("true", 200)):
        service = serve(redis=False, DOCS_ENABLED=enabled, **production)
        async with service.client() as client:
            for path in ("/docs", "/openapi.json"):
                response = await client.get(path)
                assert response.status_code == status, path
                assert status == 200 or response.json()["code"] == "not_found"
                assert "max-age" in response.headers["Strict-Transport-Security"]
            assert (await client.get("/redoc")).status_code == 404


def test_schemathesis_finds_nothing(serve: Serve, tmp_path: Path) -> None:
    """Schemathesis, logged in, with all its checks and phases, finds nothing to complain of."""
    service = serve(METRICS_TOKEN="for-the-monitoring-alone")
    token = service.log_in("dave")
    run = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json",
            f"--header=Authorization: Bearer {token}", "--exclude-path", LOGOUT,
            f"--seed={SEED}", "--max-examples=10", "--checks=all", "--continue-on-failure",
            "--request-timeout=10", "--no-color",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, f"seed {SEED}\n{run.stdout}\n{run.stderr}"
