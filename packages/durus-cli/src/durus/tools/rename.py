"""A class or module gets another name in every record that names it, in one transaction.

Nothing is unpickled or imported: neither the old class nor the new one has to exist.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

from durus.error import CorruptRecordError, DurusError, WriteConflictError
from durus.serialize import split_oids
from durus.storage import Storage
from durus.tools.pickles import (
    Edit,
    Global,
    OpenRecord,
    Step,
    apply_edits,
    close_record,
    gen_record_steps,
    global_code,
    open_record,
)

__all__ = ["RenameError", "Renaming", "Report", "apply", "plan", "rename_record"]

Kind = Literal["class", "module"]

_BATCH_OIDS = 100
_MOST_MATCHES = 3


class RenameError(DurusError, ValueError):
    """The names do not say what to rename, or no record names it."""


@dataclass(frozen=True, slots=True)
class Renaming:
    """What becomes of a name.

    Attributes:
        kind: what `old` and `new` are.
        old: "package.module.Class" or "package.module".
        new: the same; "package.module:Outer.Class" says where the module ends. Else the name of the
            class in it has as many parts as it had.
    """

    kind: Kind
    old: str
    new: str

    def __post_init__(self) -> None:
        parts = self.new.replace(":", ".", 1).split(".")
        is_split = ":" in self.new
        if not all(part.isidentifier() for part in parts) or (is_split and self.kind == "module"):
            raise RenameError(
                f"cannot rename to {self.new!r}: that is not the name of a {self.kind}"
            )
        if self.kind == "class" and len(parts) < 2:
            raise RenameError(
                f"cannot rename the class {self.old} to {self.new!r}: that names no module;"
                " write MODULE.CLASS"
            )

    def __call__(self, module: str, name: str) -> tuple[str, str] | None:
        """Give the new module and name of a class, or None if it keeps them."""
        if self.kind == "module":
            if not _is_within(module, self.old):
                return None
            return self.new + module[len(self.old) :], name
        if not _is_class_match(module, name, self.old):
            return None
        # What is nested in the class goes with it.
        inner = f"{module}.{name}"[len(self.old) :]
        new_module, colon, new_name = self.new.partition(":")
        if not colon:
            depth = self.old[len(module) :].count(".")
            parts = self.new.split(".")
            if len(parts) <= depth:
                raise RenameError(
                    f"cannot rename {module}:{self.old[len(module) + 1 :]} to {self.new!r}: that"
                    " leaves no module; write MODULE:CLASS"
                )
            new_module, new_name = ".".join(parts[:-depth]), ".".join(parts[-depth:])
        return new_module, new_name + inner


def _is_within(name: str, outer: str) -> bool:
    return name == outer or name.startswith(outer + ".")


def _is_class_match(module: str, name: str, old: str) -> bool:
    """Tell whether `old` is the class `name` of `module`, or one around it."""
    return len(old) > len(module) and _is_within(f"{module}.{name}", old)


@dataclass(slots=True)
class Report:
    """What a renaming changes.

    Attributes:
        renaming: what is renamed.
        objects: how many records were read.
        names: how often each (old, new) name of a class is replaced.
        oids: of the records that name it, joined: 8 bytes for each.
    """

    renaming: Renaming
    objects: int = 0
    names: Counter[tuple[str, str]] = field(default_factory=Counter)
    oids: bytearray = field(default_factory=bytearray)

    @property
    def records(self) -> int:
        """How many records are changed."""
        return len(self.oids) // 8


def plan(
    storage: Storage,
    old: str,
    new: str,
    kind: Kind | None = None,
    show: Callable[[int], None] | None = None,
) -> Report:
    """Find out what renaming `old` to `new` changes; every record that names it is rewritten once.

    Args:
        storage: what to look through: all that it lists.
        old: the class or module, with dots.
        new: what it is to be called, as in `Renaming`.
        kind: what `old` is; None finds out.
        show: called with the number of records read so far.

    Raises:
        RenameError: no record names `old`, it is both a class and a module, or `new` is no name.
        CorruptRecordError: a record is damaged or not understood.
    """
    reports = [Report(renaming) for renaming in _gen_readings(old, new, kind)]
    count = 0
    for count, (_, record) in enumerate(storage.gen_oid_record(), 1):
        opened = open_record(record)
        if _may_name(opened, old):
            steps = list(gen_record_steps(opened))
            for report in reports:
                names = _find_edits(steps, report.renaming)[1]
                if names:
                    report.oids += opened.oid
                    report.names.update(names)
        if show is not None:
            show(count)
    matching = [report for report in reports if report.oids]
    if not matching:
        raise RenameError(_not_found(storage, old, new, kind))
    if len(matching) > 1:
        raise RenameError(
            f"{old} is both a class and a module here; say which one with --class or --module"
        )
    matching[0].objects = count
    return matching[0]


def _gen_readings(old: str, new: str, kind: Kind | None) -> Iterator[Renaming]:
    """Yield each way to read the names."""
    if old == new:
        raise RenameError(f"{old} is called so already")
    if kind is not None:
        yield Renaming(kind, old, new)
        return
    if ":" in new or "." in new:
        yield Renaming("class", old, new)
    if ":" not in new:
        yield Renaming("module", old, new)


def apply(storage: Storage, report: Report, show: Callable[[int], None] | None = None) -> None:
    """Do what was planned, in one transaction.

    Args:
        storage: the one that was looked through, with no `sync()` since.
        report: what `plan` gave.
        show: called with the number of records stored so far.

    Raises:
        ConflictError: another session committed since; nothing is changed.
        DurusError: what storing raises; nothing is changed.
    """
    storage.begin()
    oids = report.oids
    done = 0
    for start in range(0, len(oids), 8 * _BATCH_OIDS):
        batch = split_oids(bytes(oids[start : start + 8 * _BATCH_OIDS]))
        for record in storage.bulk_load(batch):
            renamed = rename_record(record, report.renaming)
            if renamed is None:
                raise WriteConflictError([record[:8]])
            storage.store(record[:8], renamed[0])
            done += 1
            if show is not None:
                show(done)
    storage.end(_refuse)


def _refuse(oids: list[bytes]) -> None:
    # Even a record that is not changed here may name the class by now.
    raise WriteConflictError(oids)


def rename_record(
    record: bytes, renaming: Renaming
) -> tuple[bytes, Counter[tuple[str, str]]] | None:
    """Give a record with the names of classes replaced, or None if it names none of them.

    Returns:
        The record, and how often each (old, new) name was replaced.

    Raises:
        CorruptRecordError: it is damaged or not understood.
    """
    opened = open_record(record)
    if not _may_name(opened, renaming.old):
        return None
    edits, names = _find_edits(gen_record_steps(opened), renaming)
    return (_rewritten(opened, edits), names) if names else None


def _find_edits(
    steps: Iterable[Step], renaming: Renaming
) -> tuple[list[Edit], Counter[tuple[str, str]]]:
    edits: list[Edit] = []
    names: Counter[tuple[str, str]] = Counter()
    for step in steps:
        if isinstance(step.given, Global):
            renamed = _renamed(step, step.given, renaming)
            if renamed is not None:
                edits.append((step.start, step.end, _replacement(step, *renamed)))
                names[f"{step.given.module}.{step.given.name}", ".".join(renamed)] += 1
        elif step.op == "FRAME":
            # Its length would no longer be right, and only readers of unbuffered files need it.
            edits.append((step.start, step.end, b""))
    return edits, names


def _may_name(opened: OpenRecord, old: str) -> bool:
    """Tell quickly of most records that they do not name `old`, nor anything in it."""
    first = old.partition(".")[0]
    # In a text of protocol 0 other characters may be written in several ways.
    return not first.isascii() or first.encode() in opened.data


def _renamed(step: Step, given: Global, renaming: Renaming) -> tuple[str, str] | None:
    if given.origin != step.start:
        return None
    renamed = renaming(given.module, given.name)
    if renamed is None or step.op != "REDUCE":
        return renamed
    # getattr(Outer, "Inner"): if Outer is renamed as well, the result is.
    owner = step.taken[1].values[0]
    outer = renaming(owner.module, owner.name)
    member = given.name[len(owner.name) :]
    if outer is not None and (outer[0], outer[1] + member) == renamed:
        return None
    return renamed


def _replacement(step: Step, module: str, name: str) -> bytes:
    code = global_code(module, name)
    if step.op == "INST":
        return b"i" + code[1:]
    # STACK_GLOBAL and REDUCE take two values. That they are made stays, for the memo.
    return code if step.op == "GLOBAL" else b"00" + code


def _rewritten(opened: OpenRecord, edits: list[Edit]) -> bytes:
    data = apply_edits(opened.data, edits)
    class_edits = [edit for edit in edits if edit[1] <= opened.state_start]
    grown = sum(len(code) - (end - start) for start, end, code in class_edits)
    return close_record(opened, data, opened.state_start + grown)


def _not_found(storage: Storage, old: str, new: str, kind: Kind | None) -> str:
    """Say what is called `old`, where that is not what was looked for, or what is called nearly so.

    Args:
        storage: what was looked through.
        old: what no record names.
        new: what it was to be called, and
        kind: what it was said to be, which decide what was looked for.
    """
    modules: set[str] = set()
    # Of each class its module, which the dots do not tell.
    classes: dict[str, str] = {}
    for module, name in _gen_names(storage):
        modules.update(_gen_outer(module))
        classes.update((f"{module}.{outer}", module) for outer in _gen_outer(name))
    if old in classes:
        attempt = f"tried to rename the module {old}, but that is a class here"
        if kind is not None:
            return f"{attempt}; say --class in place of --module"
        return (
            f"{attempt}, and {new!r} names no module; write MODULE:CLASS, such as"
            f" {classes[old]}:{new}"
        )
    if old in modules:
        attempt = f"tried to rename the class {old}, but that is a module here"
        if kind is not None:
            return f"{attempt}; say --module in place of --class"
        return f"{attempt}; {new!r} is the name of a class in one: write it without the colon"
    close = get_close_matches(old, sorted(modules | classes.keys()), _MOST_MATCHES)
    if not close:
        return f"no record names {old}, nor anything like it"
    return f"no record names {old}; close to it: {', '.join(close)}"


def _gen_names(storage: Storage) -> Iterator[tuple[str, str]]:
    """Yield module and name of each class that is named."""
    for _, record in storage.gen_oid_record():
        try:
            steps = list(gen_record_steps(open_record(record)))
        except CorruptRecordError:
            # This is for advice only.
            continue
        for step in steps:
            if isinstance(step.given, Global):
                yield step.given.module, step.given.name


def _gen_outer(name: str) -> Iterator[str]:
    """Yield a name with dots, and those around it."""
    while name:
        yield name
        name = name.rpartition(".")[0]
