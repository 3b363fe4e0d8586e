"""`docs/reference.md`: every public name of both services and of what they share, from the code.

What a name is for is the first paragraph of its docstring; where a signature says it all and there
is none, it is in `purposes.toml`. Errors are those that the docstring names or the body raises.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from advanced.app import monitoring
from advanced.app.config import Settings as AdvancedSettings
from medium.app.config import Settings as MediumSettings
from scripts.check_docs import ROOT
from scripts.diagrams import the_app

FOLDERS = ("shared", "medium", "advanced")
PURPOSES = Path(__file__).with_name("purposes.toml")
RAISES = re.compile(r"Raises? ((?:an? )?[A-Z]\w+(?:(?:,| or| and) [A-Z]\w+)*)")
RAISING = re.compile(r"(?<![a-z,] )Raises? [A-Z][^.]*\.(?= |$)")

HEAD = """# Reference

Every public module, class, function, endpoint, setting and metric of both services and of what they
share. Written by `make docs` from the code: change it there. Names with an underscore in front are
nobody's business but their file's.

[Endpoints](#endpoints) · [Settings](#settings) · [Metrics](#metrics) · [Modules](#modules)
"""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef


class Undescribed(Exception):
    """A public name has neither docstring nor purpose, or a purpose has no name."""


def page() -> str:
    """The file's text. Raises Undescribed."""
    parts = [HEAD, *_endpoints(), *_settings(), *_metrics(), "## Modules\n", *_modules()]
    return "\n".join(parts).rstrip("\n") + "\n"


def public_names() -> dict[str, dict[str, Definition]]:
    """By file, the public classes, functions and methods, by qualified name."""
    return {
        str(path.relative_to(ROOT)): dict(_public(ast.parse(path.read_text(encoding="utf-8"))))
        for path in _files()
    }


def _files() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from sorted((ROOT / folder).rglob("*.py"))


def _public(node: ast.Module | ast.ClassDef, within: str = "") -> Iterator[tuple[str, Definition]]:
    for child in node.body:
        if isinstance(child, Definition) and not child.name.startswith("_"):
            yield within + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from _public(child, f"{within}{child.name}.")


# --- modules


def _modules() -> Iterator[str]:
    purposes = tomllib.loads(PURPOSES.read_text(encoding="utf-8"))
    wrong = []
    for file, names in public_names().items():
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        about = _first(ast.get_docstring(tree))
        given = purposes.pop(file, {})
        if not names and not about:
            continue
        yield f"### `{file}`\n"
        yield f"{about}\n" if about else ""
        if names:
            yield "| name | purpose | raises |\n|---|---|---|"
        for name, node in names.items():
            written = _first(ast.get_docstring(node))
            purpose = given.pop(name, "")
            if bool(written) == bool(purpose):
                wrong.append(f"{file} {name}: {'described twice' if written else 'not described'}")
            raised = ", ".join(f"`{error}`" for error in _raised(node))
            yield f"| `{name}{_signature(node)}` | {_cell(written or purpose)} | {raised} |"
        wrong += [f"{file} {name}: is not there" for name in given]
        yield ""
    wrong += [f"{file}: is not there" for file in purposes]
    if wrong:
        raise Undescribed("; ".join(wrong) + f". Mend the docstring or {PURPOSES.name}.")


def _first(docstring: str | None) -> str:
    """The first paragraph, without what it says on errors, which has a column of its own."""
    if not docstring:
        return ""
    paragraph = " ".join(docstring.partition("\n\n")[0].split())
    return RAISING.sub("", paragraph).strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _signature(node: Definition) -> str:
    """The parameters' names; types are in the code, and where to look is in the heading."""
    if isinstance(node, ast.ClassDef):
        return ""
    if any(isinstance(part, ast.Name) and "property" in part.id for part in node.decorator_list):
        return ""
    given = node.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args)]
    names = [name for name in names if name not in ("self", "cls")]
    if given.vararg:
        names.append(f"*{given.vararg.arg}")
    elif given.kwonlyargs:
        names.append("*")
    names += [argument.arg for argument in given.kwonlyargs]
    if given.kwarg:
        names.append(f"**{given.kwarg.arg}")
    return f"({', '.join(names)})"


def _raised(node: Definition) -> list[str]:
    """What the docstring names, and what the body raises itself, in this order."""
    if isinstance(node, ast.ClassDef):
        return []
    named = " ".join(RAISES.findall(" ".join((ast.get_docstring(node) or "").split())))
    found = re.findall(r"[A-Z]\w+", named)
    for child in ast.walk(node):
        if isinstance(child, ast.Raise) and child.exc:
            raised = child.exc.func if isinstance(child.exc, ast.Call) else child.exc
            if isinstance(raised, ast.Name) and raised.id[0].isupper():
                found.append(raised.id)
    return list(dict.fromkeys(found))


# --- what is known once the apps are there


def _endpoints() -> Iterator[str]:
    yield "## Endpoints\n"
    for track in ("medium", "advanced"):
        yield f"### Endpoints of the {track} service\n"
        yield "| endpoint | purpose | refusals and faults |\n|---|---|---|"
        for path, operations in the_app(track).openapi()["paths"].items():
            for method, operation in operations.items():
                faults = {
                    status: ", ".join(f"`{code}`" for code in _codes(answer))
                    for status, answer in sorted(operation["responses"].items())
                    if status != "200"
                }
                told = "; ".join(f"{status} {codes}".strip() for status, codes in faults.items())
                purpose = _first(operation.get("description"))
                yield f"| `{method.upper()} {path}` | {_cell(purpose)} | {told} |"
        yield ""


def _codes(answer: dict[str, Any]) -> list[str]:
    content = answer.get("content", {}).get("application/json", {})
    codes = [example["value"].get("code") for example in content.get("examples", {}).values()]
    return [code for code in dict.fromkeys(codes) if code]


def _settings() -> Iterator[str]:
    yield "## Settings\n"
    models: dict[str, type[BaseModel]] = {"medium": MediumSettings, "advanced": AdvancedSettings}
    for track, model in models.items():
        said = _purposes_of_settings(track)
        yield f"### Settings of the {track} service\n"
        yield "| setting | type | default | bounds | what it does |\n|---|---|---|---|---|"
        for name, field in model.model_fields.items():
            kind = _type(field)
            if name not in said:
                raise Undescribed(f"{track}/README.md has no line for the setting {name}")
            cells = (f"`{name}`", _cell(kind), _default(field), _bounds(field), said[name])
            yield f"| {' | '.join(cells)} |"
        yield ""


def _purposes_of_settings(track: str) -> dict[str, str]:
    """From the table in the track's README, where one line may be about several."""
    text = (ROOT / track / "README.md").read_text(encoding="utf-8")
    table = text.partition("\n## Settings\n")[2].partition("\n## ")[0]
    said = {}
    for line in table.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 3:
            for name in re.findall(r"`([A-Z][A-Z0-9_]+)`", cells[0]):
                said[name] = cells[2]
    return said


def _type(field: FieldInfo) -> str:
    """As it is written in an environment; a secret is one whatever else it is."""
    text = str(field.annotation)
    for sign, word in TYPES:
        if sign in text:
            return word
    return text


TYPES = (
    ("SecretStr", "secret"),
    ("Literal", "one of a few words"),
    ("tuple", "list, with commas"),
    ("bool", "true or false"),
    ("int", "whole number"),
    ("float", "number"),
    ("Path", "path"),
    ("str", "text"),
)


def _default(field: FieldInfo) -> str:
    if field.default_factory:
        return "depends"
    value = field.default
    if value is None or value == ():
        return "none"
    if isinstance(value, Path):
        return f"`{value.name}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _bounds(field: FieldInfo) -> str:
    words = []
    for bound in field.metadata:
        match bound:
            case Ge(ge=value):
                words.append(f"at least {value}")
            case Gt(gt=value):
                words.append(f"above {value}")
            case Le(le=value):
                words.append(f"at most {value}")
            case Lt(lt=value):
                words.append(f"below {value}")
            case MinLen(min_length=value):
                words.append(f"at least {value} characters")
            case MaxLen(max_length=value):
                words.append(f"at most {value} characters")
    return ", ".join(words)


def _metrics() -> Iterator[str]:
    yield "## Metrics\n"
    yield "| metric | kind | labels | what it counts or measures |\n|---|---|---|---|"
    for metric in vars(monitoring).values():
        if hasattr(metric, "_documentation"):
            name, kind = metric._name, metric._type  # the library offers no other way
            shown = f"{name}_total" if kind == "counter" else name
            labels = ", ".join(f"`{label}`" for label in metric._labelnames)
            yield f"| `{shown}` | {kind} | {labels} | {metric._documentation} |"
    yield ""
