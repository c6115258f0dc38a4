"""Who owns which module, and which module may import which.

The tables are the architecture: a change of them is a change of it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# The names directly under `durus`: who owns them, and on which floor they stand. A row imports only
# from the rows above it, and names in one row do not meet.
FLOORS = [
    ("durus-core", "error _plain_states _plain_reader _plain_writer"),
    ("durus-core", "utils logger moment _speedups _btree_speedups _pure _btree_pure"),
    ("durus-core", "persistent"),
    ("durus-core", "broken _containers _btree_nodes"),
    ("durus-core", "class_finder _btree_census"),
    ("durus-core", "serialize"),
    ("durus-core", "storage _stored_values persistent_dict persistent_list persistent_set btree"),
    ("durus-core", "backends inspection"),
    ("durus-core", "sessions"),
    ("durus-core", "connection"),
    ("durus-core", "database"),
    ("durus-core", "testing"),
    ("durus-filestorage", "file_storage"),
    ("durus-filestorage", "file_storage2"),
    ("durus-sqlite", "sqlite_storage"),
    ("durus-server", "_wire"),
    ("durus-server", "storage_server client_storage"),
    ("durus-cli", "tools"),
    ("durus-cli", "cli"),
    ("durus-cli", "__main__"),
]
DISTRIBUTIONS = sorted({dist for dist, _ in FLOORS})
OWNER = {name: dist for dist, names in FLOORS for name in names.split()}
FLOOR = {name: floor for floor, (_, names) in enumerate(FLOORS) for name in names.split()}

# A back-end stands on the storage contract, never on Connection.
BACKENDS = {"durus-filestorage", "durus-sqlite", "durus-server"}
HIGHEST_FLOOR_FOR_BACKENDS = FLOOR["sessions"]


def _modules() -> Iterator[tuple[str, Path, str]]:
    """Yield (distribution, file, dotted name) of every Python module in the repository."""
    for dist in DISTRIBUTIONS:
        src = ROOT / "packages" / dist / "src"
        for path in sorted(src.rglob("*.py")):
            parts = path.relative_to(src).with_suffix("").parts
            yield dist, path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = list(_modules())


def _imported(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """Yield (line, module under `durus`) of each import, those for type checkers included."""
    is_package = path.name == "__init__.py"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = name.split(".")
                above = above[: len(above) - node.level + (1 if is_package else 0)]
                base = ".".join([*above, *([node.module] if node.module else [])])
            found = [f"{base}.{alias.name}" for alias in node.names] if base == "durus" else [base]
        else:
            continue
        for module in found:
            if module.startswith("durus."):
                yield node.lineno, module


def _top(module: str) -> str:
    return module.split(".")[1]


def test_the_namespace_has_no_init() -> None:
    """No distribution claims the package `durus` itself: it is a PEP 420 namespace."""
    assert list(ROOT.glob("packages/*/src/durus/__init__.py")) == []


@pytest.mark.parametrize("dist", DISTRIBUTIONS)
def test_every_top_level_name_has_one_owner_and_a_floor(dist: str) -> None:
    """What stands under src/durus is what the table gives to this distribution."""
    folder = ROOT / "packages" / dist / "src" / "durus"
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    found = {path.parts[0].split(".")[0] for path in files if "__pycache__" not in path.parts}
    found.discard("py")  # py.typed, the marker at the root of the namespace
    assert found == {name for name, owner in OWNER.items() if owner == dist}


def test_no_two_distributions_own_one_name() -> None:
    """A name is in the table once, so that no wheel overwrites another's file."""
    assert len(OWNER) == sum(len(names.split()) for _, names in FLOORS)


@pytest.mark.parametrize(("dist", "path", "name"), MODULES, ids=[name for *_, name in MODULES])
def test_a_module_imports_only_from_lower_floors(dist: str, path: Path, name: str) -> None:
    """Imports go down, neighbours do not meet, and what belongs together may know each other."""
    wrong = []
    for line, module in _imported(path, name):
        if _top(module) == _top(name):
            continue
        if FLOOR[_top(module)] >= FLOOR[_top(name)] or _top(module) == "testing":
            wrong.append(f"line {line}: {module}")
    assert wrong == []


@pytest.mark.parametrize(("dist", "path", "name"), MODULES, ids=[name for *_, name in MODULES])
def test_what_is_private_stays_in_its_distribution(dist: str, path: Path, name: str) -> None:
    """No module imports a name with a leading underscore from another distribution."""
    wrong = [
        f"line {line}: {module}"
        for line, module in _imported(path, name)
        if OWNER[_top(module)] != dist and "._" in module
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("dist", "path", "name"),
    [module for module in MODULES if module[0] in BACKENDS],
    ids=[name for dist, _, name in MODULES if dist in BACKENDS],
)
def test_a_back_end_stands_on_the_storage_contract(dist: str, path: Path, name: str) -> None:
    """A back-end uses what one from outside could use: core up to the contract, no Connection."""
    wrong = [
        f"line {line}: {module}"
        for line, module in _imported(path, name)
        if OWNER[_top(module)] != dist
        and (
            OWNER[_top(module)] != "durus-core" or FLOOR[_top(module)] > HIGHEST_FLOOR_FOR_BACKENDS
        )
    ]
    assert wrong == []


def test_the_command_reaches_back_ends_only_by_name() -> None:
    """durus-cli imports no back-end, so that one from outside serves it as well as ours."""
    wrong = [
        f"{name} line {line}: {module}"
        for dist, path, name in MODULES
        if dist == "durus-cli"
        for line, module in _imported(path, name)
        if OWNER[_top(module)] in BACKENDS
    ]
    assert wrong == []


def test_core_depends_on_the_standard_library_alone() -> None:
    """Nothing in durus-core but durus.testing imports another project."""
    allowed = sys.stdlib_module_names | {"durus", "_typeshed"}  # the latter for mypy alone
    wrong = []
    for dist, path, name in MODULES:
        if dist != "durus-core" or _top(name) == "testing":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found = [node.module or ""]
            else:
                continue
            wrong += [
                f"{name}: {module}" for module in found if module.split(".")[0] not in allowed
            ]
    assert wrong == []
