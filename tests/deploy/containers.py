"""Both images and the whole of advanced/compose.yaml, with a real engine: `make test-containers`.

Not part of `make test`: it needs Docker, and minutes. Where no images can be pulled,
tests/deploy/engine.sh brings an engine and stand-ins for them.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from grader.judge.compose import Composition, Service, read_compose
from scripts.check_docs import ROOT
from tests.deploy.composed import SETTINGS, VERSION, Composed, composed, contents, docker, run

CANARY = "canary-5b1de0c79a3f4286"
"""Stands in files that must not get into an image."""

QUESTION = {"query": "What is 2 + 2?"}
ANSWER = "2 + 2 = 4."
PASSWORD = "a password for one test run"
MEDIUM, ADVANCED = f"deploying-agents-medium:{VERSION}", f"deploying-agents-advanced:{VERSION}"
SERVICES = ["api", "offline-model", "redis", "prometheus", "grafana"]
SCRAPED = 45.0
"""Seconds in which Prometheus has come by, which it does every 15."""

each_image = pytest.mark.parametrize("image", [MEDIUM, ADVANCED], ids=["medium", "advanced"])
each_service = pytest.mark.parametrize("service", SERVICES)


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    if not shutil.which("docker") or run("compose", "version").returncode:
        pytest.exit("These tests need Docker with its compose plugin.", 1)
    if run("version").returncode:
        pytest.exit("No Docker engine answers: start one, then try again.", 1)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as an operator has it: with secrets and a few things that lie around."""
    folder = tmp_path_factory.mktemp("checkout") / "repository"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "secrets")
    shutil.copytree(ROOT, folder, ignore=ignored)
    shutil.copy(ROOT / ".dockerignore", folder)
    for place in (".env", "advanced/.env", "shared/.env", "advanced/app/tls.key", "medium/app/.x"):
        (folder / place).write_text(f"CANARY={CANARY}\n")
    script = folder / "advanced/deploy/make-secrets.sh"
    subprocess.run(["sh", script], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def medium(checkout: Path) -> Iterator[Composed]:
    with composed(checkout / "tests/deploy/medium.compose.yaml") as project:
        yield project
    docker("image", "rm", "--force", MEDIUM)


@pytest.fixture(scope="session")
def advanced(checkout: Path) -> Iterator[Composed]:
    with composed(checkout / "advanced/compose.yaml") as project:
        yield project
    docker("image", "rm", "--force", ADVANCED)


STACK = "exercises/advanced/ex05_docker_compose"
"""Compose's own exercise: what its answer starts has the answer to another one in it."""


@pytest.fixture(scope="session")
def stack(checkout: Path) -> Iterator[Composed]:
    """The answer to the exercise, as whoever solved it has it."""
    solutions = checkout / "solutions/advanced"
    if not solutions.is_dir():
        pytest.skip("A student's copy of the course has no answers.")
    for answer in [*solutions.glob("ex02_*"), *solutions.glob("ex05_*")]:
        shutil.copytree(answer, checkout / "exercises/advanced" / answer.name, dirs_exist_ok=True)
    subprocess.run(["sh", checkout / STACK / "make-secrets.sh"], check=True, capture_output=True)
    with composed(checkout / STACK / "compose.yaml") as project:
        yield project
    docker("image", "rm", "--force", f"agents-api:{VERSION}")


@pytest.fixture
def caller(stack: Composed) -> Iterator[httpx.Client]:
    """A user who comes in by the proxy."""
    with logged_in(stack, "proxy", 8080) as client:
        yield client


@pytest.fixture(scope="session")
def both(medium: Composed, advanced: Composed) -> None:
    """Both images are built."""


@pytest.fixture
def client(advanced: Composed) -> Iterator[httpx.Client]:
    """Somebody who has been made a user and has logged in."""
    with logged_in(advanced, "api", 8000) as client:
        yield client


@contextmanager
def logged_in(project: Composed, door: str, port: int) -> Iterator[httpx.Client]:
    project.inside("api", "python", "-m", "advanced.app.users", "ada", text=f"{PASSWORD}\n")
    with httpx.Client(base_url=project.url(door, port), trust_env=False, timeout=60) as client:
        client.headers["Authorization"] = f"Bearer {token(client)}"
        yield client


def token(client: httpx.Client) -> str:
    answer = client.post("/api/v1/auth/login", data={"username": "ada", "password": PASSWORD})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


def streamed(client: httpx.Client, question: dict[str, str]) -> list[tuple[float, dict[str, Any]]]:
    """The events of an answer, each with the time at which it came."""
    with client.stream("POST", "/api/v1/query/stream", json=question) as response:
        assert response.status_code == 200
        return [
            (time.monotonic(), json.loads(line.removeprefix("data: ")))
            for line in response.iter_lines()
            if line.startswith("data: ")
        ]


def assert_streams(client: httpx.Client) -> None:
    events = streamed(client, {"query": "How do I stream tokens with FastAPI?"})
    text = [(when, event["chunk"]) for when, event in events if event["chunk"]]
    assert len(text) > 5
    assert text[-1][0] - text[0][0] > 0.1, "all of it came at once"
    assert [event["done"] for _, event in events].index(True) == len(events) - 1


def test_medium_answers(medium: Composed) -> None:
    """The medium image is healthy, and answers whole and in a stream."""
    with httpx.Client(base_url=medium.url("medium", 8000), trust_env=False, timeout=60) as client:
        assert client.post("/api/v1/query", json=QUESTION).json()["response"] == ANSWER
        assert_streams(client)


def test_advanced_answers(client: httpx.Client) -> None:
    """A user who was made in the container logs in, asks, and gets an answer from the model."""
    answer = client.post("/api/v1/query", json=QUESTION)
    assert answer.status_code == 200, answer.text
    assert answer.json()["response"] == ANSWER


def test_advanced_streams(client: httpx.Client) -> None:
    """The answer comes while it is written, through all the containers."""
    assert_streams(client)


def test_strangers_are_refused(advanced: Composed) -> None:
    """Neither questions nor metrics are answered without a token."""
    url = advanced.url("api", 8000)
    assert httpx.post(f"{url}/api/v1/query", json=QUESTION, trust_env=False).status_code == 401
    assert httpx.get(f"{url}/metrics", trust_env=False).status_code == 401


def test_production_needs_its_secrets(both: None) -> None:
    """The image alone refuses to start, and says what is missing."""
    done = run("run", "--rm", ADVANCED)
    assert done.returncode not in (0, 125)
    assert "SECRET_KEY" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@each_service
def test_service_is_healthy_and_confined(advanced: Composed, service: str) -> None:
    """Not root, no capabilities, a file system that stays as it is, and limits."""
    assert_confined(advanced, service)
    host = advanced.inspected(service)["HostConfig"]
    assert 0 < host["Memory"] <= 2**30
    assert host["NanoCpus"] > 0
    assert host["PidsLimit"] > 0


def test_medium_can_be_confined(medium: Composed) -> None:
    """The medium image needs no more rights than the advanced one."""
    assert_confined(medium, "medium")


def assert_confined(project: Composed, service: str) -> None:
    assert project.inspected(service)["State"]["Health"]["Status"] == "healthy"
    lines = project.inside(service, "cat", "/proc/1/status").splitlines()
    status = {name: values.split() for name, _, values in (line.partition(":") for line in lines)}
    assert "0" not in status["Uid"]
    assert {int(status[kind][0], 16) for kind in ("CapEff", "CapPrm", "CapBnd")} == {0}
    assert status["NoNewPrivs"] == ["1"]
    mounts = project.inside(service, "cat", "/proc/mounts").splitlines()
    (options,) = [line.split()[3] for line in mounts if line.split()[1] == "/"]
    assert "ro" in options.split(",")


def test_redis_is_for_the_service_alone(advanced: Composed) -> None:
    """It has no port on the host, is out of its neighbours' reach, and asks for a password."""
    redis = advanced.inspected("redis")
    assert not any(redis["NetworkSettings"]["Ports"].values())
    (network,) = redis["NetworkSettings"]["Networks"].values()
    ping = f"""
import socket
try:
    with socket.create_connection(({network["IPAddress"]!r}, 6379), timeout=2) as redis:
        redis.sendall(b"PING\\r\\n")
        print(redis.recv(100).decode())
except OSError:
    print("out of reach")
"""
    assert advanced.python("api", ping).startswith("-NOAUTH")
    assert advanced.python("offline-model", ping) == "out of reach"


def test_prometheus_reads_the_metrics(advanced: Composed, client: httpx.Client) -> None:
    """With the token, from the service, which has counted the question."""
    client.post("/api/v1/query", json=QUESTION)
    counted = 'http_requests_total{job="agent", endpoint="/api/v1/query", status="200"}'
    assert asked(advanced, 'up{job="agent"} == 1', patience=SCRAPED)
    assert asked(advanced, counted, patience=SCRAPED)


def test_dashboard_asks_what_prometheus_understands(advanced: Composed) -> None:
    """Each expression of each panel is evaluated by the real Prometheus."""
    dashboard = json.loads((ROOT / "advanced/deploy/grafana/dashboards/agent.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            asked(advanced, target["expr"].replace("$__rate_interval", "1m"))


def asked(project: Composed, expression: str, patience: float = 0) -> list[Any]:
    """What Prometheus answers, at best something within `patience` seconds."""
    url = f"{project.url('prometheus', 9090)}/api/v1/query"
    deadline = time.monotonic() + patience
    while True:
        answer = httpx.get(url, params={"query": expression}, trust_env=False).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        if answer["data"]["result"] or time.monotonic() > deadline:
            return list(answer["data"]["result"])
        time.sleep(0.5)


def test_alerts_do_as_they_are_told(advanced: Composed) -> None:
    """promtool, in the container, checks the configuration and runs the rules' own tests."""
    advanced.inside("prometheus", "promtool", "check", "config", "/etc/prometheus/prometheus.yml")
    advanced.inside("prometheus", "promtool", "test", "rules", "/etc/prometheus/alerts_test.yml")


def test_grafana_has_the_dashboard(advanced: Composed, checkout: Path) -> None:
    """Whoever logs in with the password finds the dashboard, and its data source answers."""
    password = (checkout / "advanced/deploy/secrets/GRAFANA_PASSWORD").read_text().strip()
    with httpx.Client(
        base_url=advanced.url("grafana", 3000), auth=("admin", password), trust_env=False
    ) as grafana:
        health = grafana.get("/api/health").json()
        assert health["database"] == "ok"
        if health.get("stand_in"):
            pytest.skip("Grafana is a stand-in here: only its container was tested")
        assert grafana.get("/api/dashboards/uid/agent").status_code == 200
        assert grafana.get("/api/datasources/uid/prometheus/health").json()["status"] == "OK"


@each_image
def test_image_has_no_secret(both: None, image: str, checkout: Path, tmp_path: Path) -> None:
    """No layer and no line of its history has one, nor a file that nobody named."""
    secrets = [
        path.read_bytes().strip() for path in (checkout / "advanced/deploy/secrets").glob("[A-Z]*")
    ]
    unwanted = [CANARY.encode(), *secrets]
    assert len(unwanted) == 5
    ours = set()
    for name, data in contents(image, tmp_path):
        assert not any(word in data for word in unwanted), name
        if name.startswith("srv/"):
            ours.add(name)
    assert "srv/shared/agent_service.py" in ours, "the layers were not read"
    assert not [name for name in ours if Path(name).name.startswith(".")]


@each_image
def test_image_has_no_build_tools(both: None, image: str) -> None:
    """Neither compilers nor what installs packages are where the service runs."""
    tools = "gcc cc make git uv hatch"
    found = run("run", "--rm", image, "sh", "-c", f"command -v {tools}; python -m pip --version")
    assert found.stdout == ""
    assert "No module named pip" in found.stderr
    assert "No module named" in run("run", "--rm", image, "python", "-c", "import hatchling").stderr


COMPILED = """
import importlib.util, pathlib, struct
for folder in ("/srv", "/opt/venv/lib"):
    for source in pathlib.Path(folder).rglob("*.py"):
        compiled = pathlib.Path(importlib.util.cache_from_source(source))
        if not compiled.exists():
            print("not compiled:", source)
        elif struct.unpack("<I", compiled.read_bytes()[8:12])[0] != int(source.stat().st_mtime):
            print("outdated:", source)
print("looked at", source)
"""


@each_image
def test_image_is_compiled(both: None, image: str) -> None:
    """Each module has its bytecode, for the file that is there: the start compiles nothing."""
    said = docker("run", "--rm", "--interactive", image, "python", "-", text=COMPILED)
    assert said.startswith("looked at /opt/venv")


def test_advanced_does_without_redis(advanced: Composed, client: httpx.Client) -> None:
    """With Redis frozen the service answers, and says what it does without."""
    assert not client.get("/health").json()["degraded"]
    advanced("pause", "redis")
    try:
        answer = client.post("/api/v1/query", json={"query": "What is 3 + 4?"})
        assert answer.json()["response"] == "3 + 4 = 7."
        wait_until(lambda: client.get("/health").json()["degraded"])
    finally:
        advanced("unpause", "redis")
    wait_until(lambda: not client.get("/health").json()["degraded"])


def test_backup_brings_back_what_was_lost(advanced: Composed, client: httpx.Client) -> None:
    """By the commands of docs/deployment.md, in a new container, which keeps users and the key."""
    session = client.post("/api/v1/query", json=QUESTION).json()["session_id"]
    copy = "VACUUM INTO '/var/lib/agent/backup.db'"
    advanced.inside("api", "python", "-m", "sqlite3", "/var/lib/agent/sessions.db", copy)
    client.delete(f"/api/v1/session/{session}")
    assert client.get(f"/api/v1/session/{session}").status_code == 404
    advanced("stop", "api")
    assert advanced.inspected("api")["State"]["ExitCode"] in (0, 143), "it was killed"
    restore = "cd /var/lib/agent && rm -f sessions.db-* && cat backup.db >sessions.db"
    advanced("run", "--rm", "--no-deps", "--no-TTY", "api", "sh", "-c", restore)
    advanced.up("--force-recreate", "--no-deps", "api")
    with httpx.Client(
        base_url=advanced.url("api", 8000), headers=client.headers, trust_env=False
    ) as later:
        assert later.get(f"/api/v1/session/{session}").json()["message_count"] == 2
        assert token(later)


def wait_until(condition: Any, patience: float = 20.0) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_real_model_replaces_the_offline_one(checkout: Path) -> None:
    """With deploy/real-model.yaml there is a key, no offline model, and no address of one."""
    files = [checkout / "advanced/compose.yaml", checkout / "advanced/deploy/real-model.yaml"]
    (checkout / "advanced/deploy/secrets/OPENAI_API_KEY").touch()
    composition = json.loads(
        docker("compose", "-f", files[0], "-f", files[1], "config", "--format", "json")
    )
    assert composition["services"].keys() == {*SERVICES} - {"offline-model"}
    api = composition["services"]["api"]
    assert "OPENAI_API_KEY" in {secret["source"] for secret in api["secrets"]}
    assert api["environment"]["OPENAI_BASE_URL"] == ""


def test_exercise_answers_through_the_proxy(caller: httpx.Client) -> None:
    """A question is answered, and a stream comes word for word; /metrics does not come out."""
    answer = caller.post("/api/v1/query", json=QUESTION)
    assert answer.status_code == 200, answer.text
    assert answer.json()["response"] == ANSWER
    assert_streams(caller)
    assert caller.get("/metrics").status_code == 404


def test_exercise_has_two_replicas_that_answer(stack: Composed, caller: httpx.Client) -> None:
    """Prometheus finds both, and both have answered questions."""
    for _ in range(10):
        caller.post("/api/v1/query", json=QUESTION).raise_for_status()
    assert asked(stack, 'count(up{job="agent"} == 1) == 2', patience=SCRAPED)
    answered = 'http_requests_total{job="agent", endpoint="/api/v1/query", status="200"} > 0'
    assert asked(stack, f"count({answered}) == 2", patience=SCRAPED)


def test_exercise_keeps_databases_private(stack: Composed) -> None:
    """They have no port on the host, and the proxy cannot reach them."""
    for service in ("postgres", "redis", "api", "offline-model"):
        assert not any(stack.inspected(service)["NetworkSettings"]["Ports"].values()), service
    networks = {
        service: set(stack.inspected(service)["NetworkSettings"]["Networks"])
        for service in ("proxy", "api", "postgres", "redis")
    }
    for database in ("postgres", "redis"):
        assert networks[database] <= networks["api"]
        assert not networks[database] & networks["proxy"]


@pytest.mark.parametrize("service", [*SERVICES, "proxy", "postgres"])
def test_exercise_confines_each_service(stack: Composed, service: str) -> None:
    """Not root, no capabilities, a file system that stays as it is, and limits."""
    assert_confined(stack, service)
    host = stack.inspected(service)["HostConfig"]
    assert 0 < host["Memory"] <= 2**30
    assert host["NanoCpus"] > 0
    assert host["PidsLimit"] > 0


def test_exercise_tells_no_secret(stack: Composed, checkout: Path) -> None:
    """What the engine shows of the containers has none."""
    secrets = [path.read_text().strip() for path in (checkout / STACK / "secrets").glob("[A-Z]*")]
    shown = "".join(json.dumps(stack.inspected(service)) for service in stack.services)
    assert len(secrets) == 5
    assert not [secret for secret in secrets if secret in shown]


def test_exercise_s_image_has_what_runs(stack: Composed) -> None:
    """The answer to the other exercise, and neither its tests nor its users."""
    found = {Path(path).name for path in stack.inside("api", "find", "/srv/answer").split()}
    assert "app.py" in found
    assert not [name for name in found if name.startswith("test_") or name.endswith(".json")]


def test_exercise_reads_its_configuration(stack: Composed) -> None:
    """promtool finds nothing wrong with Prometheus's, nor nginx with the proxy's."""
    stack.inside("prometheus", "promtool", "check", "config", "/etc/prometheus/prometheus.yml")
    stack.inside("proxy", "nginx", "-t", "-c", "/etc/nginx/nginx.conf")


def test_exercise_survives_its_replicas(stack: Composed, caller: httpx.Client) -> None:
    """One is killed, then both are replaced: the proxy goes on, and the session is there."""
    session = caller.post("/api/v1/query", json=QUESTION).json()["session_id"]
    assert session in stack.inside("postgres", "pg_dump", "--data-only", "-U", "agent", "agent")
    docker("kill", stack.containers("api")[0])
    wait_until(lambda: all(answers(caller) for _ in range(6)), patience=40)
    stack.up("--force-recreate", "--no-deps", "api")
    wait_until(lambda: all(answers(caller) for _ in range(6)), patience=40)
    follow_up = {"query": "And what is 2 + 3?", "session_id": session}
    assert caller.post("/api/v1/query", json=follow_up).status_code == 200
    assert caller.get(f"/api/v1/session/{session}").json()["message_count"] == 4


def answers(client: httpx.Client) -> bool:
    return client.get("/health/ready").status_code == 200


EXERCISE = "advanced/ex05_docker_compose"
COMPOSE_FILES = [
    ROOT / "advanced/compose.yaml",
    *sorted((ROOT / "solutions").glob(f"{EXERCISE}/compose.yaml")),
    *sorted((ROOT / "tests/exercises").glob(f"{EXERCISE}/*/compose.yaml")),
]


@pytest.mark.parametrize("path", COMPOSE_FILES, ids=lambda path: path.parent.name)
def test_exercise_is_read_as_compose_reads_it(path: Path) -> None:
    """The judge understands these files, in all their forms, as Compose itself does."""
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    printed = subprocess.run(
        ["docker", "compose", "-f", path, "config", "--format", "json"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    judged = read_compose(path.read_text(encoding="utf-8"), path.name)
    theirs = read_compose(printed, path.name)
    for name, service in judged.services.items():
        assert meaning(judged, service) == meaning(theirs, theirs.services[name]), name


def meaning(file: Composition, service: Service) -> list[object]:
    """Without paths on the host, which Compose completes."""
    mounts = sorted((mount.kind, mount.target, mount.read_only) for mount in service.mounts)
    inside = {name: file.internal(name) for name in service.networks}
    runs = [service.entrypoint, service.command, service.environment, service.health]
    kept = [service.limits, service.replicas, service.stop_seconds, service.waits_for]
    return [mounts, service.ports, inside, *runs, *kept]
