"""The shape of the code: who may import whom, and that our common package names are ours."""

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "cluster": set(),
    "energyaware": set(),
    "analysis": {"energyaware.rows", "energyaware.errors", "energyaware.files_mirror"},
    "sweep": {"cluster", "energyaware", "analysis"},
}
FILES = [path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_import_rule(path):
    package = path.relative_to(ROOT).parts[0]
    for module in imported(path):
        top = module.split(".")[0]
        if top not in MAY_IMPORT or top == package:
            continue
        assert top in MAY_IMPORT[package] or module in MAY_IMPORT[package], f"{package} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_ray_is_imported_where_the_design_says(path):
    package = path.relative_to(ROOT).parts[0]
    modules = {module for module in imported(path) if module.split(".")[0] == "ray"}
    if package in {"energyaware", "analysis"}:
        assert not modules
    if any(module.startswith("ray.tune") for module in modules):
        assert path.name == "schedule.py"


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_our_common_names_resolve_to_us(package):
    found = importlib.util.find_spec(package)
    assert found is not None
    assert Path(found.origin) == ROOT / package / "__init__.py"


def test_no_file_grows_out_of_hand():
    assert len(FILES) > 40
    for path in FILES:
        if path.name == "phrases.py":  # a table of phrases, not code
            continue
        assert len(path.read_text().splitlines()) <= 320, path
