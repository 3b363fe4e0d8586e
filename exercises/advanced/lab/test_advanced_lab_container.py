"""The graded suite of the advanced lab: the image, as far as it shows without an engine."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from grader.judge import check

COURSE = Path(__file__).parents[3]
ANYWHERE = "0.0.0.0"  # noqa: S104 - inside of a container
MOST_CHARACTERS = 16_000
HEREDOC = re.compile(
    r"^(\s*RUN\b[^\n]*?)<<-?[\"']?(\w+)[\"']?[^\n]*\n(.*?)\n\s*\2[ \t]*$",
    re.MULTILINE | re.DOTALL | re.IGNORECASE,
)


@dataclass(frozen=True)
class Instruction:
    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """Its arguments, options left out; a list in JSON is one way to write them."""
        plain = re.sub(r"^(--\S+\s+)+", "", self.text)
        try:
            return [str(word) for word in json.loads(plain)]
        except (ValueError, TypeError):
            return plain.split()


@dataclass(frozen=True)
class Stage:
    """From one FROM to the next."""

    base: str
    name: str
    instructions: list[Instruction]

    def all(self, name: str) -> list[Instruction]:
        return [each for each in self.instructions if each.name == name]


def stages_of(submitted: Path) -> list[Stage]:
    """A Dockerfile as data; the first line that is still to do, if there is one, instead."""
    text = (submitted / "Dockerfile").read_text(encoding="utf-8", errors="replace")
    assert len(text) <= MOST_CHARACTERS, "a Dockerfile should be short enough to be read"
    todo = re.search(r"^# (TODO \d+: .*)$", text, re.MULTILINE)
    if todo is not None:
        raise AssertionError(f"the Dockerfile is not finished: {todo[1]}")
    without_comments = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    before: list[Instruction] = []
    stages: list[Stage] = []
    for line in in_one_line_each(without_comments).split("\n"):
        name, _, rest = line.strip().partition(" ")
        instruction = Instruction(name.upper(), rest.strip())
        if instruction.name == "FROM":
            base, *alias = instruction.words
            base = filled_in(base, assigned(before))
            stages.append(Stage(base, alias[1] if len(alias) > 1 else str(len(stages)), []))
        elif name:
            (stages[-1].instructions if stages else before).append(instruction)
    assert stages, "the Dockerfile should have a FROM"
    return stages


def in_one_line_each(text: str) -> str:
    """Its instructions, whether they go on after a backslash or in a here-document."""
    text = re.sub(r"\\\s*\n", " ", text)
    return HEREDOC.sub(lambda found: f"{found[1]} {'; '.join(found[3].splitlines())}", text)


def filled_in(text: str, known: Mapping[str, str]) -> str:
    """With the values of the variables in it."""
    variable = re.compile(r"\$(?:\{(\w+)(?::?-([^}]*))?\}|(\w+))")
    return variable.sub(lambda found: known.get(found[1] or found[3], found[2] or ""), text)


def lineage(stages: list[Stage]) -> list[Stage]:
    """The stages that the image is made of, the last one last."""
    made_of = [stages[-1]]
    for earlier in reversed(stages[:-1]):
        if earlier.name == made_of[0].base:
            made_of.insert(0, earlier)
    return made_of


def variables(stages: list[Stage], *kinds: str) -> dict[str, str]:
    """What ENV and ARG set."""
    return assigned([each for stage in stages for kind in kinds for each in stage.all(kind)])


def assigned(instructions: list[Instruction]) -> dict[str, str]:
    found: dict[str, str] = {}
    for instruction in instructions:
        pairs = re.findall(r"""([A-Za-z_]\w*)=("[^"]*"|'[^']*'|\S*)""", instruction.text)
        found |= {name: value.strip("\"'") for name, value in pairs}
        if not pairs:  # the old form, with a space
            name, _, value = instruction.text.partition(" ")
            found[name] = value.strip()
    return found


def brought(stages: list[Stage]) -> Iterator[tuple[Instruction, str, PurePosixPath]]:
    """What COPY and ADD take from the repository, and where each of it goes."""
    ends: dict[str, PurePosixPath] = {}
    for stage in stages:
        folder = ends.get(stage.base, PurePosixPath("/"))
        for each in stage.instructions:
            if each.name == "WORKDIR":
                folder /= each.text
            elif each.name in {"COPY", "ADD"} and "--from=" not in each.text:
                *sources, target = each.words
                yield from ((each, source.strip("./"), folder / target) for source in sources)
        ends[stage.name] = folder


def not_in_the_lock(stages: list[Stage]) -> list[str]:
    """Installations of what no hash is known of, but for the tools of a stage that is left."""
    image = lineage(stages)
    found = []
    for stage in stages:
        ran = [re.sub(r"--mount=\S+", "", each.text) for each in stage.all("RUN")]
        for command in [command for each in ran for command in INSTALL.findall(each)]:
            named = {
                re.split("[=<>~!]", word)[0]
                for word in re.split(r"\b(?:install|sync)\b", command)[-1].split()
                if not word.startswith("-")
            }
            if not HASHED.search(command) and (stage in image or not named <= TOOLS):
                found.append(command)
    return found


PINNED = re.compile(
    r"(?:[\w.-]+:\d+/)?[\w./-]+(:(?:v|python)?\d+\.\d+[\w.-]*)?(@sha256:[0-9a-f]{64})?"
)
SECRET = re.compile("KEY(?!RING)|TOKEN(?!S$|_EXPIRE)|PASSWORD|SECRET(?!S_DIR)")
INSTALL = re.compile(r"\b(?:pip3?|uv)\b[^;&|]*\b(?:install|sync)\b[^;&|]*")
HASHED = re.compile(r"--require-hashes|--no-index|(-r|--requirements?)[ =]\S*advanced\.txt")
"""pip and uv compare by themselves what comes from a file that has hashes."""
TOOLS = {"pip", "uv", "virtualenv"}
LOCK = {"requirements/advanced.txt", "requirements"}
SHELLS = {"sh", "/bin/sh", "bash", "/bin/bash"}
OURS = re.compile(r"\b(SECRET_KEY|METRICS_TOKEN|\w+_API_KEY|REDIS_PASSWORD)=")
OWNED = re.compile(r"\bchown\b|\binstall\b.* (-o|--owner)")
"""The ways in which a folder gets to belong to somebody, but for a home, which is made for them."""
HOME = r"\b(useradd|adduser)\b.*(-d|-h|--home|--home-dir)[ =]{}(\s|;|$)"


@check("container_holds")
def test_image_is_safe(submitted: Path) -> None:
    """Known parts, no secret, and nobody with rights."""
    stages = stages_of(submitted)
    names = {stage.name for stage in stages}
    for stage in stages:
        version = PINNED.fullmatch(stage.base)
        assert stage.base in names or (version and any(version.groups())), (
            "an image should be built FROM one version, the same tomorrow"
        )
    for kind in ("ENV", "ARG"):
        for name, value in variables(stages, kind).items():
            assert not (SECRET.search(name) and value), (
                "a secret in ENV or ARG can be read by everybody who has the image"
            )
    sources = set()
    for instruction, source, target in brought(stages):
        assert instruction.name == "COPY", "what is copied should be copied by COPY"
        assert source, "what is served should be copied, and nothing else that lies around"
        assert "env" not in source.split("."), "a file with secrets should not get into the image"
        assert any(COURSE.glob(source.replace("**", "*"))), "what is copied should be there"
        if source in {"shared", "advanced"} and "--parents" not in instruction.text:
            assert target.name == source, (
                "COPY takes what is in a folder, not the folder: say its name in the image, too"
            )
        sources.add(source)
    ran = [each.text for stage in stages for each in stage.all("RUN")]
    assert not any(OURS.search(each) for each in ran), (
        "a secret that is written while the image is built can be read by everybody who has it"
    )
    mounted = any(re.search(r"\b(source|src)=(\./)?requirements\b", each) for each in ran)
    assert sources & LOCK or mounted, (
        "what is installed should be what requirements/advanced.txt locks"
    )
    always = variables(stages, "ENV").keys() & {"PIP_REQUIRE_HASHES", "UV_REQUIRE_HASHES"}
    assert always or any(HASHED.search(each) for each in ran), (
        "what is installed should be compared with the hashes of the lock"
    )
    assert always or not not_in_the_lock(stages), (
        "nothing should be installed that the lock has no hash of, pip itself included"
    )
    users = [
        each.text.strip("\"'").split(":")[0]
        for stage in lineage(stages)
        for each in stage.all("USER")
    ]
    assert users, "the service should run as a user without rights"
    assert users[-1] not in {"root", "0", ""}, "the service should run as a user without rights"


@check("container_holds")
def test_image_runs(submitted: Path) -> None:
    """It starts the service, can be reached, keeps its state, and is looked after."""
    stages = stages_of(submitted)
    image = lineage(stages)
    instructions = [each for stage in image for each in stage.instructions]
    commands = [each.text for each in instructions if each.name in {"CMD", "ENTRYPOINT"}]
    assert commands, "the image should say what it runs"
    for command in commands:
        for_a_shell = left_to_a_shell(command)
        assert for_a_shell is None or BECOMES_IT.search(for_a_shell), (
            "what is run should be a list of words, and no shell in it: it would keep signals to"
            " itself"
        )
    ran = " ".join(commands)
    assert "advanced.serve" in ran or "advanced.app.main:app" in ran, "it should run the service"
    assert "--reload" not in ran, "a service in production should not watch its files"
    settings = variables(image, "ENV", "ARG")
    settings = {name: filled_in(value, settings) for name, value in settings.items()}
    assert settings.get("ENVIRONMENT") == "production", "an image is for production, and says so"
    itself = "advanced.serve" in ran
    host = settings.get("HOST" if itself else "UVICORN_HOST")  # uvicorn knows no setting of ours
    assert host == ANYWHERE or ANYWHERE in ran, (
        "a service that listens on 127.0.0.1 cannot be reached from outside of its container"
    )
    state = settings.get("STATE_DIR", "")
    assert state.startswith("/"), "STATE_DIR should name a folder of the image"
    assert belongs_to_the_user(state, instructions), (
        "the folder STATE_DIR should belong to the user who runs the service"
    )
    checks = [each.text for each in instructions if each.name == "HEALTHCHECK"]
    assert checks, "an orchestrator should be told how to see that the service is well"
    assert "/health" in checks[-1], "a health check should ask the service's own"
    asked_with(checks[-1], image)
    port = re.search(r"--port[=\"',\s]+(\d+)", ran)
    listens = port[1] if port else settings.get("PORT" if itself else "UVICORN_PORT", "8000")
    asked = re.search(r"(?:localhost|127\.0\.0\.1)[\"']?\s*[:,]\s*(\d+)", checks[-1])
    assert not (asked and listens.isdigit()) or asked[1] == listens, (
        "a health check should ask at the port at which the service listens"
    )
    sources = [source for _, source, _ in brought(stages)]
    assert {"shared", "advanced"} <= {source.split("/")[0] for source in sources}, (
        "both shared and advanced have to be in the image"
    )
    locks = [number for number, source in enumerate(sources) if source in LOCK]
    code = [number for number, source in enumerate(sources) if source == "advanced"]
    assert [*locks, *code] == sorted([*locks, *code]), (
        "what changes seldom should be copied, and installed, first"
    )


def left_to_a_shell(command: str) -> str | None:
    """What a shell is to run, if there is one."""
    try:
        words = json.loads(command)
    except ValueError:
        return command
    if not isinstance(words, list) or not words:
        return command
    return str(words[-1]) if SHELLS & {str(word) for word in words} else None


BECOMES_IT = re.compile(r"(^|[;&]\s*)exec\s[^;&|]*$")
"""The shell is replaced by what it runs."""


def belongs_to_the_user(state: str, instructions: list[Instruction]) -> bool:
    """Whether the folder is given to somebody, or made by the user."""
    parents = [str(parent) for parent in PurePosixPath(state).parents][:-1]
    user = False
    for each in instructions:
        if each.name == "USER":
            user = each.text not in {"root", "0"}
        elif each.name == "COPY" and "--chown=" in each.text:
            if str(PurePosixPath(each.words[-1])) == state:
                return True
        elif each.name == "RUN":
            named = any(name in each.text for name in (state, "$STATE_DIR", "${STATE_DIR}"))
            above = re.search(r"\bchown\b.* -\w*R|\bchown -\w*R", each.text) and any(
                re.search(rf"{re.escape(parent)}/?(\s|;|$)", each.text) for parent in parents
            )
            home = re.search(HOME.format(re.escape(state)), each.text)
            if (named and (user or OWNED.search(each.text))) or above or home:
                return True
    return False


def asked_with(check: str, image: list[Stage]) -> None:
    """AssertionError if the tool that asks is not there."""
    base = image[0].base
    missing = {"slim": ("curl", "wget"), "alpine": ("curl",)}
    absent = [tool for kind, tools in missing.items() if kind in base for tool in tools]
    ran = " ".join(each.text for stage in image for each in stage.all("RUN"))
    for tool in absent:
        assert not re.search(rf"\b{tool}\b", check) or re.search(rf"\b{tool}\b", ran), (
            "a health check should ask with what is in the image; a small one has no curl"
        )
