"""nginx configurations as data: which block answers a request, and what holds there.

Nothing is run: nginx would load modules and write files for whoever writes its configuration.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from grader.judge.documents import Unreadable

DEEPEST = 12
MOST_INCLUDED = 20
PART = re.compile(
    r"""\s+ | \#[^\n]*
    | (?P<quoted>"(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*')
    | (?P<mark>[{};])
    | (?P<word>(?:\$\{[^}\s]*\} | \\. | [^\s{};"'\\\$] | \$)(?:\$\{[^}\s]*\} | \\. | [^\s{};])*)""",
    re.VERBOSE | re.DOTALL,
)

Find = Callable[[str], Sequence[str]]
"""The texts of the files that an `include` means."""


@dataclass(frozen=True)
class Directive:
    name: str
    values: tuple[str, ...]
    block: "Block | None" = None


@dataclass(frozen=True)
class Block:
    directives: tuple[Directive, ...]

    def all(self, name: str) -> list[Directive]:
        return [directive for directive in self.directives if directive.name == name]

    def blocks(self, name: str) -> Iterator[tuple[tuple[str, ...], "Block"]]:
        for directive in self.all(name):
            if directive.block is not None:
                yield directive.values, directive.block


def parse_nginx(text: str, name: str, find: Find = lambda path: []) -> Block:
    """With what is included in its place. Raises Unreadable."""
    return Reading(name, find).whole(text)


class Reading:
    """One configuration while it is read."""

    def __init__(self, name: str, find: Find) -> None:
        self._name = name
        self._find = find
        self._included = 0

    def whole(self, text: str, depth: int = 0) -> Block:
        parts = list(self._split(text))
        block, rest = self._block(parts, 0, depth)
        if rest < len(parts):
            raise self._unreadable("there is a } too many")
        return block

    def _unreadable(self, fault: str) -> Unreadable:
        return Unreadable(f"{self._name}: {fault}.")

    def _split(self, text: str) -> Iterator[tuple[str, str]]:
        place = 0
        while place < len(text):
            found = PART.match(text, place)
            if not found:
                line = text.count("\n", 0, place) + 1
                raise self._unreadable(f"nginx could not read line {line}")
            place = found.end()
            if found.lastgroup == "mark":
                yield "mark", found[0]
            elif found.lastgroup:
                word = found[0][1:-1] if found.lastgroup == "quoted" else found[0]
                yield "word", re.sub(r"""\\(["'\\])""", r"\1", word)

    def _block(self, parts: Sequence[tuple[str, str]], at: int, depth: int) -> tuple[Block, int]:
        """The directives from `at` to the end of their block, and where that is."""
        if depth > DEEPEST:
            raise self._unreadable(f"there are over {DEEPEST} blocks in each other")
        directives: list[Directive] = []
        values: list[str] = []
        while at < len(parts) and parts[at] != ("mark", "}"):
            kind, text = parts[at]
            at += 1
            if kind == "word":
                values.append(text)
                continue
            if not values:
                raise self._unreadable(f"there is a {text} with nothing before it")
            first, *others = values
            values = []
            if text == "{":
                inner, at = self._block(parts, at, depth + 1)
                if at == len(parts):
                    raise self._unreadable(f"the block {first} is not closed")
                at += 1
                directives.append(Directive(first, tuple(others), inner))
            elif first == "include":
                directives += self._include(" ".join(others), depth + 1)
            else:
                directives.append(Directive(first, tuple(others)))
        if values:
            raise self._unreadable(f"a ; is missing after {' '.join(values)[:100]}")
        return Block(tuple(directives)), at

    def _include(self, path: str, depth: int) -> Iterator[Directive]:
        for text in self._find(path):
            self._included += 1
            if self._included > MOST_INCLUDED:
                raise self._unreadable(f"it includes more than {MOST_INCLUDED} files")
            yield from self.whole(text, depth).directives


@dataclass(frozen=True)
class Site:
    """Where a request is answered: the blocks around it, from `http` to the innermost location."""

    blocks: tuple[Block, ...]
    location: str = ""
    """What the innermost location is for."""

    def values(self, name: str) -> list[tuple[str, ...]]:
        """What holds there: the directives of this name in the innermost block that has any."""
        for block in reversed(self.blocks):
            if found := block.all(name):
                return [directive.values for directive in found]
        return []

    def value(self, name: str, default: str = "") -> str:
        found = self.values(name)
        return " ".join(found[-1]) if found else default

    def here(self, name: str) -> tuple[str, ...]:
        """Of the innermost block alone: what is not handed down, such as `proxy_pass`."""
        found = self.blocks[-1].all(name)
        return found[0].values if found else ()

    def refuses(self) -> bool:
        """Whether a request goes no further than nginx, and gets an error."""
        for block in self.blocks[1:]:
            for directive in block.all("return"):
                return bool(re.fullmatch(r"[45]\d\d", " ".join(directive.values[:1])))
        return ("all",) in self.values("deny") and not self.values("allow")

    def filled_in(self, text: str) -> str:
        """With the variables that `set` gives a value on the way there, and a `map` always."""
        values = dict(always(self.blocks[0]))
        said = (directive.values for block in self.blocks for directive in block.all("set"))
        values |= {pair[0]: pair[1] for pair in said if len(pair) == 2}

        def value(found: re.Match[str]) -> str:
            return values.get(f"${found[1] or found[2]}", found[0])

        return re.sub(r"\$(?:(\w+)|\{(\w+)\})", value, text)


def always(http: Block) -> Iterator[tuple[str, str]]:
    """The variables that a `map` gives the same value whatever is asked for."""
    for names, inner in http.blocks("map"):
        results = {directive.values for directive in inner.directives}
        if len(names) == 2 and len(results) == 1 and inner.all("default"):
            yield names[1], " ".join(*results)


@dataclass(frozen=True)
class Passed:
    """To whom a request is passed on."""

    servers: Sequence[tuple[str, int]]
    path: str
    """What they are asked for."""
    by_upstream: bool
    asked_again: bool
    """Whether nginx looks for their addresses while it runs, and not only when it starts."""
    resolver: str
    """Whom it asks for them, and how long it believes the answer; empty if nobody is named."""


def passed(where: Site, path: str) -> Passed | None:
    """None if it is not passed on by HTTP."""
    url = " ".join(where.here("proxy_pass")[:1])
    found = re.fullmatch(r"http://([^/:$]+)(?::(\d+))?([/$].*)?", where.filled_in(url))
    if not found:
        return None
    host, port, uri = found.groups()
    is_variable = "$" in url.replace("$request_uri", "").replace("$uri", "")
    asked = sent(path, uri or "", where, exactly="$" in url)
    for names, upstream in where.blocks[0].blocks("upstream"):
        if names == (host,):
            servers = [line.values for line in upstream.all("server") if line.values]
            again = bool(upstream.all("zone")) and all("resolve" in line for line in servers)
            used = [address(line[0]) for line in servers if "down" not in line]
            asks = Site((where.blocks[0], upstream)).value("resolver")  # never the server's own
            return Passed(used, asked, by_upstream=True, asked_again=again, resolver=asks)
    asks, alone = where.value("resolver"), [(host, int(port or 80))]
    return Passed(alone, asked, by_upstream=False, asked_again=is_variable, resolver=asks)


def address(text: str) -> tuple[str, int]:
    host, _, port = text.partition(":")
    return host, int(port) if port.isdecimal() else 80


def sent(path: str, uri: str, where: Site, *, exactly: bool) -> str:
    """A URI in proxy_pass takes the place of what the location names; with variables, of it all."""
    if not uri:
        return path
    if exactly:
        return uri.replace("$request_uri", path).replace("$uri", path)
    return uri + path.removeprefix(where.location)


def site(http: Block, port: int, path: str) -> Site | None:
    """Who answers a request for `path` that comes in at `port`, whatever its Host."""
    servers = [server for _, server in http.blocks("server") if port in ports(server)]
    preferred = [server for server in servers if "default_server" in ports(server)[port]]
    for server in (preferred + servers)[:1]:
        found = locations(server, path)
        inner = [location.block for location in found]
        return Site((http, server, *inner), found[-1].text if found else "")
    return None


def ports(server: Block) -> dict[int, tuple[str, ...]]:
    """Where it listens, and with what options; on port 80 if it says nothing."""
    found = {}
    for directive in server.all("listen"):
        address = directive.values[0] if directive.values else ""
        digits = re.search(r"(?:^|:)(\d{1,5})$", address)
        found[int(digits[1]) if digits else 80] = directive.values[1:]
    return found or {80: ()}


@dataclass(frozen=True)
class Location:
    kind: str
    """=, ^~, ~, ~* or nothing."""
    text: str
    block: Block


def locations(block: Block, path: str) -> tuple[Location, ...]:
    """Those that nginx goes through, from the outermost to the one that answers."""
    return way_to(path, block)[0]


def way_to(path: str, block: Block) -> tuple[tuple[Location, ...], bool]:
    """By nginx's rules: an exact location, or else the longest prefix, unless an expression fits.

    Whether the last one is final: around a prefix, expressions are tried as well.
    """
    found = [Location(*how(values), inner) for values, inner in block.blocks("location")]
    for location in found:
        if location.kind == "=" and location.text == path:
            return (location,), True
    prefixes = [each for each in found if each.kind in ("", "^~") and path.startswith(each.text)]
    longest = max(prefixes, key=lambda prefix: len(prefix.text), default=None)
    inside, is_final = way_to(path, longest.block) if longest else ((), False)
    if not is_final and not (longest and longest.kind == "^~"):
        for location in found:
            if location.kind in ("~", "~*") and matches(location, path):
                return (location, *way_to(path, location.block)[0]), True
    return (longest, *inside) if longest else (), is_final


def how(values: tuple[str, ...]) -> tuple[str, str]:
    """How a location is compared, and with what; `=/x` is `= /x`."""
    found = re.match(r"(=|\^~|~\*|~|)\s*(.*)", " ".join(values), re.DOTALL)
    assert found
    return found[1], found[2]


def matches(location: Location, path: str) -> bool:
    flags = re.IGNORECASE if location.kind == "~*" else 0
    try:
        return bool(re.search(location.text, path, flags))
    except re.error as exc:
        raise Unreadable(f"This location is no expression: {location.text[:100]}") from exc
