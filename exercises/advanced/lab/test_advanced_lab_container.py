"""The graded suite of the advanced lab: the image, as far as it shows without an engine."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from grader.judge import check

COURSE = Path(__file__).parents[3]
ANYWHERE = "0.0.0.0"  # noqa: S104 - inside of a container


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
    todo = re.search(r"^# (TODO \d+: .*)$", text, re.MULTILINE)
    if todo is not None:
        raise AssertionError(f"the Dockerfile is not finished: {todo[1]}")
    without_comments = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    before: list[Instruction] = []
    stages: list[Stage] = []
    for line in re.sub(r"\\\s*\n", " ", without_comments).splitlines():
        name, _, rest = line.strip().partition(" ")
        instruction = Instruction(name.upper(), rest.strip())
        if instruction.name == "FROM":
            base, *alias = instruction.words
            base = filled_in(base, before)
            stages.append(Stage(base, alias[1] if len(alias) > 1 else str(len(stages)), []))
        elif name:
            (stages[-1].instructions if stages else before).append(instruction)
    assert stages, "the Dockerfile should have a FROM"
    return stages


def filled_in(text: str, arguments: list[Instruction]) -> str:
    """With what the ARGs before the first FROM say."""
    for argument in arguments:
        name, _, value = argument.text.partition("=")
        text = text.replace(f"${{{name}}}", value).replace(f"${name}", value)
    return text


def lineage(stages: list[Stage]) -> list[Stage]:
    """The stages that the image is made of, the last one last."""
    made_of = [stages[-1]]
    for earlier in reversed(stages[:-1]):
        if earlier.name == made_of[0].base:
            made_of.insert(0, earlier)
    return made_of


def variables(stages: list[Stage], *kinds: str) -> dict[str, str]:
    """What ENV and ARG set."""
    found: dict[str, str] = {}
    for instruction in [each for stage in stages for kind in kinds for each in stage.all(kind)]:
        pairs = re.findall(r"""([A-Za-z_]\w*)=("[^"]*"|'[^']*'|\S*)""", instruction.text)
        found |= {name: value.strip("\"'") for name, value in pairs}
        if not pairs:  # the old form, with a space
            name, _, value = instruction.text.partition(" ")
            found[name] = value
    return found


PINNED = re.compile(r"[\w./-]+(:v?\d+\.\d+[\w.-]*)?(@sha256:[0-9a-f]{64})?")
SECRET = re.compile("KEY|TOKEN|PASSWORD|SECRET(?!S_DIR)")
OWNED = re.compile(r"\bchown\b|\binstall\b.* (-o|--owner)|\b(useradd|adduser)\b")
"""The ways in which a folder gets to belong to somebody."""


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
    for name, value in variables(stages, "ENV", "ARG").items():
        assert not (SECRET.search(name) and value), (
            "a secret in ENV or ARG can be read by everybody who has the image"
        )
    copied = [each for stage in stages for kind in ("COPY", "ADD") for each in stage.all(kind)]
    brought = [each for each in copied if "--from=" not in each.text]
    for instruction in brought:
        assert instruction.name == "COPY", "what is copied should be copied by COPY"
        *sources, _ = instruction.words
        for source in sources:
            plain = source.strip("./")
            assert plain, "what is served should be copied, and nothing else that lies around"
            assert ".env" not in source, "a file with secrets should not get into the image"
            assert (COURSE / plain).exists(), "what is copied should be there"
    assert any("requirements/advanced.txt" in each.text for each in brought), (
        "what is installed should be what requirements/advanced.txt locks"
    )
    ran = [each.text for stage in stages for each in stage.all("RUN")]
    assert any("--require-hashes" in each for each in ran), (
        "what is installed should be compared with the hashes of the lock"
    )
    users = [each.text.split(":")[0] for stage in lineage(stages) for each in stage.all("USER")]
    assert users, "the service should run as a user without rights"
    assert users[-1] not in {"root", "0", ""}, "the service should run as a user without rights"


@check("container_holds")
def test_image_runs(submitted: Path) -> None:
    """It starts the service, can be reached, keeps its state, and is looked after."""
    stages = stages_of(submitted)
    image = lineage(stages)
    instructions = [each for stage in image for each in stage.instructions]
    everything = [each for stage in stages for each in stage.instructions]
    commands = [each.text for each in instructions if each.name in {"CMD", "ENTRYPOINT"}]
    assert commands, "the image should say what it runs"
    for command in commands:
        try:
            words = json.loads(command)
        except ValueError:
            words = []
        assert isinstance(words, list), "what is run should be a list of words"
        assert words, "what is run should be a list of words: a shell would keep signals to itself"
        assert not {"sh", "/bin/sh", "bash", "/bin/bash"} & set(words), (
            "what is run should be the service itself, and no shell around it"
        )
    ran = " ".join(commands)
    assert "advanced.serve" in ran or "advanced.app.main:app" in ran, "it should run the service"
    assert "--reload" not in ran, "a service in production should not watch its files"
    settings = variables(image, "ENV")
    assert settings.get("ENVIRONMENT") == "production", "an image is for production, and says so"
    assert settings.get("HOST") == ANYWHERE or ANYWHERE in ran, (
        "a service that listens on 127.0.0.1 cannot be reached from outside of its container"
    )
    state = settings.get("STATE_DIR", "")
    assert state.startswith("/"), "STATE_DIR should name a folder of the image"
    given = [each.text for each in instructions if each.name == "RUN" and state in each.text]
    assert any(OWNED.search(each) for each in given), (
        "the folder STATE_DIR should belong to the user who runs the service"
    )
    checks = [each.text for each in instructions if each.name == "HEALTHCHECK"]
    assert checks, "an orchestrator should be told how to see that the service is well"
    assert "/health" in checks[-1], "a health check should ask the service's own"
    copied = [each for each in everything if each.name == "COPY" and "--from=" not in each.text]
    parts = {source.strip("./").split("/")[0] for each in copied for source in each.words[:-1]}
    assert {"shared", "advanced"} <= parts, "both shared and advanced have to be in the image"
    order = [
        index
        for part in ("requirements/advanced.txt", "advanced")
        for index, each in enumerate(copied)
        if part in [source.strip("./") for source in each.words[:-1]]
    ]
    assert order == sorted(order), "what changes seldom should be copied, and installed, first"
