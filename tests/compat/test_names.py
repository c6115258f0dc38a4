"""Every public name of Durus 4.3: kept, with a signature that takes what it took, or listed here.

`golden/names.json` holds the names of 4.3, so most of this runs without it. The lists below are also
in docs/guide/migrating-from-4.3.md, and a test compares the two.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import compat_names
import pytest
from compat_sides import Side

HERE = Path(__file__).parent
GUIDE = HERE.parent.parent / "docs" / "guide" / "migrating-from-4.3.md"
NAMES: dict[str, dict[str, Any]] = json.loads((HERE / "golden" / "names.json").read_text("utf-8"))

# Modules that are gone as a whole, or that come with a distribution which may not be installed.
GONE_MODULES = {
    "file": "how a file is opened, locked and synced is private to each file storage",
    "shelf": "the SHELF-1 file is private to durus.file_storage; docs/formats/ describes it",
}
LATER_MODULES = {
    "client_storage": "comes with the distribution durus-server",
    "sqlite_storage": "comes with the distribution durus-sqlite",
    "storage_server": "comes with the distribution durus-server",
    "systemd_socket": "comes with the distribution durus-server",
}

# Names that are gone from modules that stay.
GONE_NAMES: dict[str, str] = {}

# Methods, attributes and parameters that are gone from classes and functions that stay.
GONE_MEMBERS: dict[str, str] = {}

# What public programs were seen to use, whatever the module that defines it.
RELIED_ON = {
    "durus.btree": ["BTree"],
    "durus.connection": ["ROOT_OID", "Connection", "gen_every_instance", "touch_every_reference"],
    "durus.error": ["ConflictError", "DurusKeyError", "ReadConflictError", "WriteConflictError"],
    "durus.file_storage": ["FileStorage", "TempFileStorage"],
    "durus.file_storage2": ["FileStorage2"],
    "durus.logger": ["direct_output", "is_logging", "log", "logger"],
    "durus.persistent": ["ComputedAttribute", "Persistent", "PersistentObject"],
    "durus.persistent_dict": ["PersistentDict"],
    "durus.persistent_list": ["PersistentList"],
    "durus.persistent_set": ["PersistentSet"],
    "durus.serialize": ["ObjectReader", "ObjectWriter", "pack_record", "split_oids", "unpack_record"],
    "durus.storage": [
        "MemoryStorage",
        "Storage",
        "gen_oid_class",
        "gen_referring_oid_record",
        "get_census",
        "get_reference_index",
    ],
    "durus.utils": [
        "ShortRead",
        "as_bytes",
        "int4_to_str",
        "int8_to_str",
        "join_bytes",
        "read",
        "read_int4",
        "read_int4_str",
        "read_int8",
        "read_int8_str",
        "str_to_int4",
        "str_to_int8",
        "write",
        "write_all",
        "write_int4",
        "write_int4_str",
        "write_int8",
        "write_int8_str",
    ],
}


def _each_kept() -> Iterator[tuple[str, str]]:
    for module, names in NAMES.items():
        if module not in GONE_MODULES and module not in LATER_MODULES:
            yield from ((module, name) for name in names if f"{module}.{name}" not in GONE_NAMES)


KEPT = list(_each_kept())


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    """Our own names, described as those of 4.3 in `golden/names.json`."""
    return compat_names.describe()


@pytest.mark.parametrize(("module", "name"), KEPT, ids=[".".join(pair) for pair in KEPT])
def test_a_name_of_upstream_is_there(described: dict[str, Any], module: str, name: str) -> None:
    """It can be imported from the same module, is the same kind of thing and takes the same calls."""
    theirs = NAMES[module][name]
    assert name in described[module], f"durus.{module} has no {name}, and no reason is given"
    mine = described[module][name]
    assert mine["kind"] == theirs["kind"]
    problems = list(_find_problems(f"{module}.{name}", theirs, mine))
    assert problems == []


@pytest.mark.parametrize("module", RELIED_ON)
def test_what_programs_use_can_be_imported(module: str) -> None:
    """The names that public programs import, from where they import them."""
    imported = importlib.import_module(module)
    assert [name for name in RELIED_ON[module] if not hasattr(imported, name)] == []


def test_names_that_are_gone_are_gone(described: dict[str, Any]) -> None:
    """The tables of what is gone hold nothing that is there after all, or never was."""
    for module in GONE_MODULES:
        assert module in NAMES
        assert module not in described
    for path in GONE_NAMES:
        module, name = path.split(".")
        assert name in NAMES[module]
        assert name not in described[module], path
    for path in GONE_MEMBERS:
        module, name, member = path.split(".", 2)
        assert member.split("(")[0] in NAMES[module][name].get("methods", {"": None}) or "(" in path


def test_modules_of_other_distributions_keep_their_names() -> None:
    """What comes with other distributions is absent, or has every public name of 4.3."""
    for module in LATER_MODULES:
        try:
            imported = importlib.import_module(f"durus.{module}")
        except ModuleNotFoundError:
            continue
        missing = [name for name in NAMES[module] if not hasattr(imported, name)]
        assert [f"{module}.{name}" for name in missing if f"{module}.{name}" not in GONE_NAMES] == []


def test_the_guide_lists_what_is_gone() -> None:
    """docs/guide/migrating-from-4.3.md names every module, name and member that is gone."""
    guide = GUIDE.read_text("utf-8")
    listed = [*(f"durus.{module}" for module in GONE_MODULES)]
    listed += [f"durus.{path}" for path in (*GONE_NAMES, *GONE_MEMBERS)]
    assert [path for path in listed if f"`{path}`" not in guide] == []


def test_names_json_is_what_upstream_has(upstream: Side) -> None:
    """The kept list of names is that of 4.3 itself."""
    found = upstream.call("compat_names:own_names_here")
    assert {module: sorted(names) for module, names in found.items()} == {
        module: sorted(names) for module, names in NAMES.items()
    }


def test_stored_class_paths_are_those_of_upstream(
    upstream: Side, ours: Side, format: str, tmp_path: Path
) -> None:
    """Records of the same objects name the same classes, and nothing of ours that 4.3 lacks."""
    found = []
    for side in (upstream, ours):
        file = {"format": format, "path": str(tmp_path / f"{side.name}.durus")}
        side.call("compat_files:run", case="everything", actions=[["build"]], **file)
        # One interpreter resolves the names of both, so that both are spelled alike.
        found.append(upstream.call("compat_names:stored_names", **file))
    theirs, mine = found
    assert mine.keys() == theirs.keys()
    # Protocol 2 has no opcodes for bytes and sets: it names what makes them.
    helpers = {"_codecs.encode", "builtins.set", "builtins.frozenset", "builtins.bytes"}
    for klass in theirs:
        assert set(mine[klass]) - helpers == set(theirs[klass]) - helpers, klass
        assert set(mine[klass]) <= set(theirs[klass]) | helpers, klass


@pytest.mark.parametrize("degree", ["", 4, 8, 16, 32, 64, 128, 256, 512])
def test_nodes_are_stored_under_the_names_of_upstream(degree: object) -> None:
    """A BNode class of each degree has the path that is in the files."""
    module = importlib.import_module("durus.btree")
    node = getattr(module, f"BNode{degree}")
    assert (node.__module__, node.__qualname__) == ("durus.btree", f"BNode{degree}")
    assert node.minimum_degree == (degree or 2)


def _find_problems(path: str, theirs: dict[str, Any], mine: dict[str, Any]) -> Iterator[str]:
    if theirs["kind"] == "class":
        if "PersistentObject" in theirs["bases"] and mine["path"] != theirs["path"]:
            yield f"{path} is stored as {mine['path']}, not as {theirs['path']}"
        for base in theirs["bases"]:
            if base not in mine["bases"] and f"{path}.{base}" not in GONE_MEMBERS:
                yield f"{path} is no longer a {base}"
        for method, signature in theirs["methods"].items():
            member = f"{path}.{method}"
            if member in GONE_MEMBERS:
                continue
            if method not in mine["methods"]:
                yield f"{member} is gone"
            else:
                yield from _find_refused(member, signature, mine["methods"][method])
    elif theirs["kind"] == "function":
        yield from _find_refused(path, theirs["signature"], mine["signature"])
    elif theirs["kind"] == "constant" and path not in GONE_MEMBERS:
        if mine["value"] != theirs["value"]:
            yield f"{path} is {mine['value']!r}, not {theirs['value']!r}"


def _find_refused(
    path: str, theirs: list[list[Any]] | None, mine: list[list[Any]] | None
) -> Iterator[str]:
    """Find calls that 4.3 takes and ours would refuse."""
    if theirs is None or mine is None:
        return
    variadic = {kind for _, kind, _ in mine}
    by_position = [p for p in mine if p[1] in ("POSITIONAL_ONLY", "POSITIONAL_OR_KEYWORD")]
    by_keyword = {p[0] for p in mine if p[1] in ("KEYWORD_ONLY", "POSITIONAL_OR_KEYWORD")}
    for position, (name, kind, has_default) in enumerate(theirs):
        if f"{path}({name})" in GONE_MEMBERS:
            continue
        if kind in ("VAR_POSITIONAL", "VAR_KEYWORD"):
            # In place of *args the arguments that it could hold may be spelled out.
            if kind not in variadic and len(by_position) <= position:
                yield f"{path} no longer takes {'*' * (1 + (kind == 'VAR_KEYWORD'))}{name}"
            continue
        if kind != "POSITIONAL_ONLY" and name not in by_keyword and "VAR_KEYWORD" not in variadic:
            if name != "self":
                yield f"{path} no longer takes {name} by keyword"
        if position < len(by_position):
            if has_default and not by_position[position][2]:
                yield f"{path} now asks for {name}"
        elif kind != "KEYWORD_ONLY" and "VAR_POSITIONAL" not in variadic:
            yield f"{path} no longer takes {name} by position"
    known = {name for name, _, _ in theirs}
    for name, kind, has_default in mine:
        if name not in known and not has_default and not kind.startswith("VAR_"):
            if mine.index([name, kind, has_default]) >= len(theirs):
                yield f"{path} now asks for {name} as well"
