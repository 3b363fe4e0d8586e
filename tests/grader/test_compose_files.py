"""What a Compose file means does not depend on how it is written."""

import pytest

from grader.judge.compose import Service, read_compose, shell_script, substituted
from grader.judge.documents import Unreadable


def service(written: str) -> Service:
    """One that has an image, and what is written."""
    shared = "networks: {n: {}, m: {}}\nvolumes: {v: {}}\nsecrets: {s: {file: f}}\n"
    text = f"services:\n  a:\n    image: x\n    {written}\n  b: {{image: y}}\n{shared}"
    return read_compose(text, "compose.yaml").services["a"]


SAME = [
    ("environment: {A: 1, B: yes, C: true}", "environment: [A=1, B=yes, C=true]"),
    (
        "ports: ['127.0.0.1:80:8080/tcp']",
        "ports: [{host_ip: 127.0.0.1, published: 80, target: 8080}]",
    ),
    ("ports: ['[::1]:80:8080']", "ports: [{host_ip: '::1', published: '80', target: 8080}]"),
    ("ports: [8080]", "ports: [{target: 8080}]"),
    ("volumes: ['v:/a/']", "volumes: [{type: volume, source: v, target: /a}]"),
    ("volumes: ['./f:/a:ro']", "volumes: [{type: bind, source: ./f, target: /a, read_only: true}]"),
    ("tmpfs: /a:mode=777", "volumes: [{type: tmpfs, target: /a, tmpfs: {mode: 0o777}}]"),
    ("secrets: [s]", "secrets: [{source: s, target: /run/secrets/s}]"),
    ("networks: [n, m]", "networks: {n: , m: {}}"),
    ("depends_on: [b]", "depends_on: {b: {condition: service_started}}"),
    ("healthcheck: {test: a b}", "healthcheck: {test: [CMD-SHELL, a b]}"),
    ("healthcheck: {disable: true}", "healthcheck: {test: [NONE]}"),
    ("command: a 'b c'", "command: [a, b c]"),
    ("scale: 2", "deploy: {replicas: '2'}"),
    (
        "mem_limit: 1g\n    cpus: 0.5\n    pids_limit: 9",
        "deploy: {resources: {limits: {memory: 1024m, cpus: '0.5', pids: 9}}}",
    ),
    ("stop_grace_period: 1m30s", "stop_grace_period: 90s"),
    ("restart: always", "deploy: {restart_policy: {condition: any}}"),
    ("build: ./f", "build: {context: ./f}"),
]


def meaning(of: Service) -> tuple[object, ...]:
    mounts = [(m.kind, m.source, m.target, m.read_only) for m in of.mounts]
    told = (of.environment, of.ports, mounts, of.networks, of.waits_for, of.health, of.command)
    return (*told, of.replicas, of.limits, of.stop_seconds, of.comes_back, of.build)


@pytest.mark.parametrize(("short", "long"), SAME, ids=[short for short, _ in SAME])
def test_short_and_long_forms_mean_the_same(short: str, long: str) -> None:
    """And something else than nothing at all."""
    assert meaning(service(short)) == meaning(service(long)) != meaning(service("init: true"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${A:-b}", "b"),
        ("${A-${B:-c}}d", "cd"),
        ("$A${B}", ""),
        ("${A:+b}", ""),
        ("$$A $$(cat x)", "$A $(cat x)"),
        ("${COMPOSE_PROJECT_NAME:-x}", "project"),
        ("${A:?tell me}", ""),
    ],
)
def test_variables_have_the_values_of_a_host_where_none_is_set(text: str, value: str) -> None:
    """Defaults count; one that has to be set is noted."""
    wanted: set[str] = set()
    assert substituted(text, wanted) == value
    assert wanted == ({"A"} if "?" in text else set())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("services: {a: {image: x, imagee: y}}", "imagee"),
        ("services: {a: {image: x, deploy: {replicas: []}}}", r"services\.a\.deploy\.replicas"),
        ("services: []", "services"),
        ("- services", "no services"),
        ("services: {a: {image: x, networks: [n]}}", "network n"),
        ("services: {a: {image: x, volumes: ['v:/v']}}", "volume v"),
        ("services: {a: {image: x, secrets: [s]}}", "secret s"),
        ("services: {a: {image: x, depends_on: [b]}}", "service b"),
        ("services: {a: {image: x, command: $(id)}}", r"\$"),
        ("services: {a: {image: '${A'}}", "brace"),
        ("services: {a: {image: '${A;b}'}}", "form"),
        ("services: {a: {image: !!set {b}}}", "does not fit"),
    ],
)
def test_what_compose_refuses_is_refused(text: str, why: str) -> None:
    """In a sentence that says where."""
    with pytest.raises(Unreadable, match=why):
        read_compose(text, "compose.yaml")


@pytest.mark.parametrize(
    "written", ["stop_grace_period: soon", "mem_limit: much", "cpus: some", 'command: "a \'b"']
)
def test_values_that_are_none_are_refused(written: str) -> None:
    """The schema lets them pass as text."""
    with pytest.raises(Unreadable):
        meaning(service(written))


def test_a_shell_s_script_is_found() -> None:
    """Only where a shell runs it."""
    assert shell_script(("sh", "-euc", "a | b")) == "a | b"
    assert shell_script(("/bin/bash", "-c", "a")) == "a"
    assert shell_script(("redis-server", "-c", "a")) is None
    assert shell_script(("sh", "/a.sh")) is None
