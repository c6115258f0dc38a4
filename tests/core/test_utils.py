"""Fixed-width integers, and exact reads and writes."""

from __future__ import annotations

import socket
import struct
import tracemalloc
from io import BytesIO, FileIO, RawIOBase
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import durus.error
from durus import utils
from durus.error import CorruptionError, StorageWriteError
from durus.utils import ShortRead


@given(st.integers(0, 2**64 - 1))
def test_int8_is_eight_bytes_big_endian(number: int) -> None:
    """`int8_to_str` and `str_to_int8` are inverse, and the bytes sort as the numbers do."""
    assert utils.int8_to_str(number) == number.to_bytes(8, "big")
    assert utils.str_to_int8(utils.int8_to_str(number)) == number


@given(st.integers(0, 2**32 - 1))
def test_int4_is_four_bytes_big_endian(number: int) -> None:
    """`int4_to_str` and `str_to_int4` are inverse."""
    assert utils.int4_to_str(number) == number.to_bytes(4, "big")
    assert utils.str_to_int4(utils.int4_to_str(number)) == number


def test_numbers_that_do_not_fit_are_refused() -> None:
    """As in Durus 4.3, what does not fit is a `struct.error`."""
    for number in (-1, 2**32):
        with pytest.raises(struct.error):
            utils.int4_to_str(number)
    for number in (-1, 2**64):
        with pytest.raises(struct.error):
            utils.int8_to_str(number)
    with pytest.raises(struct.error):
        utils.str_to_int8(b"seven..")
    with pytest.raises(struct.error):
        utils.str_to_int4(b"five.")


def test_as_bytes() -> None:
    """Text is latin-1, bytes are themselves."""
    assert utils.as_bytes("\xe9") == b"\xe9"
    assert utils.as_bytes(b"x") == b"x"
    assert utils.as_bytes(bytearray(b"y")) == b"y"
    with pytest.raises(UnicodeEncodeError):
        utils.as_bytes("Ω")
    assert utils.join_bytes([b"a", b"b"]) == b"ab"


def test_written_values_are_read_back() -> None:
    """Each `write_` has a `read_` that gives the same value back."""
    file = BytesIO()
    utils.write_int4(file, 4)
    utils.write_int8(file, 8)
    utils.write_int4_str(file, b"four")
    utils.write_int8_str(file, b"eight")
    utils.write(file, b"rest")
    utils.write_all(file, b" of", b" it")
    file.seek(0)
    assert utils.read_int4(file) == 4
    assert utils.read_int8(file) == 8
    assert utils.read_int4_str(file) == b"four"
    assert utils.read_int8_str(file) == b"eight"
    assert utils.read(file, 10) == b"rest of it"
    assert utils.read(file, 0) == b""


def test_sockets_are_read_and_written_too() -> None:
    """As in Durus 4.3, both ends may be sockets, which give what has arrived."""
    near, far = socket.socketpair()
    with near, far:
        utils.write(near, b"ab")
        utils.write_all(near, b"cd", b"ef")
        assert utils.read(far, 3) == b"abc"
        assert utils.read(far, 3) == b"def"
        utils.write_int4_str(near, b"frame")
        assert utils.read_int4_str(far) == b"frame"
        near.close()
        with pytest.raises(ShortRead, match="tried to read 8 bytes, found 0 before the end"):
            utils.read_int8(far)


def test_read_gathers_what_comes_in_parts() -> None:
    """A read that gives less than asked is continued."""

    class Trickle(BytesIO):
        def read(self, n: int | None = -1, /) -> bytes:
            return super().read(min(n or 0, 2))

    assert utils.read(Trickle(b"a stream"), 8) == b"a stream"


def test_short_read_says_what_was_found() -> None:
    """A file that ends first raises ShortRead, which older programs catch as OSError."""
    with pytest.raises(ShortRead) as caught:
        utils.read(BytesIO(b"abc"), 5)
    assert str(caught.value) == "tried to read 5 bytes, found 3 before the end"
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, CorruptionError)
    assert utils.ShortRead is durus.error.ShortRead


def test_length_that_lies_takes_no_memory() -> None:
    """A length of 4 GB before a few bytes takes memory for the few bytes."""
    tracemalloc.start()
    try:
        with pytest.raises(ShortRead):
            utils.read_int4_str(BytesIO(b"\xff\xff\xff\xff" + b"few"))
        with pytest.raises(ShortRead):
            utils.read_int8_str(BytesIO(b"\xff" * 8 + b"few"))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_large_read_is_whole() -> None:
    """More than one portion is joined in order."""
    content = bytes(range(256)) * 9000
    assert utils.read(BytesIO(content), len(content)) == content


class _TakesThree(RawIOBase):
    """An unbuffered file that takes three bytes at a time."""

    def __init__(self, limit: int = 1 << 30) -> None:
        self.taken = b""
        self.limit = limit

    def write(self, data: bytes, /) -> int:  # type: ignore[override]  # the base takes any buffer
        part = bytes(data)[: min(3, self.limit - len(self.taken))]
        self.taken += part
        return len(part)


def test_write_goes_on_after_a_part() -> None:
    """What an unbuffered file leaves over is written again, up to the end."""
    file = _TakesThree()
    utils.write(file, b"ten bytes.")
    assert file.taken == b"ten bytes."


def test_write_that_takes_nothing_is_an_error() -> None:
    """A file that takes no more is not tried for ever."""
    with pytest.raises(StorageWriteError, match="tried to write 6 bytes, and none"):
        utils.write(_TakesThree(limit=4), b"ten bytes.")


def test_write_to_what_returns_nothing(tmp_path: Path) -> None:
    """A file-like object whose `write` returns None has taken all; an unbuffered file counts."""

    class Quiet:
        taken = b""

        def write(self, data: bytes) -> None:
            self.taken += data

    quiet = Quiet()
    utils.write_int4(quiet, 7)
    assert quiet.taken == b"\0\0\0\7"
    with FileIO(tmp_path / "raw", "w") as raw:
        utils.write(raw, b"raw")
    assert (tmp_path / "raw").read_bytes() == b"raw"
