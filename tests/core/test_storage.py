"""Walks over all records, the defaults of Storage, and what its checks refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest

from durus.error import (
    CorruptRecordError,
    DurusKeyError,
    InvalidOidError,
    NotSupportedError,
    StorageClosedError,
)
from durus.serialize import ROOT_OID, pack_record
from durus.storage import (
    MemoryStorage,
    Storage,
    StorageDescription,
    check_oid,
    check_record,
    gen_oid_class,
    gen_referring_oid_record,
    get_census,
    get_reference_index,
)
from durus.testing import StorageTests, commit, make_record
from durus.utils import int8_to_str

ONE, TWO, THREE, FOUR = (int8_to_str(n) for n in range(1, 5))
# In the form of Durus 4.3: another class, compressed or not does not matter to a walk.
OLD = pack_record(FOUR, b"\x80\x02cshop.items\nItem\nq\x00.\x80\x02}q\x01.", ONE)


class Plain(Storage):
    """A storage with the required methods alone, so that the defaults are what runs."""

    def __init__(self) -> None:
        self.inner = MemoryStorage()
        self.asked: list[int] = []

    def load(self, oid: bytes) -> bytes:
        return self.inner.load(oid)

    def begin(self) -> None:
        self.inner.begin()

    def store(self, oid: bytes, record: bytes) -> None:
        self.inner.store(oid, record)

    def end(self, handle_invalidations: Callable[[list[bytes]], None] | None = None) -> None:
        self.inner.end(handle_invalidations)

    def sync(self) -> list[bytes]:
        return self.inner.sync()

    def new_oid(self) -> bytes:
        return self.inner.new_oid()

    def bulk_load(self, oids: Iterable[bytes]) -> Iterator[bytes]:
        oids = list(oids)
        self.asked.append(len(oids))
        return super().bulk_load(oids)


class PlainInMemory(Plain):
    """The same, with the truth about what outlives it."""

    is_persistent = False

    def close(self) -> None:
        self.inner.close()


class TestPlainStorage(StorageTests):
    """The defaults of Storage keep the contract, and an absent ability is refused."""

    @pytest.fixture
    def open_storage(self) -> Callable[..., Storage]:
        return PlainInMemory


@pytest.fixture(params=[MemoryStorage, Plain])
def storage(request: pytest.FixtureRequest) -> Storage:
    """Give a storage where root -> 1 -> 2 -> 1, root -> 4 (of another class) -> 1; 3 is garbage."""
    make: Callable[[], Storage] = request.param
    storage = make()
    commit(
        storage,
        make_record(ROOT_OID, [ONE, FOUR]),
        make_record(ONE, [TWO]),
        make_record(TWO, [ONE]),
        make_record(THREE, [ONE]),
        OLD,
    )
    return storage


def test_gen_oid_class_yields_all_or_those_asked_for(storage: Storage) -> None:
    """Class names come without the module, as text or bytes they can be asked for."""
    found = dict(gen_oid_class(storage))
    assert found.pop(THREE, b"Persistent") == b"Persistent"
    assert found == {ROOT_OID: b"Persistent", ONE: b"Persistent", TWO: b"Persistent", FOUR: b"Item"}
    assert list(gen_oid_class(storage, "Item")) == [(FOUR, b"Item")]
    assert list(gen_oid_class(storage, b"Item")) == [(FOUR, b"Item")]
    assert dict(gen_oid_class(storage, "Item", "Persistent")).keys() >= {FOUR, ONE}
    assert list(gen_oid_class(storage, "Nothing")) == []


def test_census_counts_records_by_class(storage: Storage) -> None:
    """The census counts each record once; garbage counts where the storage lists it."""
    garbage_count = 1 if isinstance(storage, MemoryStorage) else 0
    assert get_census(storage) == {b"Persistent": 3 + garbage_count, b"Item": 1}


def test_reference_index_has_who_refers_to_whom(storage: Storage) -> None:
    """The index gives the oids that refer to each oid; what nobody refers to is not in it."""
    index = {oid: sorted(referring) for oid, referring in get_reference_index(storage).items()}
    assert set(index.pop(ONE)) - {THREE} == {ROOT_OID, TWO, FOUR}
    assert index == {TWO: [ONE], FOUR: [ROOT_OID]}


def test_referring_records_are_found(storage: Storage) -> None:
    """Each record that refers to an oid is given with its oid."""
    assert list(gen_referring_oid_record(storage, TWO)) == [(ONE, make_record(ONE, [TWO]))]
    assert list(gen_referring_oid_record(storage, FOUR)) == [
        (ROOT_OID, make_record(ROOT_OID, [ONE, FOUR]))
    ]
    assert list(gen_referring_oid_record(storage, ROOT_OID)) == []
    with pytest.raises(InvalidOidError):
        list(gen_referring_oid_record(storage, b"short"))


def test_walks_over_an_empty_storage_find_nothing() -> None:
    """A new storage has no classes, no references and nothing that refers."""
    for storage in (MemoryStorage(), Plain()):
        assert get_census(storage) == {}
        assert get_reference_index(storage) == {}
        assert list(gen_oid_class(storage)) == []
        assert list(gen_referring_oid_record(storage, ROOT_OID)) == []


def test_memory_storage_lists_garbage_without_a_start() -> None:
    """MemoryStorage knows all its records, so that a walk without a start yields them all."""
    storage = MemoryStorage()
    commit(storage, make_record(ROOT_OID), make_record(ONE))
    assert [oid for oid, _ in storage.gen_oid_record()] == [ROOT_OID, ONE]
    assert [oid for oid, _ in storage.gen_oid_record(ROOT_OID)] == [ROOT_OID]


def test_default_walk_begins_at_the_root_in_batches() -> None:
    """The default walk asks `bulk_load` for at most `batch_size` records at once."""
    storage = Plain()
    leaves = [int8_to_str(n) for n in range(1, 26)]
    commit(storage, make_record(ROOT_OID, leaves), *map(make_record, leaves))
    assert [oid for oid, _ in storage.gen_oid_record(batch_size=10)] == [ROOT_OID, *leaves]
    assert storage.asked == [1, 10, 10, 5]


def test_default_walk_over_a_dangling_reference_raises() -> None:
    """A reference to nothing is damage, and is not passed over."""
    storage = Plain()
    commit(storage, make_record(ROOT_OID, [ONE]))
    with pytest.raises(DurusKeyError, match="oid 1"):
        list(storage.gen_oid_record())


def test_a_walk_goes_on_beside_commits() -> None:
    """A commit in the middle of a walk does not break the walk."""
    storage = MemoryStorage()
    commit(storage, make_record(ROOT_OID), make_record(ONE))
    walk = storage.gen_oid_record()
    next(walk)
    commit(storage, make_record(TWO))
    assert [oid for oid, _ in walk] == [ONE]


def test_optional_abilities_are_absent_by_default() -> None:
    """A storage that writes the required methods alone has none of the optional abilities."""
    storage = Plain()
    assert (storage.can_pack, storage.can_share, storage.can_open_readonly) == (False, False, False)
    assert storage.is_persistent
    assert storage.describe() == StorageDescription()
    assert not Plain.has_format("anything")
    with pytest.raises(NotSupportedError, match="Plain cannot be packed"):
        storage.pack()
    with pytest.raises(NotSupportedError, match="Plain serves one caller"):
        storage.new_session()
    with storage as entered:
        assert entered is storage
    storage.close()


def test_a_storage_must_have_the_required_methods() -> None:
    """A class that lacks one of the six cannot be made."""
    with pytest.raises(TypeError, match="abstract"):
        Storage()  # type: ignore[abstract]


@pytest.mark.parametrize("oid", [b"", b"seven..", b"nine bytes"[:9], "8 letters", 8, None])
def test_check_oid_refuses_what_is_no_oid(oid: bytes) -> None:
    """What is not 8 bytes is named."""
    with pytest.raises(InvalidOidError) as caught:
        check_oid(oid)
    assert caught.value.oid == oid


def test_check_record_names_both_oids() -> None:
    """A record under a foreign oid is an error that names the one asked for and the one found."""
    check_record(ONE, make_record(ONE))
    with pytest.raises(CorruptRecordError) as caught:
        check_record(ONE, make_record(TWO))
    assert str(caught.value) == (
        "tried to store a record under oid 1, but it says that it is the record of oid 2"
    )
    assert caught.value.oid == ONE


def test_new_oid_passes_over_the_last_one() -> None:
    """A stored oid of 2**64-1 does not use up the oids."""
    storage = MemoryStorage()
    commit(storage, make_record(b"\xff" * 8))
    assert storage.new_oid() == ROOT_OID


def test_pack_of_a_dangling_reference_removes_nothing() -> None:
    """A pack that meets damage raises, and what was stored stays."""
    storage = MemoryStorage()
    commit(storage, make_record(ROOT_OID, [ONE]), make_record(TWO))
    with pytest.raises(DurusKeyError):
        storage.pack()
    assert storage.load(TWO) == make_record(TWO)


def test_closed_storage_says_what_to_do() -> None:
    """The error of a closed MemoryStorage tells that its records are gone."""
    storage = MemoryStorage()
    storage.close()
    with pytest.raises(StorageClosedError, match="this MemoryStorage is closed; make another"):
        storage.load(ROOT_OID)
