"""What a stack for one host promises, read from its files: nothing of them is run here.

What a file means is judged, not how it is written: `grader/judge/compose.py` and `nginx.py` know
short forms and long ones. With an engine, tests/deploy starts the course's own answer for real.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from grader.judge import check
from grader.judge.compose import Mount, Service, argv, as_map, shell_script
from grader.judge.nginx import Location, Site, matches
from grader.judge.stack import Stack
from grader.judge.yaml_documents import parse_yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
FILES = ("compose.yaml", "nginx.conf", "prometheus.yml")

SEVEN = ("proxy", "api", "offline-model", "postgres", "redis", "prometheus", "grafana")
BUILT = ("api", "offline-model")
IMAGES = {
    "proxy": {"nginx", "nginx-unprivileged"},
    "postgres": {"postgres"},
    "redis": {"redis", "valkey"},
    "prometheus": {"prometheus"},
    "grafana": {"grafana", "grafana-oss", "grafana-enterprise"},
}
NOT_ROOT = {"nginx-unprivileged", *IMAGES["prometheus"], *IMAGES["grafana"]}
"""Images that have a user of their own."""

TALK = (
    *(("proxy", "api"), ("api", "postgres"), ("api", "redis"), ("api", "offline-model")),
    *(("prometheus", "api"), ("grafana", "prometheus")),
)
NEEDS = {
    "api": {"SECRET_KEY", "REDIS_PASSWORD", "METRICS_TOKEN", "POSTGRES_PASSWORD"},
    "postgres": {"POSTGRES_PASSWORD"},
    "redis": {"REDIS_PASSWORD"},
    "prometheus": {"METRICS_TOKEN"},
    "grafana": {"GRAFANA_PASSWORD"},
}
MADE = set[str]().union(*NEEDS.values())
"""The files that make-secrets.sh makes."""

STREAM, PLAIN, LOGIN = "/api/v1/query/stream", "/api/v1/query", "/api/v1/auth/login"
PATHS = (STREAM, PLAIN, LOGIN)
COMMENT_SECONDS, TURN_SECONDS = 15, 90
"""A silent stream has a comment that often; a plain question may be silent that long."""

STOP_SECONDS = 15
STALE_SECONDS, GONE_SECONDS = 30, 5
MOST_MEMORY = 2 * 1024**3
ASKS_AGAIN = (1, 27, 3)
"""The nginx from which the servers of an upstream can be looked up again, with `resolve`."""

SPEAKS_1_1 = (1, 29, 7)
"""The nginx from which it speaks HTTP/1.1 to those behind it without being told."""


@cache
def read(submitted: Path) -> Stack:
    stack = Stack(submitted, root=ROOT, home=HERE, files=FILES, secrets=MADE)
    for name in SEVEN:
        assert name in stack.file.services, f"There is no service {name} yet."
    return stack


def repository(service: Service) -> str:
    """The last part of its image's name, without the tag."""
    return service.text("image").partition("@")[0].rpartition("/")[2].partition(":")[0]


def version(service: Service) -> tuple[int, ...]:
    """Of its image; () where only a digest says it."""
    tag = service.text("image").partition("@")[0].rpartition("/")[2].partition(":")[2]
    found = re.match(r"v?(\d+(?:\.\d+)*)", tag)
    return tuple(int(number) for number in found[1].split(".")) if found else ()


def older(service: Service, than: tuple[int, ...]) -> bool:
    return bool(version(service)) and version(service) < than


def option(service: Service, name: str) -> str:
    """What its command says after `--name=` or `--name `; empty if it says nothing."""
    found = re.search(rf"--{re.escape(name)}[= ](\S+)", " ".join(argv(service)))
    return found[1] if found else ""


def port_of(service: Service) -> int:
    """Where one of the two that are built here listens."""
    if service.name == "api":
        return int(service.environment.get("PORT", "8000"))
    return int(option(service, "port") or 8001)


# --- it starts


@check("starts")
def test_seven_services(submitted: Path) -> None:
    """The file fits the specification and has the seven, each from the image that it should be."""
    stack = read(submitted)
    for name, images in IMAGES.items():
        assert repository(stack[name]) in images, f"The image of {name} is none for this work."
    for name in BUILT:
        assert stack.is_built(stack[name]), f"Nobody builds the image of {name}."
        build = stack[name].build
        if build is None:
            continue  # it has the other's image
        context = stack.from_root(str(build.get("context", ".")))
        assert context == ".", f"{name} is built from the repository's root, and nothing else."
        dockerfile = posixpath.normpath(str(build.get("dockerfile", "Dockerfile")))
        assert ROOT / dockerfile == HERE / "Dockerfile", (
            f"{name} is built by the Dockerfile of this exercise."
        )


@check("starts")
def test_one_command(submitted: Path) -> None:
    """After make-secrets.sh, up needs nothing that somebody has to bring or make first."""
    stack = read(submitted)
    for outside in stack.file.external():
        raise AssertionError(f"Somebody has to make the {outside} first: it is external.")
    for variable in sorted(stack.file.wanted):
        raise AssertionError(f"Without the variable {variable} it does not start.")
    assert not stack.file.said.get("include"), "compose.yaml stands alone, without include."
    for service in stack.services:
        name = service.name
        assert "extends" not in service.said, f"{name} extends another one: use an anchor."
        assert not service.said.get("profiles"), f"{name} has a profile, so `up` leaves it out."
        for path in [*service.env_files, *(m.source for m in service.mounts_of("bind"))]:
            assert stack.is_there(path), f"{name} wants {path}, which nobody else has."
    for kind in ("secrets", "configs"):
        for name, options in stack.file.shared(kind).items():
            inline = kind == "configs" and "content" in options
            assert inline or stack.is_there(str(options.get("file", "/"))), (
                f"Nothing makes the file of the {kind[:-1]} {name}."
            )


@check("wired")
def test_the_api_knows_the_others(submitted: Path) -> None:
    """It is told where PostgreSQL, Redis and the model are, and each of them is there."""
    stack = read(submitted)
    told, postgres, model = stack["api"].environment, stack["postgres"], stack["offline-model"]
    database = server("DATABASE_URL", told.get("DATABASE_URL", ""))
    user = postgres.environment.get("POSTGRES_USER", "postgres")
    kept = postgres.environment.get("POSTGRES_DB", user)
    assert database.scheme in ("postgresql", "postgres"), "DATABASE_URL names no PostgreSQL."
    assert database.hostname in postgres.names, "DATABASE_URL leads to no service of yours."
    assert database.port in (None, 5432), "PostgreSQL does not listen where DATABASE_URL leads."
    assert database.username == user, "DATABASE_URL names a user whom PostgreSQL does not make."
    assert database.path == f"/{kept}", "DATABASE_URL names a database that nobody makes."

    assert told.get("REDIS_HOST") in stack["redis"].names, "REDIS_HOST is no service of yours."
    assert told.get("REDIS_PORT", "6379") == "6379", "Redis does not listen at REDIS_PORT."
    assert told.get("REDIS_ENABLED", "true").lower() == "true", "The api is told to use no Redis."

    asked = server("OPENAI_BASE_URL", told.get("OPENAI_BASE_URL", ""))
    runs = " ".join(argv(model))
    assert re.search(r"python\S* (-\S+ )*-m shared\.offline_model", runs), (
        "offline-model does not run the offline model."
    )
    assert option(model, "host") in ("0.0.0.0", "::"), "The model hears nobody but itself."  # noqa: S104
    assert asked.hostname in model.names, "OPENAI_BASE_URL leads to no service of yours."
    assert asked.port == port_of(model), "The model does not listen where OPENAI_BASE_URL leads."
    assert asked.path.rstrip("/") == "/v1", "OPENAI_BASE_URL is not where the model's API is."


def server(name: str, url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        assert parts.hostname, f"{name} names no server."
        assert parts.port != 0, f"{name} names no port."
    except ValueError:
        raise AssertionError(f"{name} is no address.") from None
    return parts


@check("wired")
def test_passwords_are_asked_for(submitted: Path) -> None:
    """PostgreSQL, Redis and Grafana take their passwords from the files that hold them."""
    stack = read(submitted)
    postgres, redis, grafana = stack["postgres"], stack["redis"], stack["grafana"]
    told = postgres.environment.get("POSTGRES_PASSWORD_FILE", "")
    assert stack.secret_at(postgres, told) == "POSTGRES_PASSWORD", (
        "PostgreSQL does not take its password from the file of the secret."
    )
    own = grafana.environment.get("GF_SECURITY_ADMIN_PASSWORD", "")
    expanded = re.fullmatch(r"\$__file\{(.+)\}", own)
    told = grafana.environment.get("GF_SECURITY_ADMIN_PASSWORD__FILE", "")
    assert stack.secret_at(grafana, expanded[1] if expanded else told) == "GRAFANA_PASSWORD", (
        "Grafana does not take its password from the file of the secret."
    )
    anonymous = grafana.environment.get("GF_AUTH_ANONYMOUS_ENABLED") or "false"
    assert anonymous.lower() not in ("true", "1"), "Grafana lets in everybody who gets there."
    texts = [shell_script(argv(redis)) or "", *(stack.text_of(m) or "" for m in redis.mounts)]
    places = [path for path, name in stack.secrets_of(redis).items() if name == "REDIS_PASSWORD"]
    assert any("requirepass" in text or "aclfile" in text for text in texts), (
        "Redis lets in everybody who gets there: nothing that it reads, and no shell, names a"
        " password to ask for."
    )
    assert any(path in text for path in places for text in texts), (
        "Redis does not take its password from the file of the secret."
    )
    assert not any(re.search(r"requirepass[=\s\"']+/", text) for text in texts), (
        "Redis takes a file's name for its password: it reads no file for that, but a shell can."
    )


# --- health, and the order of starting

TOOLS = {
    "proxy": ("curl", "wget"),
    "api": ("python",),
    "offline-model": ("python",),
    "postgres": ("pg_isready", "psql"),
    "redis": ("redis-cli", "valkey-cli"),
    "prometheus": ("promtool", "wget"),
    "grafana": ("curl", "wget"),
}
"""What each image has that can ask it."""


@check("health")
def test_each_is_asked(submitted: Path) -> None:
    """Each of the seven has a test of its own work, which can fail, and which its image can run."""
    stack = read(submitted)
    ports = {name: {str(port_of(stack[name]))} for name in BUILT}
    ports |= {"proxy": {str(stack.door)}, "prometheus": {"9090"}, "grafana": {"3000"}}
    for name in SEVEN:
        health = stack[name].health
        assert not health.off, f"Nobody asks whether {name} works: its test is off."
        if name == "api" and not health.command:
            continue  # its image has one
        assert health.command, f"Nobody asks whether {name} works, or it is asked about another."
        text = " ".join(health.command)
        assert can_fail(health.command, in_shell=health.in_shell), (
            f"The test of {name} holds whatever happens."
        )
        assert any(re.search(rf"\b{tool}", text) for tool in TOOLS[name]), (
            f"{name} is not asked about its work, or with a program that its image does not have."
        )
        assert health.in_shell or not wants_shell(health.command), (
            f"No shell runs the test of {name}, so to it | and $ are letters."
        )
        is_shown = any(place in text for place in stack.secrets_of(stack[name]))
        assert is_shown or "PONG" not in text, (
            f"The test of {name} shows no password, so the answer is never PONG."
        )
        port, path = address_in(text)
        assert name not in ports or "promtool" in text or port in ports[name], (
            f"{name} is asked where it does not listen."
        )
        assert name != "proxy" or is_answered(stack, path), (
            "The proxy passes its own test on, or refuses it."
        )


def address_in(text: str) -> tuple[str, str]:
    """The port and the path that a test asks at."""
    found = re.search(r"(?:localhost|127\.0\.0\.1|\[::1\])(?:['\"]?[:,]\s*(\d+))?([^\s'\"]*)", text)
    return (found[1] or "80", found[2] or "/") if found else ("", "/")


def is_answered(stack: Stack, path: str) -> bool:
    """Whether the proxy has an answer for it, its own or one that the api has for everybody."""
    where = stack.site(path)
    by_api = ("/", "/health", "/health/live", "/health/ready", "/playground")
    return path in by_api if where.here("proxy_pass") else not where.refuses()


def can_fail(command: Sequence[str], *, in_shell: bool) -> bool:
    if not in_shell:
        return posixpath.basename(command[0]) not in ("true", "echo", "sleep")
    last = re.split(r"\|\||;", command[0])[-1].strip()
    return not re.fullmatch(r"|true|:|exit 0|echo\b.*", last)


def wants_shell(command: Sequence[str]) -> bool:
    """Whether something in it means something only to a shell, and none runs it."""
    marks = {"|", "||", "&&", ";", ">"}
    return shell_script(command) is None and any(part in marks or "$(" in part for part in command)


@check("health")
def test_who_waits_for_whom(submitted: Path) -> None:
    """The api starts when what it needs answers, and the proxy when an api does."""
    stack = read(submitted)
    for name, needed in (("api", ("postgres", "redis", "offline-model")), ("proxy", ("api",))):
        answering = {other for other, how in awaited(stack, name) if how == "service_healthy"}
        for other in needed:
            assert other in answering, f"{name} is started before {other} is known to answer."


def awaited(
    stack: Stack, name: str, above: frozenset[str] = frozenset()
) -> Iterator[tuple[str, str]]:
    """What has to be there before a service starts: what it waits for, and what those wait for."""
    for other, condition in stack[name].waits_for.items():
        yield other, condition
        if other not in above:
            yield from awaited(stack, other, above | {name})


# --- ports, callers, networks


@check("only_door")
def test_the_proxy_is_the_only_door(submitted: Path) -> None:
    """Questions get in through the proxy; what is for the people of the house is on this host."""
    stack = read(submitted)
    stack.passed(PLAIN)
    for service in stack.services:
        assert not service.ports or not all(map(stack.file.internal, service.networks)), (
            f"All networks of {service.name} are internal, so its port leads nowhere."
        )
        if service.name in ("prometheus", "grafana"):
            assert all(port.only_this_host for port in service.ports), (
                f"{service.name} can be reached from other computers."
            )
        elif service.name != "proxy":
            assert not service.ports, f"{service.name} has a port on the host, past the proxy."


@check("only_door")
def test_metrics_stay_inside(submitted: Path) -> None:
    """The proxy passes questions on, and /metrics not."""
    stack = read(submitted)
    stack.passed(PLAIN)
    where = stack.site("/metrics")
    assert where.refuses() or not where.here("proxy_pass"), "Anybody may ask for /metrics."


@check("callers")
def test_the_proxy_names_the_caller(submitted: Path) -> None:
    """Every question says from whom it comes, and nobody can make that up."""
    stack = read(submitted)
    for path in PATHS:
        stack.passed(path)
        lines = stack.site(path).values("proxy_set_header")
        headers = {line[0].lower(): " ".join(line[1:]) for line in lines if line}
        named = headers.get("x-forwarded-for")
        assert named in ("$remote_addr", "$proxy_add_x_forwarded_for"), (
            f"On the way to {path} the caller's address is lost, or anybody may make one up."
        )


@check("callers")
def test_the_api_believes_the_proxy(submitted: Path) -> None:
    """It takes the proxy's word for the caller's address, and not everybody's."""
    stack = read(submitted)
    api, proxy = stack["api"], stack["proxy"]
    told = api.environment.get("TRUSTED_PROXIES", "").replace(",", " ").split()
    trusted = [as_network(text) for text in told]
    assert trusted, "The api believes no proxy, so to it everybody is the proxy."
    own = [subnet for name in api.networks for subnet in subnets_of(stack, name)]
    for each in trusted:
        assert each.is_loopback or any(is_part(each, as_network(subnet)) for subnet in own), (
            "The api believes addresses that belong to none of its own networks: others have"
            " them, too, on this host or elsewhere."
        )
    for name in sorted({*api.networks} & {*proxy.networks}):
        fixed = proxy.networks[name].get("ipv4_address")
        subnets = subnets_of(stack, name)
        places = [as_network(str(place)) for place in ([fixed] if fixed else subnets)]
        assert places, f"Nobody can tell the proxy's address in {name} before it starts."
        for place in places:
            assert any(is_part(place, each) for each in trusted), (
                f"The proxy's addresses in {name} are none that the api believes."
            )


def subnets_of(stack: Stack, name: str) -> list[str]:
    """What the file says of a network's addresses, before Docker says the rest."""
    ipam = stack.file.shared("networks").get(name, {}).get("ipam") or {}
    return [str(each["subnet"]) for each in ipam.get("config") or [] if "subnet" in each]


def as_network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError:
        raise AssertionError(f"This is neither an address nor a network: {text[:50]!r}") from None


def is_part(place: Any, network: Any) -> bool:
    return bool(place.version == network.version and place.subnet_of(network))


@check("networks")
def test_databases_are_private(submitted: Path) -> None:
    """Who has to talk can; PostgreSQL and Redis are alone with the api, and have no way out."""
    stack = read(submitted)
    for service in stack.services:
        assert not service.text("network_mode"), f"{service.name} is in a network of another."
    for one, other in TALK:
        assert {*stack[one].networks} & {*stack[other].networks}, (
            f"{one} cannot reach {other}: they have no network in common."
        )
    for name in ("postgres", "redis"):
        networks = {*stack[name].networks}
        assert all(map(stack.file.internal, networks)), f"{name} is in a network that leads out."
        for service in stack.services:
            assert service.name in (name, "api") or not networks & {*service.networks}, (
                f"{service.name} can reach {name}, and has no business there."
            )


# --- what is kept


@check("volumes")
def test_what_must_survive_is_in_volumes(submitted: Path) -> None:
    """Sessions, users, metrics and Grafana's settings are in named volumes, each in its own."""
    stack = read(submitted)
    owners: dict[str, str] = {}
    for name, place in kept(stack).items():
        mount = stack[name].mount_at(place)
        is_kept = mount and mount.kind == "volume" and not shadowed(stack[name], mount)
        source = mount.source if mount and is_kept else ""
        assert source, f"What {name} has written is gone with its container."
        assert mount
        assert not mount.read_only, f"{name} may not write into its volume."
        options = stack.file.shared("volumes")[source].get("driver_opts") or {}
        assert options.get("type") != "tmpfs", f"The volume of {name} is in memory."
        assert owners.setdefault(source, name) == name, (
            f"{name} writes into the volume of {owners[source]}."
        )


def kept(stack: Stack) -> dict[str, str]:
    """Where each writes what must survive."""
    api, postgres, grafana = stack["api"], stack["postgres"], stack["grafana"]
    stored = option(stack["prometheus"], "storage.tsdb.path") or "data"
    return {
        "api": api.environment.get("STATE_DIR", "/var/lib/agent"),
        "postgres": postgres.environment.get("PGDATA") or default_data(postgres),
        "prometheus": posixpath.join("/prometheus", stored),
        "grafana": grafana.environment.get("GF_PATHS_DATA", "/var/lib/grafana"),
    }


def default_data(postgres: Service) -> str:
    """Since 18 each version has a folder of its own. Where only a digest is known: as mounted."""
    if older(postgres, (18,)):
        return OLD_DATA
    if version(postgres):
        return f"/var/lib/postgresql/{version(postgres)[0]}/docker"
    mounted = [mount.target for mount in postgres.mounts_of("volume")]
    return next((path for path in mounted if path.startswith("/var/lib/postgresql")), OLD_DATA)


OLD_DATA = "/var/lib/postgresql/data"


def shadowed(service: Service, mount: Mount) -> bool:
    """Before 18 PostgreSQL's image brings a nameless volume for its data, below what is mounted."""
    is_old = service.name == "postgres" and older(service, (18,))
    return (
        is_old and OLD_DATA.startswith(f"{mount.target}/") and "PGDATA" not in service.environment
    )


# --- secrets

SECRET_NAME = re.compile(r"(PASSWORD|PASSWD|PASS|SECRET|TOKEN|KEY|CREDENTIALS?)$", re.IGNORECASE)
IN_URL = re.compile(r"://[^/\s:@'\"]*:([^@/\s'\"]+)@")
IN_SCRIPT = re.compile(
    r"(?:requirepass|masterauth|--pass(?:word)?\b|(?:PASSWORD|_AUTH|TOKEN|SECRET)(?==)"
    r"|redis-cli(?: [^|;&\s]+)*? -a)[=\s]*[\"']?([^\s\"']+)"
)
IN_SETTINGS = re.compile(
    r"^\s*(?:-\s*)?(?:credentials|password|bearer_token|secret|client_secret):\s*(\S+)"
    r"|(?:Bearer|Basic)[ \t]+([^\s$\"';]{6,})",
    re.MULTILINE,
)


@check("secrets_outside")
def test_no_secret_in_the_files(submitted: Path) -> None:
    """No password stands in what is handed in, not as a default and not inside of an address."""
    stack = read(submitted)
    assert any(stack.secrets_of(service) for service in stack.services), "Nobody gets a secret."
    commands = [" ".join(argv(service)) for service in stack.services]
    for text in [*texts(stack.file.said), *commands]:
        assert not is_literal(IN_URL, text), "A password stands in an address."
        assert not is_literal(IN_SCRIPT, text), "A password stands in a command or a script."
    for service in stack.services:
        for text in filter(None, map(stack.text_of, filter(stack.is_handed_in, service.mounts))):
            assert not IN_SETTINGS.search(text), (
                f"A secret stands in what {service.name} is configured with."
            )


@check("secrets_outside")
def test_no_secret_in_an_environment(submitted: Path) -> None:
    """A container's environment is shown by `docker inspect`: secrets are not in there."""
    stack = read(submitted)
    assert any(stack.secrets_of(service) for service in stack.services), "Nobody gets a secret."
    for service in stack.services:
        arguments = as_map((service.build or {}).get("args"))
        for name, value in {**arguments, **service.environment}.items():
            is_place = (value or "").startswith(("/", "$__file{"))
            assert is_place or not SECRET_NAME.search(name), (
                f"{service.name} gets {name} in its environment, where `docker inspect` shows it."
            )
        methods = (service.environment.get(name) or "" for name in ASKS)
        assert not any("trust" in method for method in methods), (
            "PostgreSQL lets everybody in without a password."
        )


ASKS = ("POSTGRES_HOST_AUTH_METHOD", "POSTGRES_INITDB_ARGS")


def texts(said: Any) -> Iterator[str]:
    if isinstance(said, Mapping | list):
        for value in said.values() if isinstance(said, Mapping) else said:
            yield from texts(value)
    elif isinstance(said, str):
        yield said


def is_literal(pattern: re.Pattern[str], text: str) -> bool:
    """Whether a password stands there, and no place for one, no $ for a shell, no file's path."""
    return any(not found.startswith(("$", "/", "`", "%s")) for found in pattern.findall(text))


@check("secrets_given")
def test_each_gets_what_it_needs(submitted: Path) -> None:
    """Each service finds the secrets that it needs in files, and no other."""
    stack = read(submitted)
    for service in stack.services:
        given = {*stack.secrets_of(service).values()}
        needed = NEEDS.get(service.name, set())
        for name in sorted(needed - given):
            raise AssertionError(f"{service.name} does not get the secret {name}.")
        for name in sorted(given - needed):
            raise AssertionError(f"{service.name} gets the secret {name}, and has no use for it.")
    for name in sorted(NEEDS["api"]):
        assert stack.secret_at(stack["api"], f"/run/secrets/{name}") == name, (
            f"The api does not find {name} where it looks for it."
        )


# --- rights and limits


@check("confined")
def test_nobody_is_root(submitted: Path) -> None:
    """Every container runs as an ordinary user."""
    stack = read(submitted)
    for service in stack.services:
        user = service.text("user").partition(":")[0]
        has_own = stack.is_built(service) or repository(service) in NOT_ROOT
        assert user or has_own, f"{service.name} is started as root: its image has no other user."
        assert user not in ("0", "root"), f"{service.name} is started as root."


@check("confined")
def test_nobody_gets_further_rights(submitted: Path) -> None:
    """No capabilities, no way to more, and nothing of the host's own."""
    stack = read(submitted)
    for service in stack.services:
        name = service.name
        dropped, added = (
            [str(each).upper() for each in service.said.get(key) or []] for key in CAPS
        )
        useful = {"NET_BIND_SERVICE", "CAP_NET_BIND_SERVICE"} if name == "proxy" else set[str]()
        assert "ALL" in dropped, f"{name} keeps capabilities of root."
        assert useful.issuperset(added), f"{name} has no use for a capability that it is given."
        options = {str(each).replace("=", ":") for each in service.said.get("security_opt") or []}
        assert options & {"no-new-privileges:true", "no-new-privileges"}, (
            f"A program in {name} could still get further rights."
        )
        shared = {service.text(key) for key in ("pid", "ipc", "uts", "userns_mode", "cgroup")}
        assert not service.says("privileged"), f"{name} has all of the host's rights."
        assert "host" not in shared, f"{name} sees what else runs on the host."
        assert not any("docker.sock" in mount.source for mount in service.mounts), (
            f"{name} may give the engine orders, and with it the host."
        )


CAPS = ("cap_drop", "cap_add")


@check("read_only")
def test_file_systems_are_read_only(submitted: Path) -> None:
    """A container cannot change its own programs, and what it has to write has a place."""
    stack = read(submitted)
    for service in stack.services:
        assert service.says("read_only"), f"{service.name} may change its own programs."
    for name in SEVEN:
        for path in written(stack, name):
            assert can_write(stack[name], path), f"{name} has to write to {path}, and cannot."


def written(stack: Stack, name: str) -> Iterator[str]:
    """Where a service writes, as far as its image, its command or its configuration tells."""
    service = stack[name]
    for path in re.findall(r">\s*[\"']?(/[\w./-]+)", shell_script(argv(service)) or ""):
        if not path.startswith("/dev/"):
            yield path
    if name == "grafana":  # the images of the others bring nameless volumes
        yield kept(stack)[name]
    if name == "postgres" and "unix_socket_directories" not in " ".join(argv(service)):
        yield "/var/run/postgresql"
    if name == "proxy":
        yield from written_by_nginx(stack)


def written_by_nginx(stack: Stack) -> Iterator[str]:
    whole, proxy = Site((stack.nginx, stack.http)), stack["proxy"]
    yield whole.value("pid", "/run/nginx.pid")
    for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
        yield whole.value(f"{kind}_temp_path", f"/var/cache/nginx/{kind}_temp").split()[0]
    for log in (line for kind in ("access_log", "error_log") for line in whole.values(kind)):
        if log and log[0].startswith("/") and not log[0].startswith(("/dev/", "/var/log/nginx/")):
            yield log[0]
    if any(mount.target.startswith("/etc/nginx/templates") for mount in proxy.mounts):
        yield "/etc/nginx/conf.d"


def can_write(service: Service, path: str) -> bool:
    other = path.removeprefix("/var") if path.startswith("/var/run/") else f"/var{path}"
    mounts = filter(None, map(service.mount_at, (path, other)))
    return any(is_writable(mount) for mount in mounts)


def is_writable(mount: Mount) -> bool:
    """By an ordinary user: what is mounted on a folder has that folder's rights by itself."""
    if mount.read_only or mount.kind not in ("tmpfs", "volume", "bind"):
        return False
    opened = re.search(r"mode=\d*[2367](,|$)|uid=[1-9]", mount.options)
    return bool(opened) or mount.target not in ROOTS_OWN


ROOTS_OWN = {
    *("/run", "/var/run", "/var/cache", "/var/cache/nginx", "/var/log", "/var/log/nginx"),
    *("/etc/nginx", "/etc/nginx/conf.d"),
}
"""Folders that are there in nginx's images, and that root alone may write to."""


@check("limits")
def test_nobody_takes_everything(submitted: Path) -> None:
    """Each container has limits on memory, processor time, processes, and the size of its log."""
    stack = read(submitted)
    for service in stack.services:
        name, limits = service.name, service.limits
        assert 0 < limits.memory <= MOST_MEMORY, f"{name} may use all memory, or over 2 GB of it."
        assert limits.cpus > 0, f"{name} may use all processors."
        assert limits.pids > 0, f"{name} may start any number of processes."
        logging = service.said.get("logging") or {}
        is_file = logging.get("driver", "json-file") == "json-file"
        assert not is_file or (logging.get("options") or {}).get("max-size"), (
            f"The log of {name} grows until the disk is full."
        )


@check("pinned")
def test_images_are_pinned(submitted: Path) -> None:
    """Next month the same files start the same programs."""
    stack = read(submitted)
    for service in stack.services:
        if stack.is_built(service):
            continue
        is_digest = re.search(r"@sha256:[0-9a-f]{64}$", service.text("image"))
        numbers = 2 if repository(service) == "postgres" else 3
        assert is_digest or len(version(service)) >= numbers, (
            f"One day {service.name} will be another version: its tag does not say all numbers."
        )


# --- two replicas behind a proxy


@check("replicas")
def test_two_replicas_answer(submitted: Path) -> None:
    """There are at least two of the api, and the proxy passes questions on to all of them."""
    stack = read(submitted)
    api = stack["api"]
    assert api.replicas >= 2, "There is one api alone."
    assert not api.text("container_name"), "A name belongs to one container, and there are two."
    assert not api.ports, "A port of the host belongs to one container, and there are two."
    for path in PATHS:
        passed = stack.passed(path)
        is_rewritten = any(
            matches(Location("~", line.values[0], block), path)
            for block in stack.site(path).blocks
            for line in block.all("rewrite")
        )
        assert passed.path == path, f"The api is asked for something else than {path}."
        assert not is_rewritten, f"The api is asked for something else than {path}."
        assert passed.servers, f"The proxy has nobody to pass {path} on to."
        for host, port in passed.servers:
            is_api = host in api.names and port == port_of(api)
            assert is_api, f"The proxy passes {path} on to somebody else than the api."


@check("replacing")
def test_addresses_are_asked_for_again(submitted: Path) -> None:
    """The proxy finds replicas that are started later, and soon gives up on those that are gone."""
    stack = read(submitted)
    for path in PATHS:
        where, passed = stack.site(path), stack.passed(path)
        assert passed.asked_again, "nginx looks up the api's addresses once, when it starts."
        assert not (passed.by_upstream and older(stack["proxy"], ASKS_AGAIN)), (
            "This nginx is too old to know servers whose addresses change."
        )
        assert "127.0.0.11" in passed.resolver, (
            "nginx asks no name server that knows your services, or looks for it elsewhere: a"
            " server's own is not asked for the addresses of an upstream."
        )
        for valid in re.findall(r"valid=(\S+)", passed.resolver) or ["600s"]:
            assert seconds(valid) <= STALE_SECONDS, "nginx believes an old address for too long."
        waits = seconds(where.value("proxy_connect_timeout", "60s"))
        assert waits <= GONE_SECONDS, (
            "Whoever is sent to a replica that is gone waits for nothing, for a minute."
        )
        reasons = where.value("proxy_next_upstream", "error timeout").split()
        within = seconds(where.value("proxy_next_upstream_timeout", "0")) or waits + 1
        goes_on = where.value("proxy_next_upstream_tries", "0") != "1" and within > waits
        assert goes_on, "A question is sent to one replica alone, also if that one is gone."
        assert {"error", "timeout"} <= {*reasons}, (
            "A question that was sent to a replica that is gone does not go to another one."
        )


@check("replacing")
def test_who_is_stopped_may_finish(submitted: Path) -> None:
    """A stopped api or proxy has time for its streams; who ends by accident comes back."""
    stack = read(submitted)
    for service in stack.services:
        assert service.comes_back, f"When {service.name} breaks down, it stays away."
    for service in (stack["api"], stack["proxy"]):
        name, script = service.name, shell_script(argv(service))
        assert service.stop_seconds >= STOP_SECONDS, f"{name} is killed before its streams end."
        told = service.text("stop_signal").upper().removeprefix("SIG")
        assert told in FINISHES[name], f"{name} is told to stop at once, whatever is under way."
        assert script is None or re.search(r"(^|[;&\n])\s*exec\s", script), (
            f"The request to stop gets to a shell, which does not tell {name}."
        )

    command = " ".join(argv(stack["proxy"]))
    stays = "daemon off" in command or Site((stack.nginx,)).value("daemon") == "off"
    assert stays or not re.search(r"(^|[\s/])nginx(\s|$)", command), (
        "nginx goes into the background, and its container ends at once."
    )
    limit = seconds(Site((stack.nginx,)).value("worker_shutdown_timeout", "0"))
    assert limit == 0 or limit >= STOP_SECONDS, "A stopped nginx cuts its streams too soon."


FINISHES = {"api": {"", "TERM", "15", "INT", "2"}, "proxy": {"", "QUIT", "3"}}
"""The signals after which each finishes what it has begun; "" is that of its image."""


def seconds(text: str) -> float:
    """nginx's way to write a time: 1m30s, 500ms, or a number of seconds."""
    units = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    parts = re.findall(r"(\d+)(ms|s|m|h|d|)", text)
    assert parts, "nginx does not know one of the times."
    return sum(int(value) * units[unit] for value, unit in parts)


@check("streams")
def test_words_pass_at_once(submitted: Path) -> None:
    """The proxy collects nothing of a stream."""
    stack = read(submitted)
    stack.passed(STREAM)
    where, before = stack.site(STREAM), older(stack["proxy"], SPEAKS_1_1)
    assert where.value("proxy_buffering", "on") == "off", "The proxy collects a stream's words."
    assert where.value("proxy_cache", "off") == "off", "The proxy keeps a stream for others."
    spoken = where.value("proxy_http_version", "1.0" if before else "1.1")
    assert spoken == "1.1", "In HTTP/1.0 a stream that broke off looks like one that ended."
    types = {value for line in where.values("gzip_types") for value in line}
    assert where.value("gzip", "off") == "off" or not types & {"text/event-stream", "*"}, (
        "The proxy collects a stream's words to make them smaller."
    )


@check("streams")
def test_silence_is_waited_out(submitted: Path) -> None:
    """A stream may be silent between two comments, and a plain question for a whole turn."""
    stack = read(submitted)
    for path, silence in ((STREAM, COMMENT_SECONDS + 1), (PLAIN, TURN_SECONDS)):
        stack.passed(path)
        where = stack.site(path)
        assert seconds(where.value("proxy_read_timeout", "60s")) >= silence, (
            f"The proxy gives up on {path} while the api is still at work."
        )
        assert "non_idempotent" not in where.value("proxy_next_upstream"), (
            "A question may be asked twice, and is paid for twice."
        )


# --- watching


@check("metrics")
def test_every_replica_is_measured(submitted: Path) -> None:
    """Prometheus finds all replicas by itself, shows its token, and has the course's alerts."""
    stack = read(submitted)
    service = stack["prometheus"]
    path = option(service, "config.file") or "/etc/prometheus/prometheus.yml"
    text = stack.text_at(service, path)
    assert text, "Prometheus gets no configuration: none is where it reads it."
    said = parse_yaml(text, "prometheus.yml")
    jobs = [job for job in entries(said, "scrape_configs") if isinstance(job, dict)]
    job = next((job for job in jobs if job.get("job_name") == "agent"), None)
    assert job, "Prometheus has no job agent, which dashboard and alerts ask for."
    assert finds_all(stack, job), "Prometheus asks one replica, and takes it for the whole service."
    assert job.get("metrics_path", "/metrics") == "/metrics", "The metrics are somewhere else."
    token = (job.get("authorization") or {}).get("credentials_file") or job.get("bearer_token_file")
    folder = posixpath.dirname(path)
    shown = stack.secret_at(service, posixpath.join(folder, str(token or "")))
    assert shown == "METRICS_TOKEN", "Prometheus shows the api no token, or another one."
    rules = [posixpath.join(folder, str(rule)) for rule in entries(said, "rule_files")]
    alerts = stack.places_of(service, "advanced/deploy/prometheus/alerts.yml")
    assert any(fnmatchcase(place, rule) for place in alerts for rule in rules), (
        "Prometheus does not read the course's alerts."
    )


def entries(said: Any, name: str) -> list[Any]:
    """The list of that name; empty where something else stands."""
    found = said.get(name) if isinstance(said, dict) else None
    return found if isinstance(found, list) else []


def finds_all(stack: Stack, job: Mapping[str, Any]) -> bool:
    """By the name that stands for all of them, or by the name of each container."""
    api = stack["api"]
    for asked in job.get("dns_sd_configs") or []:
        names = {str(name).rstrip(".") for name in asked.get("names") or []}
        if names & api.names and asked.get("type") == "A" and asked.get("port") == port_of(api):
            return True
    groups = job.get("static_configs") or []
    targets = {str(target) for group in groups for target in group.get("targets") or []}
    project = stack.file.said.get("name")
    wanted = {f"{project}-api-{each}:{port_of(api)}" for each in range(1, api.replicas + 1)}
    return bool(project) and wanted <= targets


@check("metrics")
def test_grafana_shows_them(submitted: Path) -> None:
    """Grafana finds the course's data source and dashboard."""
    stack = read(submitted)
    for folder, file in (
        ("/etc/grafana/provisioning/datasources", "provisioning/datasources/prometheus.yaml"),
        ("/etc/grafana/provisioning/dashboards", "provisioning/dashboards/agent.yaml"),
        ("/etc/grafana/dashboards", "dashboards/agent.json"),
    ):
        places = stack.places_of(stack["grafana"], f"advanced/deploy/grafana/{file}")
        assert any(posixpath.dirname(place) == folder for place in places), (
            f"Grafana does not find the course's {file} in {folder}."
        )
