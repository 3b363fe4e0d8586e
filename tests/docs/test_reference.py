"""The reference has every public name of the code, and no name that is not there."""

import re
from pathlib import Path

import pytest

from advanced.app import monitoring
from advanced.app.config import Settings as AdvancedSettings
from medium.app.config import Settings as MediumSettings
from scripts import reference
from scripts.check_docs import ROOT
from scripts.diagrams import the_app

PAGE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")


def test_every_public_name_and_no_other() -> None:
    """File by file, the names in the tables are those in the code."""
    told: dict[str, list[str]] = {}
    for part in PAGE.partition("\n## Modules\n")[2].split("\n### `")[1:]:
        file, _, rest = part.partition("`")
        told[file] = re.findall(r"^\| `([\w.]+)(?:\(.*?\))?` \|", rest, re.MULTILINE)
    there = {file: list(names) for file, names in reference.public_names().items()}
    assert told == {file: names for file, names in there.items() if names or file in told}
    assert told["shared/agent_service.py"][:2] == ["AgentService", "AgentService.process_query"]


@pytest.mark.parametrize("track", ["medium", "advanced"])
def test_every_endpoint_and_no_other(track: str) -> None:
    """What the service documents is in its table."""
    table = PAGE.partition(f"### Endpoints of the {track} service\n")[2].partition("\n#")[0]
    there = {
        f"{method.upper()} {path}"
        for path, operations in the_app(track).openapi()["paths"].items()
        for method in operations
    }
    assert set(re.findall(r"^\| `([A-Z]+ /\S*)` \|", table, re.MULTILINE)) == there


@pytest.mark.parametrize(
    ("track", "settings"), [("medium", MediumSettings), ("advanced", AdvancedSettings)]
)
def test_every_setting_and_no_other(
    track: str, settings: type[MediumSettings] | type[AdvancedSettings]
) -> None:
    """Each has a line that says what it does."""
    table = PAGE.partition(f"### Settings of the {track} service\n")[2].partition("\n#")[0]
    told = re.findall(r"^\| `(\w+)` \|.*\| *([^|]*?) *\|$", table, re.MULTILINE)
    assert [name for name, _ in told] == list(settings.model_fields)
    assert [name for name, words in told if not words] == []


def test_every_metric_and_no_other() -> None:
    """What the module declares is what the table has."""
    source = Path(monitoring.__file__).read_text(encoding="utf-8")
    declared = re.findall(r'(?:Counter|Gauge|Histogram)\(\s*"(\w+)"', source)
    table = PAGE.partition("\n## Metrics\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == declared


def test_nothing_goes_undescribed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the purposes, names that have no docstring are missed; one too many is found, too."""
    purposes = tmp_path / "purposes.toml"
    purposes.write_text('["shared/gone.py"]\nname = "Is not there."\n')
    monkeypatch.setattr(reference, "PURPOSES", purposes)
    with pytest.raises(reference.Undescribed) as missed:
        reference.page()
    assert "shared/errors.py AgentError.as_response: not described" in str(missed.value)
    assert "shared/gone.py: is not there" in str(missed.value)
