"""The Postman collections: importable, complete, and each request works when sent from the top."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from scripts.check_docs import ROOT
from scripts.diagrams import the_app
from tests.advanced.serving_advanced import PASSWORDS, served_advanced
from tests.serving import make_checkout, served

TRACKS = ("medium", "advanced")
SAID = re.compile(r'pm\.collectionVariables\.set\("(\w+)", pm\.response\.json\(\)\.(\w+)\);')


def collection(track: str) -> dict[str, Any]:
    path = ROOT / "docs" / "postman" / f"{track}.json"
    read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return read


@contextmanager
def running(track: str, folder: Path) -> Iterator[str]:
    checkout = make_checkout(folder)
    if track == "medium":
        with served(checkout) as (service, _):
            yield service.url
    else:
        with served_advanced(checkout, folder / "state") as advanced:
            yield advanced.url


def filled(text: str, variables: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda name: variables[name[1]], text)


def sent(
    client: httpx.Client, item: dict[str, Any], variables: dict[str, str], auth: dict[str, Any]
) -> httpx.Response:
    """As Postman sends it: variables filled in, the collection's login unless it has its own."""
    request = item["request"]
    headers = {header["key"]: header["value"] for header in request["header"]}
    login = request.get("auth", auth)
    if login["type"] == "bearer":
        headers["Authorization"] = (
            f"Bearer {filled(login['bearer'][0]['value'], variables)}".strip()
        )
    body = request.get("body", {})
    return client.request(
        request["method"],
        filled(request["url"]["raw"], variables),
        headers=headers,
        content=filled(body["raw"], variables) if body.get("mode") == "raw" else None,
        data={
            field["key"]: filled(field["value"], variables) for field in body.get("urlencoded", ())
        }
        or None,
    )


@pytest.mark.parametrize("track", TRACKS)
def test_every_request_works_from_the_top(track: str, tmp_path: Path) -> None:
    """From the login to the logout: each answer is a 200, and later requests use earlier ones."""
    read = collection(track)
    variables = {variable["key"]: variable["value"] for variable in read["variable"]}
    with running(track, tmp_path) as url, httpx.Client(timeout=30, trust_env=False) as client:
        name, password = next(iter(PASSWORDS.items()))
        variables |= {"base_url": url, "username": name, "password": password}
        for item in read["item"]:
            answer = sent(client, item, variables, read.get("auth", {"type": "noauth"}))
            assert answer.status_code == 200, (item["name"], answer.text)
            for event in item.get("event", ()):
                for line in event["script"]["exec"]:
                    said = SAID.fullmatch(line)
                    assert said, line
                    variables[said[1]] = answer.json()[said[2]]


@pytest.mark.parametrize("track", TRACKS)
def test_holds_the_whole_contract(track: str) -> None:
    """One request for each operation that the service documents."""
    documented = {
        f"{method.upper()} {path}"
        for path, operations in the_app(track).openapi()["paths"].items()
        for method in operations
    }
    names = [item["name"].partition(":")[0] for item in collection(track)["item"]]
    assert sorted(names) == sorted(documented)


@pytest.mark.parametrize("track", TRACKS)
def test_can_be_imported(track: str) -> None:
    """What Postman's format 2.1.0 demands is there, and every variable that is used is declared."""
    read = collection(track)
    assert read["info"]["schema"].endswith("/collection/v2.1.0/collection.json")
    assert read["info"]["name"]
    for item in read["item"]:
        assert item["request"]["method"] in {"GET", "POST", "DELETE"}
        assert item["request"]["url"]["host"] == ["{{base_url}}"]
        assert all(isinstance(answer["code"], int) for answer in item["response"])
    used = set(re.findall(r"{{(\w+)}}", json.dumps(read)))
    assert used <= {variable["key"] for variable in read["variable"]}
    assert "base_url" in used
    assert track == "medium" or read["auth"]["bearer"][0]["value"] == "{{token}}"
