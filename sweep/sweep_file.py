"""Reading a sweep file: YAML 1.2 numbers, no duplicate keys, and errors of one line that name the field."""

import re
from pathlib import Path
from typing import Any, Final, get_args

import yaml
from pydantic import ValidationError

from energyaware.errors import InputError
from sweep.choices import Part
from sweep.config import Sweep

NEWLINE: Final = "\n"


def load(path: Path) -> Sweep:
    """The sweep that a file asks for, with paths made absolute.

    Raises:
        InputError: unreadable, not YAML, or not a sweep; one line with file, field and what is allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(path, "", "no such file") from None
    except IsADirectoryError:
        folder = "is a folder, not a sweep file; energyaware resume goes on with the sweep of a results folder"
        raise InputError(path, "", folder) from None
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(path, "", f"cannot be read: {problem}") from None
    return loads(text, path)


def loads(text: str, source: Path | str) -> Sweep:
    """The sweep that the text of a file asks for.

    Args:
        text: of the file.
        source: the file's path or URL, which errors name; it gives the default name, and relative paths start there.

    Raises:
        InputError: as `load`.
    """
    try:
        content = yaml.load(text, Loader=_Loader)  # noqa: S506 a SafeLoader
    except yaml.reader.ReaderError as problem:
        before = text[: problem.position]
        where = f"line {before.count(NEWLINE) + 1}, column {len(before) - before.rfind(NEWLINE)}"
        raise InputError(source, where, f"not YAML: {problem.reason}: {text[problem.position]!r}") from None
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(source, where, f"not YAML: {getattr(problem, 'problem', None) or 'unreadable'}") from None
    except RecursionError:
        raise InputError(source, "", "not YAML of a sweep: nested too deeply") from None
    except (ValueError, ArithmeticError):  # such as an escape that is no character
        raise InputError(source, "", "not YAML: unreadable") from None
    if not isinstance(content, dict):
        raise InputError(source, "", "must be a mapping with at least the key precisions")
    return parse(content, source)


def parse(content: dict[str, Any], source: Path | str) -> Sweep:
    """The sweep of a file's content.

    Raises:
        InputError: as `load`.
    """
    try:
        sweep = Sweep.model_validate({"name": _name(Path(source)), **content})
    except ValidationError as problems:
        # The same slip can fail in several ways; the deepest place is the most telling, and what is there tells more
        # than what is not.
        first = max(problems.errors(), key=lambda error: (len(error["loc"]), error["type"] != "missing"))
        raise InputError(source, _path(first["loc"], content), _problem(dict(first))) from None
    if not sweep.results:
        sweep = sweep.model_copy(update={"results": f"results/{sweep.name}"})
    try:
        return sweep.with_paths_from(Path(source).parent)
    except InputError as problem:
        raise InputError(source, problem.field, problem.problem) from None


def _name(source: Path) -> str:
    """The file's name, as a name of a sweep."""
    name = re.sub(r"[^\w.-]+", "-", source.stem)
    return name if name.strip(".") else "sweep"


def dump(sweep: Sweep) -> str:
    """The sweep as YAML that `load` reads back as the same sweep; defaults left out."""
    content = {"name": sweep.name} | sweep.model_dump(mode="json", exclude_defaults=True)
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


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
    given = error.get("input")
    if kind in {"model_type", "model_attributes_type"} and (owner := _type_at(location)):
        shown = "is empty: " if given is None else "" if isinstance(given, dict | list) else f"{given!r}: "
        short = f"{owner.short}, or " if owner.short else ""
        return f"{shown}must be {short}a mapping; allowed: {', '.join(owner.model_fields)}"
    message = str(error["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    is_ours = kind == "value_error"
    return message if is_ours or isinstance(given, dict | list) else f"{given!r}: {message}"


def _type_at(location: tuple[int | str, ...]) -> type[Part] | None:
    """The part of the sweep tree that a location names."""
    owner: Any = Sweep
    for part in location:
        if isinstance(part, str):
            owner = owner.model_fields[part].annotation
        while get_args(owner):
            owner = get_args(owner)[0]
    return owner if isinstance(owner, type) and issubclass(owner, Part) else None


class _Loader(yaml.SafeLoader):
    """PyYAML reads YAML 1.1, where 2:4 is the number 124 and 2e-4 a text; people write YAML 1.2."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a name", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, KeyError, AttributeError):  # what PyYAML lets through of such as !!int abc
            problem = f"cannot be read as {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None

    def whole_number(self, node: yaml.ScalarNode) -> int:
        """YAML 1.2 has octal numbers with 0o alone: 010 is ten."""
        text = self.construct_scalar(node)
        return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))


INT, FLOAT, TIMESTAMP = (f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp"))

_Loader.add_constructor(INT, _Loader.whole_number)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in {INT, FLOAT, TIMESTAMP}]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(INT, re.compile(r"^([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    FLOAT, re.compile(r"^[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)([eE][-+]?[0-9]+)?$"), list("-+.0123456789")
)


class _Dumper(yaml.SafeDumper):
    """Quotes texts that are something else to `_Loader` or, as the analysis reads them, to YAML 1.1."""


_Dumper.yaml_implicit_resolvers = {
    first: _Loader.yaml_implicit_resolvers.get(first, []) + yaml.SafeDumper.yaml_implicit_resolvers.get(first, [])
    for first in {*_Loader.yaml_implicit_resolvers, *yaml.SafeDumper.yaml_implicit_resolvers}
}
