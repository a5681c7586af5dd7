"""Reading a sweep file: YAML 1.2 numbers, no duplicate keys, and errors of one line that name the field."""

import re
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from energyaware.errors import InputError
from sweep.config import Sweep


def load(path: Path) -> Sweep:
    """The sweep that a file asks for, with paths made absolute.

    Raises:
        InputError: unreadable, not YAML, or not a sweep; one line with file, field and what is allowed.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 a SafeLoader
    except FileNotFoundError:
        raise InputError(path, "", "no such file") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(path, "", f"cannot be read: {problem}") from None
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(path, where, f"not YAML: {getattr(problem, 'problem', None) or 'unreadable'}") from None
    if not isinstance(content, dict):
        raise InputError(path, "", "must be a mapping with at least the key precisions")
    return parse(content, path)


def parse(content: dict[str, Any], source: Path) -> Sweep:
    """The sweep of a file's content.

    Raises:
        InputError: as `load`.
    """
    try:
        sweep = Sweep.model_validate({"name": _name(source), **content})
    except ValidationError as problems:
        # The same slip can fail in several ways; the deepest place is the most telling.
        first = max(problems.errors(), key=lambda error: len(error["loc"]))
        raise InputError(source, _path(first["loc"], content), _problem(dict(first))) from None
    if not sweep.results:
        sweep = sweep.model_copy(update={"results": f"results/{sweep.name}"})
    return sweep.with_paths_from(source.parent)


def _name(source: Path) -> str:
    """The file's name, as a name of a sweep."""
    return re.sub(r"[^\w.-]+", "-", source.stem) or "sweep"


def dump(sweep: Sweep) -> str:
    """The sweep as YAML that `load` reads back as the same sweep; defaults left out."""
    content = {"name": sweep.name} | sweep.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _path(location: tuple[int | str, ...], content: Any) -> str:
    """Such as prunings[1].sparsity. One value where a list is allowed was written without an index."""
    text, here = "", content
    for part in location:
        if isinstance(part, int):
            if isinstance(here, list):
                text += f"[{part}]"
                here = here[part] if part < len(here) else None
        else:
            text += f".{part}" if text else part
            here = here.get(part) if isinstance(here, dict) else None
    return text


def _problem(error: dict[str, Any]) -> str:
    location, kind = error["loc"], error["type"]
    if kind == "extra_forbidden":
        owner = _type_at(location[:-1])
        return f"unknown key; allowed: {', '.join(owner.model_fields)}" if owner else "unknown key"
    if kind == "missing":
        return "is missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    given = error.get("input")
    is_ours = kind == "value_error"
    return message if is_ours or isinstance(given, dict | list) else f"{given!r}: {message}"


def _type_at(location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The part of the sweep tree that a location names."""
    owner: Any = Sweep
    for part in location:
        if isinstance(part, str):
            owner = owner.model_fields[part].annotation
        while get_args(owner):
            owner = get_args(owner)[0]
    return owner if isinstance(owner, type) and issubclass(owner, BaseModel) else None


class _Loader(yaml.SafeLoader):
    """PyYAML reads YAML 1.1, where 2:4 is the number 124 and 2e-4 a text; people write YAML 1.2."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag not in {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?\d+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+)([eE][-+]?\d+)?$"),
    list("-+.0123456789"),
)
