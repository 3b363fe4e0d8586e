"""Compose files as data: what one means, in whichever of the short and long forms it is written.

Nothing is started, and no file that it names is opened. A variable has the value that it has where
nobody has set any.
"""

import json
import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from itertools import pairwise
from typing import Any

import jsonschema_rs

from grader.judge.documents import Unreadable
from grader.judge.yaml_documents import parse_yaml

KNOWN = {"COMPOSE_PROJECT_NAME": "project", "PWD": "."}
"""The variables that Compose sets, and the shell."""

VARIABLE = re.compile(r"\$(?:\$|(?P<plain>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)|)", re.ASCII)
TIMES = {"": 1.0, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
SIZES = {"": 0, "b": 0, "k": 1, "kb": 1, "m": 2, "mb": 2, "g": 3, "gb": 3}


@dataclass(frozen=True)
class Port:
    host_ip: str
    published: str
    """Empty: one that the engine chooses."""
    target: str

    @property
    def only_this_host(self) -> bool:
        return self.host_ip.startswith("127.") or self.host_ip == "::1"


@dataclass(frozen=True)
class Mount:
    """Something at a place in a container: a volume, a part of the host, memory, a secret..."""

    kind: str
    """bind, volume, tmpfs, secret or config."""
    source: str
    target: str
    read_only: bool = False
    options: str = ""
    """Of memory that is mounted: `size=1m,mode=1777`."""


@dataclass(frozen=True)
class Health:
    off: bool = False
    command: tuple[str, ...] = ()
    """Empty: the image's own."""
    in_shell: bool = False


@dataclass(frozen=True)
class Limits:
    """0 where there is none."""

    memory: int
    cpus: float
    pids: int


@dataclass(frozen=True)
class Service:
    name: str
    said: Mapping[str, Any]

    def text(self, key: str) -> str:
        return str(self.said.get(key) or "")

    @property
    def build(self) -> Mapping[str, Any] | None:
        build = self.said.get("build")
        return {"context": build} if isinstance(build, str) else build

    @cached_property
    def command(self) -> tuple[str, ...]:
        return words(self.said.get("command"))

    @cached_property
    def entrypoint(self) -> tuple[str, ...]:
        return words(self.said.get("entrypoint"))

    @cached_property
    def environment(self) -> dict[str, str]:
        return {name: value or "" for name, value in as_map(self.said.get("environment")).items()}

    @cached_property
    def env_files(self) -> list[str]:
        """Those that have to be there."""
        files = as_list(self.said.get("env_file"))
        asked = [{"path": file} if isinstance(file, str) else file for file in files]
        return [file["path"] for file in asked if truth(file.get("required", True))]

    @cached_property
    def mounts(self) -> list[Mount]:
        return [
            *map(mounted, as_list(self.said.get("volumes"))),
            *map(in_memory, as_list(self.said.get("tmpfs"))),
            *(granted("secret", grant) for grant in self.said.get("secrets") or []),
            *(granted("config", grant) for grant in self.said.get("configs") or []),
        ]

    def mounts_of(self, kind: str) -> list[Mount]:
        return [mount for mount in self.mounts if mount.kind == kind]

    def mount_at(self, path: str) -> Mount | None:
        """Whatever holds `path`: the mount there, or the closest one above it."""
        above = [m for m in self.mounts if (path + "/").startswith(m.target.rstrip("/") + "/")]
        return max(above, key=lambda mount: len(mount.target), default=None)

    @cached_property
    def ports(self) -> list[Port]:
        return [published(port) for port in self.said.get("ports") or []]

    @cached_property
    def networks(self) -> dict[str, Mapping[str, Any]]:
        """By name, each with what was said of this service in it."""
        if self.said.get("network_mode"):
            return {}
        networks = self.said.get("networks") or ["default"]
        if isinstance(networks, Mapping):
            return {name: options or {} for name, options in networks.items()}
        return {name: {} for name in networks}

    @property
    def names(self) -> set[str]:
        """Under which others find it."""
        names = {self.name, self.text("container_name") or self.name}
        return names.union(*(as_list(each.get("aliases")) for each in self.networks.values()))

    @cached_property
    def waits_for(self) -> dict[str, str]:
        """The services that start before it, and in what condition they have to be."""
        asked = self.said.get("depends_on") or {}
        if isinstance(asked, Mapping):
            return {name: options["condition"] for name, options in asked.items()}
        return dict.fromkeys(asked, "service_started")

    @cached_property
    def health(self) -> Health:
        check = self.said.get("healthcheck") or {}
        test = check.get("test", [])
        if truth(check.get("disable")) or test[:1] == ["NONE"]:
            return Health(off=True)
        if isinstance(test, str):
            return Health(command=(test,), in_shell=True)
        kind, *command = test or ["CMD"]
        return Health(command=tuple(command), in_shell=kind == "CMD-SHELL")

    @property
    def _deploy(self) -> Mapping[str, Any]:
        return self.said.get("deploy") or {}

    @cached_property
    def limits(self) -> Limits:
        limits = (self._deploy.get("resources") or {}).get("limits") or {}
        return Limits(
            size(limits.get("memory") or self.said.get("mem_limit") or 0),
            number(limits.get("cpus") or self.said.get("cpus") or 0),
            int(number(limits.get("pids") or self.said.get("pids_limit") or 0)),
        )

    @property
    def replicas(self) -> int:
        asked = self._deploy.get("replicas", self.said.get("scale"))
        return 1 if asked is None else int(number(asked))

    @property
    def comes_back(self) -> bool:
        """After it has ended by itself."""
        policy = self._deploy.get("restart_policy")
        if policy is not None:
            return bool(policy.get("condition", "any") != "none")
        return self.text("restart").partition(":")[0] in ("always", "unless-stopped", "on-failure")

    @property
    def stop_seconds(self) -> float:
        """How long it has between the request to stop and its end."""
        return seconds(self.said.get("stop_grace_period", "10s"))

    def says(self, key: str) -> bool:
        """Whether a switch such as `read_only` is on."""
        return truth(self.said.get(key))


@dataclass(frozen=True)
class Composition:
    """One file: its services, and what they share."""

    said: Mapping[str, Any]
    services: Mapping[str, Service]
    wanted: frozenset[str]
    """Variables without which it refuses to start."""

    def shared(self, kind: str) -> dict[str, Mapping[str, Any]]:
        """The file's `networks`, `volumes`, `secrets` or `configs`."""
        return {name: options or {} for name, options in (self.said.get(kind) or {}).items()}

    def internal(self, network: str) -> bool:
        return truth(self.shared("networks").get(network, {}).get("internal"))

    def external(self) -> list[str]:
        """What has to be made by somebody else first."""
        kinds = ("networks", "volumes", "secrets", "configs")
        return [
            f"{kind[:-1]} {name}"
            for kind in kinds
            for name, options in self.shared(kind).items()
            if isinstance(options.get("external"), Mapping) or truth(options.get("external"))
        ]


def read_compose(text: str, name: str) -> Composition:
    """Raises Unreadable, with what Compose itself would complain of."""
    said = parse_yaml(text, name)
    if not isinstance(said, dict):
        raise Unreadable(f"{name} holds no services.")
    wanted: set[str] = set()
    said = filled_in(said, wanted)
    if fault := fault_of(said):
        raise Unreadable(f"{name} does not fit the Compose specification: {fault}")
    services = {
        name: Service(name, said or {}) for name, said in (said.get("services") or {}).items()
    }
    composition = Composition(said, services, frozenset(wanted))
    for service in services.values():
        for missing in undeclared(composition, service):
            raise Unreadable(f"{name}: {service.name} uses the {missing}, which is not declared.")
    return composition


def fault_of(said: Any) -> str:
    """What the Compose specification's schema has against it, where it is the most specific."""
    schema = files("check_jsonschema.builtin_schemas.vendor") / "compose-spec.json"
    validator = jsonschema_rs.Draft202012Validator(json.loads(schema.read_bytes()))
    try:
        faults = list(validator.iter_errors(said))
    except ValueError as exc:  # something that YAML can say, and JSON cannot
        return str(exc)
    if not faults:
        return ""
    deepest = max(faults, key=lambda fault: len(fault.instance_path))
    return f"{'.'.join(map(str, deepest.instance_path))}: {deepest.message[:300]}"


def undeclared(composition: Composition, service: Service) -> Iterator[str]:
    used = {
        "networks": {*service.networks} - {"default"},
        "volumes": {mount.source for mount in service.mounts_of("volume")} - {""},
        "secrets": {mount.source for mount in service.mounts_of("secret")},
        "configs": {mount.source for mount in service.mounts_of("config")},
    }
    for kind, names in used.items():
        yield from (f"{kind[:-1]} {name}" for name in sorted(names - {*composition.shared(kind)}))
    services = {*service.waits_for} - {*composition.services}
    yield from (f"service {name}" for name in sorted(services))


# --- variables


def filled_in(said: Any, wanted: set[str]) -> Any:
    """The same with every variable's value in its place; those without which it refuses, noted."""
    if isinstance(said, dict):
        return {name: filled_in(value, wanted) for name, value in said.items()}
    if isinstance(said, list):
        return [filled_in(value, wanted) for value in said]
    return substituted(said, wanted) if isinstance(said, str) and "$" in said else said


def substituted(text: str, wanted: set[str]) -> str:
    """Raises Unreadable for a $ that is none of Compose's."""
    out, rest = "", text
    while found := VARIABLE.search(rest):
        out, rest = out + rest[: found.start()], rest[found.end() :]
        if found[0] == "$$":
            out += "$"
        elif found["plain"]:
            out += KNOWN.get(found["plain"], "")
        elif found["braced"]:
            inside, rest = up_to_brace(rest, text)
            out += value_of(found["braced"], inside, wanted)
        else:
            raise Unreadable(f"Compose takes each $ for a variable of its own: {text[:100]!r}")
    return out + rest


def up_to_brace(rest: str, text: str) -> tuple[str, str]:
    depth = 1
    for place, char in enumerate(rest):
        depth += rest[place - 1 : place + 1] == "${"
        depth -= char == "}"
        if not depth:
            return rest[:place], rest[place + 1 :]
    raise Unreadable(f"A variable's brace is not closed: {text[:100]!r}")


def value_of(name: str, inside: str, wanted: set[str]) -> str:
    """What `${name...}` stands for: `:-word`, `?word` and the like come after the name."""
    is_set, empty_counts = name in KNOWN, not inside.startswith(":")
    kind, word = inside.removeprefix(":")[:1], inside.removeprefix(":")[1:]
    if kind not in ("", "-", "?", "+") or (not kind and not empty_counts):
        raise Unreadable(f"Compose does not know this form of a variable: ${{{name}{inside}}}")
    if kind == "+":
        return substituted(word, wanted) if is_set else ""
    if is_set:
        return KNOWN[name]
    if kind == "?":
        wanted.add(name)
    return substituted(word, wanted) if kind == "-" else ""


# --- short forms


def as_list(said: Any) -> list[Any]:
    if said is None:
        return []
    return [said] if isinstance(said, str) else list(said)


def as_map(said: Any) -> dict[str, str | None]:
    """`{A: 1}` and `[A=1]`; None for a variable that is taken from the host."""
    if isinstance(said, Mapping):
        return {name: None if value is None else plain(value) for name, value in said.items()}
    pairs = (str(entry).partition("=") for entry in said or [])
    return {name: value if sign else None for name, sign, value in pairs}


def plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def truth(said: Any) -> bool:
    return said is True or (isinstance(said, str) and said.lower() in ("true", "yes", "on", "1"))


def words(said: Any) -> tuple[str, ...]:
    """A command as it is run. Written as one text it is split as a shell would, and no more."""
    try:
        return tuple(shlex.split(said)) if isinstance(said, str) else tuple(said or ())
    except ValueError as exc:
        raise Unreadable(f"A command's quotes do not match: {said[:100]!r}") from exc


def argv(service: Service) -> tuple[str, ...]:
    """What its container runs, as far as the file says it and not the image."""
    return service.entrypoint + service.command


def number(said: Any) -> float:
    if not re.fullmatch(r"[-+]?(\d{1,31}(\.\d*)?|\.\d+)", str(said)):
        raise Unreadable(f"This should be a number: {str(said)[:100]!r}")
    return float(said)


def seconds(said: str) -> float:
    """Go's way to write a time: 1m30s."""
    parts = re.findall(r"([\d.]+)([a-zµ]*)", said)
    if not parts or "".join(map("".join, parts)) != said or any(p[1] not in TIMES for p in parts):
        raise Unreadable(f"This should be a time, such as 30s: {said!r}")
    return sum(number(value) * TIMES[unit] for value, unit in parts)


def size(said: Any) -> int:
    """Docker's way to write bytes: 512m."""
    found = re.fullmatch(r"([\d.]+) ?([a-z]*)", str(said).lower())
    if not found or found[2] not in SIZES:
        raise Unreadable(f"This should be a size, such as 512m: {said!r}")
    return int(number(found[1]) * 1024 ** SIZES[found[2]])


def in_memory(said: str) -> Mount:
    target, _, options = said.partition(":")
    return Mount("tmpfs", "", posixpath.normpath(target), "ro" in options.split(","), options)


def mounted(said: Any) -> Mount:
    if isinstance(said, Mapping):
        target = posixpath.normpath(str(said.get("target") or "/"))
        mode = (said.get("tmpfs") or {}).get("mode", "")
        options = f"mode={mode:o}" if isinstance(mode, int) else f"mode={mode}"
        read_only = truth(said.get("read_only"))
        return Mount(said["type"], said.get("source", ""), target, read_only, options)
    source, sign, rest = str(said).partition(":")
    if not sign:
        return Mount("volume", "", posixpath.normpath(source))
    target, _, options = rest.partition(":")
    kind = "bind" if source.startswith((".", "/", "~")) else "volume"
    return Mount(kind, source, posixpath.normpath(target), "ro" in options.split(","))


def granted(kind: str, said: Any) -> Mount:
    grant = {"source": said} if isinstance(said, str) else said
    source = str(grant.get("source", ""))
    folder = "/run/secrets" if kind == "secret" else "/"
    target = posixpath.normpath(posixpath.join(folder, str(grant.get("target") or source)))
    return Mount(kind, source, target, read_only=True)


def published(said: Any) -> Port:
    if isinstance(said, Mapping):
        parts = (said.get("host_ip", ""), said.get("published", ""), said.get("target", ""))
        return Port(*map(str, parts))
    rest, _, target = str(said).partition("/")[0].rpartition(":")
    host, _, port = rest.rpartition(":")
    return Port(host.strip("[]"), port, target)


def shell_script(command: Sequence[str]) -> str | None:
    """What a shell is given to run, if the command is one: `sh -c script`."""
    if not command or posixpath.basename(command[0]) not in ("sh", "ash", "bash", "dash"):
        return None
    scripts = [script for flag, script in pairwise(command) if re.fullmatch(r"-[a-z]*c", flag)]
    return scripts[0] if scripts else None
