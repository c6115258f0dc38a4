"""The wiki without the web: revisions, changes, words."""

from __future__ import annotations

import pytest

from durus.connection import Connection
from durus.storage import MemoryStorage
from wiki.pages import EditConflictError, Wiki, clean_title, open_wiki


@pytest.fixture
def wiki() -> Wiki:
    return open_wiki(Connection(MemoryStorage()).get_root())


def test_every_revision_stays(wiki: Wiki) -> None:
    """A page keeps what was written before, and who wrote it."""
    wiki.save("Tea", "Black or green.", "Kim", 0)
    wiki.save("Tea", "Black, green or white.", "Lee", 1)
    found = [(r.number, r.author, r.text) for r in wiki.pages["Tea"].revisions]
    assert found == [(1, "Kim", "Black or green."), (2, "Lee", "Black, green or white.")]


def test_an_edit_that_began_before_another_ended_is_refused(wiki: Wiki) -> None:
    """Who has not seen the newest revision does not replace it, nor makes a page that is there."""
    wiki.save("Tea", "Black or green.", "Kim", 0)
    wiki.save("Tea", "Black.", "Kim", 1)
    for begun_with in (0, 1, 3):
        with pytest.raises(EditConflictError):
            wiki.save("Tea", "Green.", "Lee", begun_with)
    assert wiki.pages["Tea"].newest.text == "Black."


def test_a_form_that_is_sent_twice_is_one_revision(wiki: Wiki) -> None:
    """The same text again changes nothing, whatever its form began with."""
    first = wiki.save("Tea", "Black or green.", "Kim", 0)
    assert wiki.save("Tea", "Black or green.", "Kim", 0) is first
    assert len(wiki.pages["Tea"].revisions) == 1


def test_changes_come_newest_first(wiki: Wiki) -> None:
    """The last changes of all pages are found without a look at the pages."""
    wiki.save("Tea", "Black.", "Kim", 0)
    wiki.save("Coffee", "Black.", "Lee", 0)
    wiki.save("Tea", "Green.", "Lee", 1)
    found = [(title, revision.number) for title, revision in wiki.newest_changes(2)]
    assert found == [("Tea", 2), ("Coffee", 1)]


@pytest.mark.parametrize(
    ("query", "titles"),
    [
        ("green", ["Tea"]),
        ("BLACK", ["Coffee", "Tea"]),
        ("black tea", ["Tea"]),
        ("gre*", ["Coffee", "Tea"]),
        ("gre", []),
        ("black nothing", []),
        ("", []),
        ("*", []),
    ],
)
def test_search(wiki: Wiki, query: str, titles: list[str]) -> None:
    """Pages are found by all words of their title and newest text, and by beginnings of words."""
    wiki.save("Tea", "Black or red.", "Kim", 0)
    wiki.save("Tea", "Black or green.", "Kim", 1)
    wiki.save("Coffee", "Black. Greek, too.", "Lee", 0)
    assert wiki.words.find(query) == titles
    assert wiki.words.find("red") == []


def test_a_word_that_no_page_has_any_more_is_gone(wiki: Wiki) -> None:
    """The index does not grow with words that were deleted."""
    wiki.save("Tea", "Black.", "Kim", 0)
    wiki.save("Tea", "Green.", "Kim", 1)
    assert list(wiki.words.titles) == ["green", "tea"]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Tea", "Tea"),
        ("  Green \n tea ", "Green tea"),
        ("Cafe\u0301", "Café"),
        ("", None),
        ("..", None),
        ("a/b", None),
        ("<b>", None),
        ("x" * 101, None),
    ],
)
def test_titles(text: str, title: str | None) -> None:
    """A title has one form, and can stand in a URL."""
    assert clean_title(text) == title
