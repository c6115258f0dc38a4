"""SqliteStorage: sessions on one SQLite database, in any number of processes."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection, Generator, Iterator
from datetime import UTC, datetime, timedelta
from os import PathLike
from struct import Struct
from struct import error as struct_error
from time import time_ns
from typing import ClassVar
from weakref import finalize

from durus.backends import own_file, owner_of_file
from durus.error import (
    CorruptRecordError,
    DurusKeyError,
    NotSupportedError,
    ReadConflictError,
    StorageClosedError,
    StorageError,
    StorageReadOnlyError,
    StorageTransactionError,
    StorageWriteError,
    WriteConflictError,
)
from durus.moment import serial_at
from durus.serialize import pack_record
from durus.sqlite_storage._checking import gen_damage
from durus.sqlite_storage._copy import copy_database
from durus.sqlite_storage._engine import (
    Engine,
    check_path,
    connect,
    rollback,
    run,
    translated,
    translation,
    writing,
)
from durus.sqlite_storage._history import (
    PastRows,
    find_as_of,
    gen_commits,
    has_commit,
    history_us_of,
    last_time_us,
)
from durus.sqlite_storage._log import News, newest_commit, read_news, stored_oids
from durus.sqlite_storage._oids import OidSupply
from durus.sqlite_storage._packer import Packer
from durus.sqlite_storage._rows import RowReader, gen_referred, write_rows
from durus.sqlite_storage._schema import has_format, is_upgraded, prepare, set_history, trim
from durus.storage import (
    Damage,
    Removal,
    Storage,
    StorageDescription,
    check_oid,
    check_record,
)

__all__ = ["SqliteStorage"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SIGNED = Struct(">q")
_LENGTH = Struct(">L")
_HEADER = Struct(">8sL")

# While the WAL file is longer than this, no session holds a snapshot between its transactions: then
# SQLite can begin the file anew.
_LARGEST_WAL_BYTES = 64 << 20

# After so many commits the log is trimmed, by twice as many.
_TRIM_EVERY = 64

Handler = Callable[[list[bytes]], None]


class SqliteStorage(Storage):
    """A database in one SQLite file, which Durus 4.3 can read and write as well.

    Any number of processes may have it open, and any number of sessions in each: every one reads a
    snapshot of its own, and commits one after the other.

    Args:
        filename: the file, made if it is not there.
        readonly: change nothing.
        durable: sync each commit to the disk. Without, a loss of power may cost the last commits,
            never the consistency of those before.
        history: for how long to keep records that are overwritten or removed, such as "7d" or
            "12h"; "0" for not at all. It is kept with the database, for whoever opens it. Without,
            what was said last stays; at first nothing is kept.
        lock_timeout_s: how long to wait for other sessions' commits.
        at: open it read-only, as it was right after a past commit: the one with this serial, or the
            last one at this time or before, see `durus.moment.serial_at`. It takes a database that
            keeps history; `gen_commits` tells which there are. `sync()` stays there; when the time
            has come in which the history forgets the commit, what is loaded after the next `sync()`
            raises StorageError. To open it is a walk over the commits.

    Raises:
        StorageMissingError: there is no such file, and it was to be opened read-only.
        StoragePermissionError: the system does not let this process open it.
        StorageLockedError: another program has it locked for longer than that.
        StorageOpenError: it cannot be opened for another reason, or has no such past commit.
        NotSupportedError: it is to be opened `at` a past commit, and keeps no history.
        BackendError: `history` is no time, or `at` is text and neither a serial nor a time.
        StorageFormatError: it is not a database of Durus, or a newer one. Nothing was changed.
        CorruptionError: it is damaged.
    """

    can_pack = True
    can_share = True
    can_open_readonly: ClassVar[bool] = True
    can_open_at: ClassVar[bool] = True

    def __init__(
        self,
        filename: str | PathLike[str],
        readonly: bool = False,
        *,
        durable: bool = True,
        history: str | None = None,
        lock_timeout_s: float = 10.0,
        at: datetime | int | str | None = None,
    ) -> None:
        self._filename = os.fsdecode(filename)
        readonly = readonly or at is not None
        history_us = None if history is None else history_us_of(history)
        if readonly and history is not None:
            raise StorageReadOnlyError(f"tried to keep history in {self}, opened read-only")
        check_path(self._filename, readonly=readonly)
        # Sessions that are opened later open the same file, wherever the program is then.
        path = os.path.realpath(self._filename)
        self._engine = Engine(path, readonly, durable, lock_timeout_s)
        prepare(self._engine)
        self._pending: dict[bytes, bytes] | None = None
        self._failure = ""
        # What is told to the caller, and what it sees.
        self._view = self._total = 0
        self._is_pinned = False
        self._ending: News | None = None
        self._own_removals = 0
        self._untold: set[bytes] = set()
        self._rows: RowReader | PastRows = RowReader()
        self._as_of: int | None = None
        self._oids = OidSupply(self._engine)
        self._packs: list[Generator[int | Removal, None, None]] = []
        self._db: sqlite3.Connection | None = None
        self._disown: Callable[[], object] | None = None
        try:
            self._disown = finalize(self, own_file(path, type(self)))
            self._db = db = connect(self._engine)
            self._is_plain = not run(self._engine, lambda: is_upgraded(db))
            if history_us is not None:
                set_history(self._engine, db, history_us)
            self._view, self._total = run(self._engine, lambda: self._newest(db))
            if at is not None:
                self._as_of = serial_at(self.gen_commits(), at, self._filename)
                self._rows = PastRows(self._as_of)
        except sqlite3.Error as error:
            self.close()
            raise translation(error, path, "open") from error
        except BaseException:
            self.close()
            raise

    @classmethod
    def has_format(cls, path: str | PathLike[str]) -> bool:
        """Tell whether the file is an SQLite database that may be one of Durus."""
        path = os.fsdecode(path)
        return owner_of_file(path) is cls or has_format(path)

    def get_filename(self) -> str:
        """Give the file's name as it was given."""
        return self._filename

    @property
    def readonly(self) -> bool:
        """The storage was opened read-only, or as of a past commit."""
        return self._engine.readonly

    def __str__(self) -> str:
        return f"{type(self).__name__}({self._filename!r})"

    # -- reading

    def load(self, oid: bytes) -> bytes:
        if not self._is_pinned:
            self._pin(oid)
        try:
            (oid_int,) = _SIGNED.unpack(oid)
        except (struct_error, TypeError):
            check_oid(oid)
            raise
        try:
            row = self._rows.read(self._opened(), oid_int)
            if row is None:
                raise DurusKeyError(oid)
            data, refs = row
            return b"".join((oid, _LENGTH.pack(len(data)), data, refs))
        except sqlite3.Error as error:
            raise translation(error, self._engine.path, "read", oid) from error
        except (TypeError, struct_error):
            raise CorruptRecordError(
                f"the row of oid {oid_int} in {self} holds no record",
                path=self._engine.path,
                oid=oid,
            ) from None
        finally:
            if self._is_plain:
                self._unpin()

    def gen_oid_record(
        self, start_oid: bytes | None = None, batch_size: int = 100
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield (oid, record) of what is reachable from `start_oid`, or of everything.

        Everything comes in the order of the oids, in bounded memory.
        """
        self._opened()
        if start_oid is not None:
            yield from super().gen_oid_record(start_oid, batch_size)
            return
        first = -(1 << 63)
        while True:
            if not self._is_pinned:
                self._pin(None)
            try:
                found = self._rows.oids_from(self._opened(), first, 1000)
            except sqlite3.Error as error:
                raise translation(error, self._engine.path, "read") from error
            for oid_int in found:
                oid = _SIGNED.pack(oid_int)
                yield oid, self.load(oid)
            if len(found) < 1000 or found[-1] == (1 << 63) - 1:
                return
            first = found[-1] + 1

    @property
    def keeps_history(self) -> bool:  # type: ignore[override]  # the database says it, not a caller
        """Tell whether what is overwritten or removed is kept for a time."""
        db = self._opened()
        if self._is_plain:
            return False
        with translated(self._engine.path, "read"):
            return bool(db.execute("SELECT history_us FROM durus_state").fetchone()[0])

    def gen_commits(self) -> Iterator[tuple[int, datetime]]:
        """Yield serial and time of each commit as of which the data can be read, oldest first.

        A pack is a commit, or several; each record that Durus 4.3 writes or deletes is one.

        Raises:
            NotSupportedError: no history is kept.
        """
        self._check_history()
        with translated(self._engine.path, "read"):
            found = list(gen_commits(self._opened(), self._as_of))
        return ((serial, _EPOCH + timedelta(microseconds=time_us)) for serial, time_us in found)

    def gen_changes(self, serial: int) -> Iterator[tuple[bytes, bytes]]:
        self._check_history()
        db = self._opened()
        with translated(self._engine.path, "read"):
            self._check_commit(db, serial)
            oids = stored_oids(db, serial)
            # If it was forgotten in between, none were found.
            self._check_commit(db, serial)
        for oid in oids:
            yield oid, self.load_as_of(oid, serial)

    def load_as_of(self, oid: bytes, serial: int) -> bytes:
        check_oid(oid)
        self._check_history()
        db = self._opened()
        with translated(self._engine.path, "read"):
            self._check_commit(db, serial)
            (oid_int,) = _SIGNED.unpack(oid)
            row = find_as_of(db, oid_int, serial)
        if row is None:
            raise DurusKeyError(oid)
        return pack_record(oid, *row)

    def _check_commit(self, db: sqlite3.Connection, serial: int) -> None:
        if not has_commit(db, serial, self._as_of):
            raise StorageError(
                f"tried to read {self} as of commit {serial}, of which not all is kept"
            )

    def _check_history(self) -> None:
        if not self.keeps_history:
            raise NotSupportedError(
                f"tried to read a past state of {self}, which keeps no history; open it with"
                ' history="7d" to keep it for seven days from then on'
            )

    def describe(self) -> StorageDescription:
        """Tell what is known without a walk over the records."""
        db = self._opened()
        try:
            time_us = None if self._is_plain else last_time_us(db, self._as_of)
            size_bytes = os.stat(self._engine.path).st_size
        except sqlite3.Error as error:
            raise translation(error, self._engine.path, "read") from error
        return StorageDescription(
            format="SQLite",
            path=self._filename,
            # How long the file was then is known to nobody.
            size_bytes=size_bytes if self._as_of is None else None,
            last_commit_time=_EPOCH + timedelta(microseconds=time_us) if time_us else None,
            as_of=self._as_of,
        )

    def gen_damage(self) -> Iterator[Damage]:
        """Have SQLite check its structure, look into the tables of ours, and yield what is wrong.

        SQLite has no sums over its pages: what a changed byte makes of a number in a table may be
        a number as well. Of records of ours the proof tells.
        """
        if not self._is_pinned:
            self._pin(None)
        return gen_damage(self._opened(), is_plain=self._is_plain)

    # -- the snapshot

    def sync(self) -> list[bytes] | None:
        db = self._opened()
        if self._as_of is not None:
            self._unpin()
            return []
        if self._ending is not None:
            raise StorageTransactionError(f"tried to sync {self} inside of its end()")
        self._unpin()
        self._begin_reading(db)
        try:
            news = self._read_news(db)
        except sqlite3.Error as error:
            rollback(db)
            raise translation(error, self._engine.path, "read") from error
        self._is_pinned = True
        if self._is_plain or not self._may_hold():
            self._unpin()
        return self._tell(news)

    def rest(self) -> None:
        if self._db is not None and self._ending is None:
            self._unpin()

    def _tell(self, news: News) -> list[bytes] | None:
        """Move to what `news` says, and give it together with what was not told before."""
        self._note_seen(news.serial, news.total, news.changed)
        untold, self._untold = self._untold, set()
        changed = news.changed | untold
        if not news.is_known or not self._oids.given.isdisjoint(changed):
            # Somebody who does not ask for oids, as Durus 4.3, may have taken those that we gave.
            self._oids.forget()
            return None
        return list(changed)

    def _note_seen(self, serial: int, total: int, written: Collection[bytes]) -> None:
        self._view, self._total = serial, total
        self._own_removals = 0
        self._oids.note_written(written)

    def _begin_reading(self, db: sqlite3.Connection) -> None:
        """Take a snapshot: that of the first statement which reads."""
        sql = "SELECT 1 FROM sqlite_schema LIMIT 1"

        def begin() -> None:
            db.execute("BEGIN")
            try:
                db.execute(sql).fetchone()
            except BaseException:
                rollback(db)
                raise

        try:
            run(self._engine, begin)
        except sqlite3.Error as error:
            raise translation(error, self._engine.path, "read") from error

    def _pin(self, oid: bytes | None) -> None:
        """Take a snapshot for what is loaded from now on, if nothing has happened since the last.

        Raises:
            ReadConflictError: something has; the caller must be told of it by a `sync()` first.
            StorageError: it is a past state, and not kept any more.
        """
        db = self._opened()
        if self._ending is not None:
            # What ends by the handler's work may load. The rest has not changed.
            if oid is None or oid in self._ending.changed:
                raise ReadConflictError([] if oid is None else [oid])
            return
        self._begin_reading(db)
        try:
            if self._as_of is not None:
                self._check_commit(db, self._as_of)
            elif self._newest(db)[0] != self._view + self._own_removals:
                raise ReadConflictError([] if oid is None else [oid])
        except BaseException:
            rollback(db)
            raise
        self._is_pinned = True

    def _unpin(self) -> None:
        """Give the snapshot back."""
        self._rows.forget()
        if self._is_pinned:
            self._is_pinned = False
            rollback(self._opened())

    def _may_hold(self) -> bool:
        try:
            return os.stat(f"{self._engine.path}-wal").st_size < _LARGEST_WAL_BYTES
        except OSError:
            return True

    def _newest(self, db: sqlite3.Connection) -> tuple[int, int]:
        """Give serial and total of the newest commit."""
        if self._is_plain:
            # SQLite's own number of what others changed, for this connection alone.
            return db.execute("PRAGMA data_version").fetchone()[0], 0
        return newest_commit(db)

    def _read_news(self, db: sqlite3.Connection) -> News:
        if self._is_plain:
            serial, _ = self._newest(db)
            return News(serial, 0, is_known=serial == self._view)
        return read_news(db, self._view, self._total)

    # -- writing

    def begin(self) -> None:
        self._check_writable()
        self._pending = {}

    def store(self, oid: bytes, record: bytes) -> None:
        pending = self._pending
        if pending is None:
            self._opened()
            raise StorageTransactionError("store() needs a begin() first")
        try:
            found, data_bytes = _HEADER.unpack_from(record)
            spare = len(record) - 12 - data_bytes
        except (struct_error, TypeError):
            found, spare = None, -1
        if found != oid or spare < 0 or spare & 7 or type(oid) is not bytes:
            check_record(oid, record)
        pending[oid] = record if type(record) is bytes else bytes(record)

    def end(self, handle_invalidations: Handler | None = None) -> None:
        db = self._opened()
        pending, self._pending = self._pending, None
        if pending is None:
            raise StorageTransactionError("end() needs a begin() first")
        self._check_writable()
        self._unpin()
        try:
            if pending:
                self._commit(db, pending, handle_invalidations)
            elif handle_invalidations is not None:
                self._end_empty(db, handle_invalidations)
        except sqlite3.Error as error:
            if (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF == sqlite3.SQLITE_IOERR:
                # What the system still holds of the file may not be what is on the disk.
                self._failure = f"a commit failed ({error})"
            raise translation(error, self._engine.path, "commit to") from error
        finally:
            self._rows.forget()
        self._hold(db)

    def _commit(
        self, db: sqlite3.Connection, pending: dict[bytes, bytes], handle: Handler | None
    ) -> None:
        with writing(self._engine, db):
            news = self._validate(db, pending, handle)
            serial, total = news.serial + 1, news.total + len(pending)
            db.execute(
                "INSERT INTO durus_commits VALUES (?, ?, ?, 0, ?)",
                (serial, total, time_ns() // 1000, b"".join(pending)),
            )
            write_rows(db, pending, serial)
            if serial // _TRIM_EVERY != self._view // _TRIM_EVERY:
                trim(db, 2 * _TRIM_EVERY)
        self._note_seen(serial, total, news.changed.union(pending))
        self._oids.given.difference_update(pending)
        # Without a handler nobody was told. Of oids that were given, sync() has to say more.
        told = self._untold | news.changed
        self._untold = told if handle is None else told & self._oids.given

    def _validate(
        self, db: sqlite3.Connection, pending: dict[bytes, bytes], handle: Handler | None
    ) -> News:
        """Refuse a commit that does not fit what others committed. The write lock is held.

        While the handler is asked, nobody else can commit: else those who do all the time would
        have news for each of its answers.
        """
        news = self._read_news(db)
        if not news.is_known:
            raise WriteConflictError
        if handle is not None and (news.changed or self._untold):
            self._ending = news
            try:
                handle(sorted(news.changed | self._untold))
            finally:
                self._ending = None
        written = news.changed.intersection(pending)
        if written:
            raise WriteConflictError(sorted(written))
        if news.removed:
            self._check_removed(news.removed, pending)
        return news

    def _check_removed(self, removed: set[bytes], pending: dict[bytes, bytes]) -> None:
        """Refuse references to what a pack removed: the caller may hold it and not have used it."""
        missing = removed.intersection(gen_referred(pending)).difference(pending)
        if missing:
            raise WriteConflictError(sorted(missing))

    def _end_empty(self, db: sqlite3.Connection, handle: Handler) -> None:
        self._begin_reading(db)
        try:
            news = self._read_news(db)
        finally:
            rollback(db)
        if not news.is_known:
            raise WriteConflictError
        told = news.changed | self._untold
        if told:
            handle(sorted(told))
        self._note_seen(news.serial, news.total, news.changed)
        self._untold = told & self._oids.given

    def _hold(self, db: sqlite3.Connection) -> None:
        """Take the snapshot of what was just committed, if nobody came in between.

        The commit is made: whatever fails now is for the next load to tell.
        """
        if not self._may_hold():
            return
        try:
            db.execute("BEGIN")
            self._is_pinned = self._newest(db)[0] == self._view
        except sqlite3.Error:
            self._is_pinned = False
        if not self._is_pinned:
            rollback(db)

    # -- the rest

    def new_oid(self) -> bytes:
        self._check_writable()
        return self._oids.give(self._pending or ())

    def new_session(self) -> SqliteStorage:
        self._opened()
        engine = self._engine
        session = type(self)(
            engine.path,
            engine.readonly,
            durable=engine.durable,
            lock_timeout_s=engine.lock_timeout_s,
            at=self._as_of,
        )
        session._filename = self._filename
        return session

    def get_packer(self) -> Iterator[object]:
        """Give an iterator that packs in steps of a few milliseconds, and yields how many it kept.

        It marks what the root reaches, follows what is committed meanwhile, removes the rest, and
        gives the space back to the system. Any number of packs may go on at once.

        Raises:
            StorageReadOnlyError: the storage was opened read-only.
            StorageLockedError: another program held the lock for too long; go on with a new packer.
            StorageWriteError: the system refused; what the root reaches is as it was.
            CorruptionError: the file is damaged; what the root reaches is as it was.
        """
        self._check_writable()
        return self._gen_pack()

    def _gen_pack(self) -> Iterator[object]:
        self._check_writable()
        packer = Packer(self._engine)
        steps = packer.gen_steps()
        self._packs.append(steps)
        try:
            for count in steps:
                self._note_removals(packer)
                yield count
                self._check_writable()
            self._note_removals(packer)
        except sqlite3.Error as error:
            raise translation(error, self._engine.path, "pack") from error
        finally:
            steps.close()
            if steps in self._packs:
                self._packs.remove(steps)

    def _note_removals(self, packer: Packer) -> None:
        """Let this session, which asked for the pack, see at once what it removed."""
        if packer.removals:
            self._unpin()
            self._own_removals += packer.removals
            packer.removals = 0

    def copy(
        self, path: str | PathLike[str], progress: Callable[[int, int], object] | None = None
    ) -> None:
        """Copy the newest committed state to a new file, while commits go on.

        Args:
            path: the new file. It appears when it is whole and on the disk.
            progress: called now and then with the bytes copied and the bytes to copy.

        Raises:
            StorageOpenError: there is something at `path`.
            StorageWriteError: the system refused; nothing is left of the copy.
            NotSupportedError: it was opened as of a past commit.
        """
        self._opened()
        if self._as_of is not None:
            raise NotSupportedError(
                f"tried to copy {self}, which was opened as of commit {self._as_of}: SQLite copies"
                " the newest state alone; open it without `at`"
            )
        copy_database(self._engine, os.fsdecode(path), progress)

    def close(self) -> None:
        db, self._db = self._db, None
        self._pending = None
        self._rows.forget()
        self._is_pinned = False
        for steps in self._packs:
            steps.close()
        self._packs.clear()
        self._oids.close()
        if db is not None:
            db.close()
        if self._disown is not None:
            self._disown()

    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            raise StorageClosedError(f"{self} is closed; open it again")
        return self._db

    def _check_writable(self) -> None:
        self._opened()
        if self._engine.readonly:
            raise StorageReadOnlyError(f"tried to change {self}, which was opened read-only")
        if self._failure:
            raise StorageWriteError(
                f"tried to change {self}, which refuses since {self._failure}; close it and open it"
                " again"
            )
