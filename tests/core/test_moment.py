"""Which past commit is meant by a time or by a serial."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest

from durus.error import BackendError, StorageOpenError
from durus.moment import parse_moment, serial_at

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
COMMITS = [(n, NOON + timedelta(minutes=n)) for n in (3, 4, 5)]


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[timezone]:
    """Set local time to that of a zone nine hours before UTC's."""
    monkeypatch.setenv("TZ", "EAST-9")
    time.tzset()
    yield timezone(timedelta(hours=9))
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("17", 17),
        ("20261128", 20261128),
        ("18446744073709551615", 2**64 - 1),
        ("2026-11-28T12:00:00Z", NOON),
        ("2026-11-28 13:00+01:00", NOON),
        ("2026-11-28T12:00:00.25+00:00", NOON + timedelta(milliseconds=250)),
    ],
)
def test_digits_are_a_serial_and_the_rest_a_time(text: str, expected: object) -> None:
    """A serial is digits alone; a time is in ISO 8601, and aware of its zone."""
    assert parse_moment(text) == expected


def test_a_time_without_a_zone_is_local(far_east: timezone) -> None:
    """So it is in text, with and without the time of the day, and as a datetime."""
    assert parse_moment("2026-11-28T21:00") == NOON
    assert parse_moment("2026-11-28") == datetime(2026, 11, 28, tzinfo=far_east)
    assert serial_at(COMMITS, datetime(2026, 11, 28, 21, 4)) == 4  # noqa: DTZ001 - that is the point


@pytest.mark.parametrize("text", ["", "-1", "1.5", "yesterday", "2026-13-01", "٣", "1_000", "0x1"])
def test_what_is_neither_is_refused(text: str) -> None:
    """The error shows one of each kind."""
    with pytest.raises(BackendError, match="such as 17, or by a time in ISO 8601, such as 2026-"):
        parse_moment(text)


def test_a_serial_is_one_of_the_commits() -> None:
    """No other commit is given in its place; the error tells from which to which they go."""
    assert [serial_at(COMMITS, serial) for serial in (3, "4", 5)] == [3, 4, 5]
    for serial in (2, 6, -1, 2**70):
        with pytest.raises(StorageOpenError) as caught:
            serial_at(COMMITS, serial, "app.durus")
        assert caught.value.path == "app.durus"
        assert str(caught.value) == (
            f"tried to open 'app.durus' as of commit {serial}, found that what is kept of its past"
            " goes from commit 3 (2026-11-28T12:03:00+00:00) to commit 5"
            " (2026-11-28T12:05:00+00:00)"
        )


def test_a_time_is_the_last_commit_by_then() -> None:
    """One of that very microsecond counts, a later one does not; after the last it is the last."""
    microsecond = timedelta(microseconds=1)
    for serial, then in COMMITS:
        assert serial_at(COMMITS, then) == serial_at(COMMITS, then + microsecond) == serial
    assert serial_at(COMMITS, COMMITS[1][1] - microsecond) == 3
    assert serial_at(COMMITS, "9999-12-31T23:59:59-12:00") == 5
    for early in (COMMITS[0][1] - microsecond, "0001-01-01", "0001-01-01T00:00+14:00"):
        with pytest.raises(StorageOpenError, match="goes from commit 3"):
            serial_at(COMMITS, early)


def test_where_the_clock_was_set_back() -> None:
    """It is the last commit, in their order, of those that were made by then."""
    times = (10, 20, 12, 22)
    commits = [(n, NOON + timedelta(minutes=minute)) for n, minute in enumerate(times)]
    assert [serial_at(commits, NOON + timedelta(minutes=m)) for m in (10, 11, 12, 21, 22)] == [
        0,
        0,
        2,
        2,
        3,
    ]


def test_without_a_commit_there_is_no_past() -> None:
    """The error says that Durus 4.3 writes none."""
    for at in (1, NOON):
        with pytest.raises(StorageOpenError, match=r"found no commit .*Durus 4\.3 writes none"):
            serial_at([], at)
