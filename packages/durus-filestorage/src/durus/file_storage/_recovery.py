"""What to do about a file whose end is not whole: a torn tail, or damage.

A commit is acknowledged after it was synced, and the next one is written after that. So a power cut
leaves at most one unacknowledged transaction at the end of the file, in any state: short, with
zeros or garbage in it, its last block written and its first not. It is a *torn tail*: nobody was
ever told that it is there. Opening for writing sets it aside and goes on.

A transaction that is not whole although something acknowledged *follows* it was destroyed. That is
*corruption*: nothing is cut until somebody asks for a repair. The proof that it was acknowledged is

- a commit record further on that can not belong to the damaged transaction itself, because of its
  place or because the serial numbers leave room for one between, and that was written after a sync;
  or
- a whole transaction that begins after the damaged one ends.

Commits of a storage that was opened with durable=False prove nothing of this kind: they may reach
the disk in any order, and a power cut may cost the last of them.
"""

from __future__ import annotations

from durus.error import CorruptionError
from durus.file_storage._commit_record import Commit
from durus.file_storage._file import File
from durus.file_storage._format import DamageError, Format, Tip

__all__ = ["corruption_error", "judge_tail"]

_OIDS_SHOWN = 8

# What a disk writes whole or not at all.
_SECTOR_BYTES = 512


def judge_tail(file: File, format: Format, tip: Tip, damage: DamageError, limit: int) -> int:
    """Decide what the bytes from `tip.end` on are, which are no whole transaction.

    Args:
        file: the journal.
        format: its format.
        tip: the end of what is whole.
        damage: what is wrong there.
        limit: the end of the file.

    Returns:
        The file offset at which the torn tail begins.

    Raises:
        CorruptionError: what is not whole had been acknowledged.
    """
    own = None
    has_synced = False
    for offset, commit in format.gen_commits(file, tip.end, limit):
        if commit.serial <= tip.serial:
            continue
        if format.may_be_own(file, tip, offset, commit):
            own = own or (offset, commit)
        elif commit.follows_sync or has_synced:
            proof = f"commit {commit.serial} at offset {offset} follows it"
            raise corruption_error(file, format, damage, proof, limit)
        has_synced = has_synced or commit.follows_sync
    follower = _whole_follower(file, format, tip, limit)
    if follower:
        proof = f"a whole transaction at offset {follower} follows it"
        raise corruption_error(file, format, damage, proof, limit)
    if tip.unproven and _is_start_of_torn(file, format, tip, own, limit):
        return tip.unproven
    return tip.end


def _whole_follower(file: File, format: Format, tip: Tip, limit: int) -> int:
    """Look for a whole transaction where the damaged one ends; 0 if there is none.

    It ends where its length says, or, if the length is what is damaged, where its entries end.
    """
    for start in format.gen_ends(file, tip.end, limit):
        if not tip.end + 8 < start <= limit - 8:
            continue
        for before in (tip._replace(end=start), Tip(start)):
            try:
                after, offsets = format.scanner(file, limit).read(before)
            except DamageError:
                continue
            commit_offset = after.commit_offset if not after.unproven else 0
            if offsets and (not commit_offset or _follows_sync(file, format, commit_offset)):
                return start
    return 0


def _follows_sync(file: File, format: Format, commit_offset: int) -> bool:
    commit = format.read_commit(file, commit_offset)
    return commit is not None and commit.follows_sync


def _is_start_of_torn(
    file: File, format: Format, tip: Tip, own: tuple[int, Commit] | None, limit: int
) -> bool:
    """Tell whether the last transaction, which has no commit record, is a part of the torn tail.

    A length that lost a byte can end at an entry inside its transaction. What it then spans looks
    like a transaction of Durus 4.3, and the rest like a torn tail. It is one of ours if it agrees
    with the commit record in the rest but for its length, or if its last record is of our form.

    Records of our form are in transactions of 4.3 too: its server stores what our clients send. So
    what follows must not look as 4.3 leaves it, which begins a transaction with a length of zero.
    In ours the length of an entry would stand there, or zeros from one sector that was lost on.
    """
    start = tip.unproven
    if own is not None and format.is_whole_but_for_length(file, start, *own):
        return True
    rest = file.read(tip.end, min(_SECTOR_BYTES, limit - tip.end))
    zeros = len(rest) - len(rest.lstrip(b"\0"))
    if 8 <= zeros < _SECTOR_BYTES:
        return False
    last = b""
    for _, _, record in format.gen_objects(file, start, tip.end):
        last = record
    return last[12:15] == b"\x80\x04c"


def corruption_error(
    file: File, format: Format, damage: DamageError, proof: str, limit: int
) -> CorruptionError:
    """Make the error for a damaged transaction, naming the objects in it as far as they show."""
    oid_ints = _visible_oids(file, format, damage.offset, limit)
    if damage.oid_int is not None and damage.oid_int not in oid_ints:
        oid_ints.insert(0, damage.oid_int)
    concerned = ", ".join(map(str, oid_ints)) or "none that can be told"
    if len(oid_ints) >= _OIDS_SHOWN:
        concerned += ", ..."
    return CorruptionError(
        f"tried to read {file.path!r} at offset {damage.offset}, found {damage.reason}; {proof}, so"
        f" this is damage and not the torn end of a commit. Objects concerned: {concerned}."
        " Nothing was changed. Restore a backup, or open it with repair=True to keep every"
        " transaction that still proves itself",
        path=file.path,
        offset=damage.offset,
        oid=oid_ints[0].to_bytes(8, "big") if oid_ints else None,
    )


def _visible_oids(file: File, format: Format, start: int, limit: int) -> list[int]:
    oid_ints: dict[int, None] = {}
    for oid_int in format.gen_visible_oids(file, start, limit):
        oid_ints[oid_int] = None
        if len(oid_ints) >= _OIDS_SHOWN:
            break
    return list(oid_ints)
