"""The server's parser under arbitrary and mutated streams; `fuzz_wire.py` says what is checked."""

from __future__ import annotations

import zlib
from pathlib import Path
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durus.testing import make_record, malformed_records
from durus.utils import int8_to_str

from .fuzz_wire import frame, run, transaction_1

CORPUS = sorted((Path(__file__).parent / "corpus" / "wire").iterdir())

OIDS = st.integers(0, 12).map(int8_to_str) | st.binary(min_size=8, max_size=8)
LENGTHS = st.sampled_from([0, 1, 4, 5, 17, 255, 65_535, 65_536, 2**31, 2**32 - 1]).map(
    lambda length: pack(">L", length)
)
RECORDS = st.builds(
    make_record,
    st.integers(0, 12).map(int8_to_str),
    st.lists(st.integers(0, 12).map(int8_to_str), max_size=3),
    st.binary(max_size=20),
) | st.sampled_from([*malformed_records(int8_to_str(1)).values()])
STORED = st.lists(RECORDS, max_size=3).map(
    lambda records: b"".join(pack(">L", len(each)) + each for each in records)
)

REQUESTS_1 = st.one_of(
    st.sampled_from([b"N", b"S", b"C", b"C\0\0\0\0", b"P", b".", b"Q", b"V\0\0\0\1", b"V\0\0\0\2"]),
    OIDS.map(lambda oid: b"L" + oid),
    st.lists(OIDS, max_size=4).map(lambda oids: b"B" + pack(">L", len(oids)) + b"".join(oids)),
    LENGTHS.map(lambda length: b"B" + length),
    st.integers(0, 255).map(lambda count: b"M" + bytes([count])),
    st.lists(RECORDS, max_size=3).map(lambda records: b"C" + transaction_1(*records)),
    LENGTHS.map(lambda length: b"C" + length),
)

PAYLOADS = st.one_of(
    st.just(b""),
    OIDS,
    st.tuples(OIDS, LENGTHS).map(b"".join),
    st.lists(OIDS, max_size=4).map(b"".join),
    LENGTHS,
    st.integers(1, 40).map(lambda count: pack(">L", count)),
    st.builds(
        lambda serial, count: pack(">QL", serial, count),
        st.sampled_from([0, 1, 2, 2**63, 2**64 - 1]),
        st.sampled_from([0, 1, 3, 4096, 4097, 2**32 - 1]),
    ),
    st.tuples(OIDS, st.sampled_from([0, 1, 2**64 - 1]).map(int8_to_str)).map(b"".join),
    STORED,
    STORED.map(zlib.compress),
    st.binary(max_size=30),
)
KINDS = st.sampled_from([0x01, *range(0x10, 0x20)]) | st.integers(0, 255)
FRAMES = st.one_of(
    st.builds(frame, KINDS, st.integers(0, 9), PAYLOADS),
    st.builds(
        lambda store, kind: frame(0x14, 1, store) + frame(kind, 2),
        STORED,
        st.sampled_from([0x12, 0x15, 0x16, 0x17, 0x18]),
    ),
    STORED.map(lambda store: frame(0x54, 1, zlib.compress(store)) + frame(0x15, 2)),
    st.builds(lambda length, rest: length + rest, LENGTHS, st.binary(max_size=12)),
)


def make_input(beginning: int, cut: int, unread: bool, stream: bytes) -> bytes:
    return bytes([beginning | cut << 2 | unread << 4]) + stream


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_what_was_found_once_stays_harmless(path: Path) -> None:
    """Each stored stream harms nobody but the client that sends it."""
    run(path.read_bytes())


@given(
    data=st.builds(
        make_input, st.integers(0, 3), st.integers(0, 3), st.booleans(), st.binary(max_size=200)
    )
)
@settings(max_examples=300)
def test_arbitrary_bytes_harm_nobody(data: bytes) -> None:
    """Any bytes, after any beginning and however they are cut, end one connection at most."""
    run(data)


@given(
    cut=st.integers(0, 3),
    unread=st.booleans(),
    requests=st.lists(REQUESTS_1, max_size=8),
    tail=st.binary(max_size=3),
)
@settings(max_examples=500)
def test_requests_of_protocol_1_harm_nobody(
    cut: int, unread: bool, requests: list[bytes], tail: bytes
) -> None:
    """Requests that are right and wrong, in any order, leave a storage of well-formed records."""
    run(make_input(1, cut, unread, b"".join(requests) + tail))


@given(
    beginning=st.integers(2, 3),
    cut=st.integers(0, 3),
    unread=st.booleans(),
    frames=st.lists(FRAMES, max_size=8),
    tail=st.binary(max_size=3),
)
@settings(max_examples=800)
def test_requests_of_protocol_2_harm_nobody(
    beginning: int, cut: int, unread: bool, frames: list[bytes], tail: bytes
) -> None:
    """The same in frames, compressed or not."""
    run(make_input(beginning, cut, unread, b"".join(frames) + tail))


@given(data=st.data())
@settings(max_examples=300)
def test_mutated_streams_harm_nobody(data: st.DataObject) -> None:
    """A stored stream with bytes changed, lost or doubled is as harmless."""
    stream = bytearray(data.draw(st.sampled_from(CORPUS)).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(stream) - 1))
        size = data.draw(st.integers(0, 12))
        stream[at : at + size] = data.draw(
            st.just(stream[at : at + size] * 2) | st.binary(max_size=12) | LENGTHS
        )
        stream += b"\0" * (not stream)
    run(bytes(stream))


def test_the_streams_get_far() -> None:
    """A stream may commit in either protocol: otherwise all this would try nothing."""
    changed = make_record(int8_to_str(2), payload=b"changed")
    assert run(make_input(1, 0, False, b"C" + transaction_1(changed))) == (
        # The version; nothing is stale; committed.
        b"\0\0\0\1" + bytes(4) + b"O"
    )
    stored = zlib.compress(pack(">L", len(changed)) + changed)
    answers = run(make_input(3, 1, False, frame(0x54, 1, stored) + frame(0x15, 2)))
    assert answers.endswith(frame(0x95, 2))
    past = frame(0x1C, 1, pack(">QL", 2**64 - 1, 1)) + frame(0x1D, 2, pack(">QL", 1, 3))
    answers = run(make_input(3, 1, False, past + frame(0x1E, 3, bytes(15) + b"\1")))
    root = make_record(bytes(8), [int8_to_str(number) for number in (1, 2, 3)])
    three = make_record(int8_to_str(3))
    assert pack(">LBLQ", 21, 0x9B, 1, 1) in answers
    assert b"\x9c\0\0\0\2\1" + pack(">L", len(three)) + three in answers
    assert answers.endswith(frame(0x90, 3, pack(">L", len(root)) + root))
