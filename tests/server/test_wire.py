"""The pieces of protocol 2: frames, payloads, proofs, errors."""

from __future__ import annotations

import json
import tracemalloc
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durus import error as errors
from durus._wire import (
    FRAME_HEADER,
    Type,
    client_proof,
    decompress,
    pack_error,
    pack_frame,
    read_object,
    server_proof,
    unpack_error,
)
from durus.error import (
    CorruptRecordError,
    DurusError,
    DurusKeyError,
    InvalidOidError,
    ProtocolError,
    StorageError,
    UnissuedOidError,
    WriteConflictError,
)

OID = b"\0\0\0\0\0\0\1\2"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def test_the_example_of_the_picture_is_what_is_sent() -> None:
    """The frame that the description shows in hexadecimal is made of what it says."""
    example = "00 00 00 11 10 00 00 00 07 00 00 00 00 00 00 00 01 00 00 10 00"
    payload = (1).to_bytes(8, "big") + (4096).to_bytes(4, "big")
    assert pack_frame(Type.LOAD, 7, payload) == bytes.fromhex(example)


@given(kind=st.sampled_from(Type), number=st.integers(0, 0xFFFFFFFF), payload=st.binary())
def test_a_frame_tells_its_length_type_and_number(kind: Type, number: int, payload: bytes) -> None:
    """The header of a frame gives back what it was made of, and the payload follows."""
    frame = pack_frame(kind, number, payload)
    assert FRAME_HEADER.unpack_from(frame) == (len(payload) + 5, kind, number)
    assert frame[FRAME_HEADER.size :] == payload


def test_no_type_has_the_bit_that_says_compressed() -> None:
    """A type can be told from the flag that is added to it."""
    assert not [kind for kind in Type if kind & 0x40]


@given(payload=st.binary(), room=st.integers(0, 3))
def test_what_was_compressed_comes_back(payload: bytes, room: int) -> None:
    """A payload within its limit is decompressed."""
    assert decompress(zlib.compress(payload), len(payload) + room) == payload


@given(payload=st.binary(min_size=1), cut=st.integers(1, 5), tail=st.binary(min_size=1))
def test_what_is_cut_or_too_long_is_refused(payload: bytes, cut: int, tail: bytes) -> None:
    """A stream that is cut, goes on after its end, or holds more than its limit is refused."""
    compressed = zlib.compress(payload)
    for damaged, most_bytes in (
        (compressed[:-cut], len(payload)),
        (compressed + tail, len(payload)),
        (compressed, len(payload) - 1),
    ):
        with pytest.raises(ProtocolError):
            decompress(damaged, most_bytes)


@given(payload=st.binary())
def test_any_bytes_are_decompressed_or_refused(payload: bytes) -> None:
    """Arbitrary bytes raise nothing but ProtocolError, and never give more than the limit."""
    with suppress(ProtocolError):
        assert len(decompress(payload, 100)) <= 100


def test_a_small_frame_of_much_takes_no_more_than_its_limit() -> None:
    """What would decompress to a gigabyte takes no memory beyond the limit."""
    compressor = zlib.compressobj()
    bomb = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(64)) + compressor.flush()
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decompress(bomb, 1 << 16)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@given(payload=st.binary() | st.builds(lambda value: json.dumps(value).encode(), JSON))
def test_any_payload_is_an_object_or_refused(payload: bytes) -> None:
    """Where JSON is due, anything but an object is a ProtocolError."""
    with suppress(ProtocolError):
        assert isinstance(read_object(payload), dict)


@pytest.mark.parametrize("payload", [b"[" * 100_000, b"1" * 100_000, b"\xff", b""])
def test_an_awkward_payload_is_refused(payload: bytes) -> None:
    """Deep nesting, huge numbers, bytes that are no text and nothing at all are refused."""
    with pytest.raises(ProtocolError):
        read_object(payload)


def test_a_proof_depends_on_all_that_it_should() -> None:
    """Another secret, another nonce of either side or the other side make another proof."""
    proofs = {
        make(secret, server_nonce, client_nonce)
        for make in (client_proof, server_proof)
        for secret in (b"a", b"b")
        for server_nonce in (bytes(32), bytes([1] * 32))
        for client_nonce in (bytes(32), bytes([1] * 32))
    }
    assert len(proofs) == 16
    assert {len(proof) for proof in proofs} == {32}


@pytest.mark.parametrize(
    "error",
    [
        DurusKeyError(OID),
        InvalidOidError(OID),
        UnissuedOidError(OID),
        WriteConflictError([OID, bytes(8)]),
        WriteConflictError(),
        CorruptRecordError("damaged", path="/a", offset=7, oid=OID),
        StorageError("something"),
        *(
            getattr(errors, name)("what happened")
            for name in errors.__all__
            if "Oid" not in name and "Conflict" not in name and "Key" not in name
        ),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_arrives_as_it_was(error: DurusError) -> None:
    """An error comes out of the wire with its class, its text and its values."""
    found = unpack_error(pack_error(error))
    assert type(found) is type(error)
    assert str(found) == str(error)
    for name in ("oid", "oids", "path", "offset"):
        assert getattr(found, name, None) == getattr(error, name, None)


def test_an_error_that_is_not_ours_arrives_as_a_storage_error() -> None:
    """What went wrong in a server by no intention of ours has its text, and a class of ours."""
    found = unpack_error(pack_error(RuntimeError("the disk is on fire")))
    assert type(found) is StorageError
    assert str(found) == "the disk is on fire"


@given(
    name=st.sampled_from([*errors.__all__, "SystemExit", "OSError", "annotations", ""]) | JSON,
    fields=st.dictionaries(st.sampled_from(["message", "oid", "oids", "path", "offset"]), JSON),
    hexes=st.lists(st.sampled_from(["", "00", "0", "zz", OID.hex()]) | JSON),
    has_hexes=st.booleans(),
)
def test_whatever_an_error_says_it_is_one_of_ours(
    name: object, fields: dict[str, object], hexes: list[object], *, has_hexes: bool
) -> None:
    """An ERROR with any fields makes an error of Durus, whose text can be read."""
    if has_hexes:
        fields["oids"] = hexes
        fields["oid"] = hexes[0] if hexes else None
    try:
        found = unpack_error(json.dumps({"error": name, **fields}).encode())
    except ProtocolError as error:
        found = error
    assert isinstance(found, DurusError)
    assert str(found) or fields.get("message") == ""
