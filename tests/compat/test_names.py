"""Every public name of Durus 4.3: kept, with a signature that takes what it took, or listed here.

`golden/names.json` holds the names of 4.3, so most of this runs without it. The lists below are
also in docs/guide/migrating-from-4.3.md, and a test compares the two.
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
    "systemd_socket": "durus.storage_server.inherited_socket gives what systemd handed down",
}
LATER_MODULES = {
    "client_storage": "comes with the distribution durus-server",
    "sqlite_storage": "comes with the distribution durus-sqlite",
    "storage_server": "comes with the distribution durus-server",
}

_PYTHON_2 = "was for Python 2"
_CACHE = "how loaded objects are kept is private to the Connection, and compiled"
_ARRAYS = "how offsets are kept is private to each file storage"

# Names that are gone from modules that stay.
GONE_NAMES = {
    "connection.Cache": _CACHE,
    "connection.ObjectDictionary": _CACHE,
    "connection.ReferenceContainer": _CACHE,
    "connection.byte_string": _PYTHON_2,
    "file_storage2.byte_string": _PYTHON_2,
    "logger.INFO": "is `logging.INFO`",
    "persistent.stderr": "is `sys.stderr`",
    "serialize.COMPRESSED_START_BYTE": "the form of a record is private to durus.serialize",
    "serialize.NEWLINE": "the form of a record is private to durus.serialize",
    "serialize.WRITE_COMPRESSED_STATE_PICKLES": "states are compressed where it pays",
    "serialize.method": _PYTHON_2,
    "storage_server.ClientError": "a client that breaks the protocol is dropped, with a log line",
    "storage_server.TIMEOUT": "no client keeps the others waiting, however slow it is",
    "utils.BitArray": _ARRAYS,
    "utils.Byte": _ARRAYS,
    "utils.ByteArray": _ARRAYS,
    "utils.IntArray": _ARRAYS,
    "utils.IntSet": _ARRAYS,
    "utils.TRACE": "was for debugging the arrays",
    "utils.WordArray": _ARRAYS,
    "utils.all_bytes": _PYTHON_2,
    "utils.byte_string": _PYTHON_2,
    "utils.empty_byte_string": _PYTHON_2,
    "utils.iteritems": _PYTHON_2,
}

_JUDGED_BY_PATH = "a file is judged by its path, not as an open durus.file.File"

# Members that are gone from classes and functions that stay; (name) is a parameter.
GONE_MEMBERS = {
    "btree.BTree.root_is": "told a type to a checker that is not part of Durus",
    "file_storage.FileStorage.gen_oid_record(other)": "were taken and ignored",
    "file_storage.FileStorage.gen_oid_record(seen)": "what was seen is kept inside",
    "file_storage.FileStorage.has_format(file)": _JUDGED_BY_PATH,
    "file_storage2.FileStorage2.__init__(file)": "is `filename`, as in FileStorage",
    "file_storage2.FileStorage2.create_from_records": "was a step of a conversion script",
    "file_storage2.FileStorage2.has_format(file)": _JUDGED_BY_PATH,
    "persistent_list.PersistentList.__init__(kwargs)": "list() takes none either",
    "persistent_list.PersistentList.sort(args)": "list.sort() takes none either",
    "persistent_set.PersistentSet.difference(other)": "by position only, as in set",
    "persistent_set.PersistentSet.difference_update(other)": "by position only, as in set",
    "persistent_set.PersistentSet.intersection(other)": "by position only, as in set",
    "persistent_set.PersistentSet.intersection_update(other)": "by position only, as in set",
    "persistent_set.PersistentSet.union(other)": "by position only, as in set",
    "persistent_set.PersistentSet.update(other)": "by position only, as in set",
    "serialize.PICKLE_PROTOCOL": "is 4, and was 2; 4.3 reads any",
}

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
    "durus.serialize": [
        "ObjectReader",
        "ObjectWriter",
        "pack_record",
        "split_oids",
        "unpack_record",
    ],
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
    """It can be imported from the same module, is of the same kind and takes the same calls."""
    theirs = NAMES[module][name]
    assert name in described[module], f"durus.{module} has no {name}, and no reason is given"
    mine = described[module][name]
    assert mine["kind"] == theirs["kind"]
    problems = _find_problems(f"{module}.{name}", theirs, mine)
    assert [text for path, text in problems if path not in GONE_MEMBERS] == []


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
        # A name that a module merely imports is not one that it offers.
        home = described[module].get(name, {}).get("home")
        assert home != f"durus.{module}", path
    problems = [
        path
        for module, name in KEPT
        for path, _ in _find_problems(
            f"{module}.{name}", NAMES[module][name], described[module][name]
        )
    ]
    assert sorted(set(GONE_MEMBERS) - set(problems)) == []


def test_modules_of_other_distributions_keep_their_names() -> None:
    """What comes with other distributions is absent, or has every public name of 4.3."""
    for module in LATER_MODULES:
        try:
            imported = importlib.import_module(f"durus.{module}")
        except ModuleNotFoundError:
            continue
        missing = [name for name in NAMES[module] if not hasattr(imported, name)]
        assert [
            f"{module}.{name}" for name in missing if f"{module}.{name}" not in GONE_NAMES
        ] == []


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


def _find_problems(
    path: str, theirs: dict[str, Any], mine: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    """Find what 4.3 offers and ours does not: where (as in GONE_MEMBERS), and what."""
    if theirs["kind"] == "function":
        yield from _find_refused(path, theirs["signature"], mine["signature"])
    elif theirs["kind"] == "constant" and mine["value"] != theirs["value"]:
        yield path, f"{path} is {mine['value']!r}, not {theirs['value']!r}"
    elif theirs["kind"] == "class":
        if "PersistentObject" in theirs["bases"] and mine["path"] != theirs["path"]:
            yield path, f"{path} is stored as {mine['path']}, not as {theirs['path']}"
        for base in set(theirs["bases"]) - set(mine["bases"]):
            yield f"{path}.{base}", f"{path} is no longer a {base}"
        for method, signature in theirs["methods"].items():
            if method in mine["methods"]:
                yield from _find_refused(f"{path}.{method}", signature, mine["methods"][method])
            elif method != "__init__" or signature != [["self", "POSITIONAL_OR_KEYWORD", False]]:
                # Without an own __init__ a class has that of object.
                yield f"{path}.{method}", f"{path}.{method} is gone"


def _find_refused(
    path: str, theirs: list[list[Any]] | None, mine: list[list[Any]] | None
) -> Iterator[tuple[str, str]]:
    """Find calls that 4.3 takes and ours would refuse."""
    if theirs is None or mine is None:
        return
    kinds = {kind for _, kind, _ in mine}
    by_position = [p for p in mine if p[1] in ("POSITIONAL_ONLY", "POSITIONAL_OR_KEYWORD")]
    by_keyword = {p[0] for p in mine if p[1] in ("KEYWORD_ONLY", "POSITIONAL_OR_KEYWORD")}
    for position, (name, kind, has_default) in enumerate(theirs):
        where = f"{path}({name})"
        takes_position = position < len(by_position) or "VAR_POSITIONAL" in kinds
        takes_keyword = name in by_keyword or "VAR_KEYWORD" in kinds
        # The compiled twin takes single arguments by position only, if it tells at all.
        takes_keyword |= position < len(mine) and mine[position][1] == "POSITIONAL_ONLY"
        if kind == "VAR_POSITIONAL":
            # In its place the arguments that it could hold may be spelled out.
            if not takes_position:
                yield where, f"{where}: no further arguments are taken by position"
        elif kind == "VAR_KEYWORD":
            if not {"VAR_KEYWORD", "KEYWORD_ONLY"} & kinds:
                yield where, f"{where}: no further arguments are taken by keyword"
        elif name == "self":
            continue
        elif not takes_keyword and kind != "POSITIONAL_ONLY":
            yield where, f"{where}: is no longer taken by keyword"
        elif not takes_position and kind != "KEYWORD_ONLY":
            yield where, f"{where}: is no longer taken by position"
        elif has_default and position < len(by_position) and not by_position[position][2]:
            yield where, f"{where}: is no longer optional"
    for name, kind, has_default in mine[len(theirs) :]:
        if not has_default and not kind.startswith("VAR_"):
            yield f"{path}({name})", f"{path}({name}): is now asked for"
