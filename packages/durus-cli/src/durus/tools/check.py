"""Everything in a database that can be checked without its classes, on any storage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from durus.class_finder import ClassFinder
from durus.error import CorruptionError, CorruptRecordError, DurusKeyError
from durus.inspection import (
    Instance,
    InstanceClass,
    Reference,
    find_paths,
    gen_references,
    read_state,
)
from durus.serialize import ROOT_OID, check_proof, extract_class_path, split_oids, unpack_record
from durus.storage import Storage
from durus.tools._trees import TreeChecker, is_node

__all__ = ["CheckReport", "Problem", "check"]


@dataclass(slots=True)
class Problem:
    """Something that is wrong.

    Attributes:
        kind: "storage" (what only the storage knows of: transactions, index, tables), "record",
            "references", "dangling", "btree" or "class".
        text: what was found; of an object what it is or has.
        oid: the object concerned, 8 bytes, or None.
        offset: where in the file, in bytes, or None.
        class_name: "module.Name" of the object, if its record could be read.
        path: from the root to the object, or None if the root does not reach it.
    """

    kind: str
    text: str
    oid: bytes | None = None
    offset: int | None = None
    class_name: str | None = None
    path: str | None = None


@dataclass(slots=True)
class CheckReport:
    """What a check has looked at, and what it found wrong.

    Attributes:
        objects: how many records were read.
        record_bytes: their length.
        unproven: how many of them carry no proof, as those of Durus 4.3.
        trees: how many B-trees there are.
        not_comparable: how many of them have keys that cannot be compared without their class.
        storage_checked: the storage has looked at what only it knows of.
        problems: what is wrong.
    """

    objects: int = 0
    record_bytes: int = 0
    unproven: int = 0
    trees: int = 0
    not_comparable: int = 0
    storage_checked: bool = False
    problems: list[Problem] = field(default_factory=list)


def check(
    storage: Storage,
    *,
    imports: bool = False,
    show: Callable[[int], None] = lambda done: None,  # noqa: ARG005 - nobody watches
) -> CheckReport:
    """Read everything in a storage, and tell all that is wrong. Nothing is changed.

    Objects that the root does not reach are checked too, if the storage can list them. No record is
    kept; some 150 bytes of memory are taken for each object.

    Args:
        storage: what to check, as it was when it was opened or synced last.
        imports: import every class that is named, and tell those that cannot be imported.
        show: called now and then with the number of objects that were read.

    Raises:
        ReadConflictError: others committed so much meanwhile that this state is gone.
        StorageError: the storage cannot be read any more.
    """
    return _Checker(storage, imports=imports, show=show).check()


class _Checker:
    def __init__(self, storage: Storage, *, imports: bool, show: Callable[[int], None]) -> None:
        self._storage = storage
        self._imports = imports
        self._show = show
        self._report = CheckReport()
        self._known: set[bytes] = set()
        # What is referred to and was not read yet.
        self._unread: set[bytes] = set()
        self._trees = TreeChecker(storage, lambda oid, text: self._tell("btree", text, oid))
        # Of each class the first object that is of it, and the first that names it.
        self._owners: dict[str, bytes] = {}
        self._namers: dict[str, bytes] = {}

    def check(self) -> CheckReport:
        report = self._report
        self._ask_storage()
        failure = self._read_listed()
        dangling = self._read_unlisted()
        if dangling:
            self._find_dangling(dangling)
        if report.objects and ROOT_OID not in self._known:
            self._tell("dangling", "is the root, and is not stored", ROOT_OID)
        self._trees.check()
        report.trees, report.not_comparable = self._trees.trees, self._trees.not_comparable
        for name, oid in sorted((self._namers | self._owners).items()):
            self._import(name, oid)
        if failure is not None and not report.problems:
            self._tell("storage", str(failure), failure.oid, failure.offset)
        self._name_objects()
        return report

    def _tell(
        self, kind: str, text: str, oid: bytes | None = None, offset: int | None = None
    ) -> None:
        self._report.problems.append(Problem(kind, text, oid, offset))

    def _ask_storage(self) -> None:
        self._report.storage_checked = type(self._storage).gen_damage is not Storage.gen_damage
        for damage in self._storage.gen_damage():
            self._tell("storage", damage.text, damage.oid, damage.offset)

    # Records.

    def _read_listed(self) -> CorruptionError | None:
        """Read what the storage lists; give the error if that ends before its end."""
        try:
            for oid, record in self._storage.gen_oid_record():
                self._note(oid, record)
        except DurusKeyError:
            # It went from reference to reference, and came to one that leads nowhere.
            return None
        except CorruptionError as error:
            return error
        return None

    def _read_unlisted(self) -> set[bytes]:
        """Read what is referred to and was not listed; give those that are not stored."""
        dangling: set[bytes] = set()
        if ROOT_OID not in self._known:
            self._unread.add(ROOT_OID)
        while self._unread:
            oid = self._unread.pop()
            try:
                record = self._storage.load(oid)
            except DurusKeyError:
                dangling.add(oid)
            except CorruptionError as error:
                self._known.add(oid)
                self._tell("record", str(error), oid, error.offset)
            else:
                self._note(oid, record)
        return dangling - {ROOT_OID}

    def _note(self, oid: bytes, record: bytes) -> None:
        """Check a record by itself, and note what it refers to."""
        if oid in self._known:
            return
        report = self._report
        self._known.add(oid)
        self._unread.discard(oid)
        report.objects += 1
        report.record_bytes += len(record)
        if not report.objects % 100:
            self._show(report.objects)
        try:
            found, _, joined = unpack_record(record)
            report.unproven += not check_proof(record)
            referred = {referred for _, referred in gen_references(record)} - {oid}
            refs = set(split_oids(joined)) - {oid}
        except CorruptRecordError as error:
            self._tell("record", str(error), oid)
            return
        if found != oid:
            self._tell("record", f"has the record of oid {_number(found)}", oid)
        if refs != referred:
            self._tell("references", _difference(refs, referred), oid)
        self._unread |= (refs | referred) - self._known
        class_name = extract_class_path(record)
        if is_node(class_name):
            self._trees.note(oid, record)
        if self._imports:
            self._owners.setdefault(class_name, oid)
            for name in _gen_class_names(read_state(record)):
                self._namers.setdefault(name, oid)

    def _find_dangling(self, dangling: set[bytes]) -> None:
        """Tell each place that refers to one of these."""
        for oid in sorted(self._known):
            try:
                record = self._storage.load(oid)
                if dangling.isdisjoint(split_oids(unpack_record(record)[2])):
                    continue
                steps = [(step, ref) for step, ref in gen_references(record) if ref in dangling]
            except (CorruptionError, DurusKeyError):
                continue
            for step, referred in steps:
                where = f" at {step}" if step else ""
                text = f"refers{where} to oid {_number(referred)}, which is not stored"
                self._tell("dangling", text, oid)

    # Classes.

    def _import(self, name: str, oid: bytes) -> None:
        error = _import_error(name)
        if error is not None:
            self._tell("class", f"names the class {name}, which cannot be imported: {error}", oid)

    # Names.

    def _name_objects(self) -> None:
        problems = [problem for problem in self._report.problems if problem.oid is not None]
        paths = find_paths(self._storage, {p.oid for p in problems if p.oid}) if problems else {}
        for problem in problems:
            assert problem.oid is not None  # noqa: S101 - chosen so
            problem.path = paths.get(problem.oid)
            try:
                problem.class_name = extract_class_path(self._storage.load(problem.oid))
            except (CorruptionError, DurusKeyError):
                continue


def _number(oid: bytes) -> int:
    return int.from_bytes(oid, "big")


def _numbers(oids: set[bytes]) -> str:
    shown = ", ".join(str(_number(oid)) for oid in sorted(oids)[:5])
    return shown + (f" and {len(oids) - 5} more" if len(oids) > 5 else "")


def _difference(refs: set[bytes], referred: set[bytes]) -> str:
    parts = []
    if referred - refs:
        parts.append(f"its list of references lacks oid {_numbers(referred - refs)}")
    if refs - referred:
        parts.append(f"its list of references has oid {_numbers(refs - referred)} in excess")
    return "; ".join(parts)


def _gen_class_names(state: object) -> Iterator[str]:
    """Yield the name of each class in a state that was not imported."""
    waiting: list[Any] = [state]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Reference | Instance | InstanceClass):
            yield value.class_name
        if isinstance(value, str | bytes | int | float | Reference) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            waiting += (*dict.keys(value), *dict.values(value))
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += value
        elif isinstance(value, Instance):
            waiting += (value.args, value.kwargs, value.state, value.items, value.pairs)


def _import_error(name: str) -> str | None:
    """Try to import a class; give what was raised, or None.

    Where the module's name ends and that of a nested class begins is not told by the dots.
    """
    find_class = ClassFinder()
    module, _, rest = name.rpartition(".")
    first: BaseException | None = None
    while module:
        try:
            find_class(module, rest)
        except Exception as error:  # noqa: BLE001 - a module may raise anything
            first = first or error.__cause__ or error
        else:
            return None
        module, _, last = module.rpartition(".")
        rest = f"{last}.{rest}"
    return f"{first!s:.200}" if first else "it has no module"
