"""What is stored: pages, their revisions, and the order of all changes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from durus.btree import BTree
from durus.persistent import Persistent
from durus.persistent_list import PersistentList
from wiki.search import WordIndex

_LONGEST_TITLE = 100


@dataclass(eq=False)
class Revision(Persistent):
    """The text of a page as somebody left it."""

    number: int  # the first is 1
    time: datetime
    author: str
    text: str


class Page(Persistent):
    """A title and everything that was ever written under it, the newest last."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.revisions: PersistentList[Revision] = PersistentList()

    @property
    def newest(self) -> Revision:
        return self.revisions[-1]


class EditConflictError(Exception):
    """Somebody else has saved the page since this edit began."""


class Wiki(Persistent):
    """All pages, and two indexes of them."""

    def __init__(self) -> None:
        self.pages: BTree[str, Page] = BTree()
        self.changes: BTree[tuple[datetime, str, int], Revision] = BTree()
        self.words = WordIndex()

    def save(self, title: str, text: str, author: str, begun_with: int) -> Revision:
        """Add a revision to a page, which is made if it is new.

        Args:
            title: as `clean_title` gives it.
            text: all of it.
            author: who wrote it.
            begun_with: the number of the revision that the author has seen; 0 if there was none.

        Returns:
            The revision. If the newest has this text, it is that one: a form that is sent twice
            does nothing the second time.

        Raises:
            EditConflictError: the newest revision is another.
        """
        page = self.pages.get(title)
        if page is None:
            page = Page(title)
        newest = page.revisions[-1] if page.revisions else None
        if newest is not None and newest.text == text:
            return newest
        if begun_with != len(page.revisions):
            raise EditConflictError(title)
        revision = Revision(begun_with + 1, datetime.now(UTC), author, text)
        page.revisions.append(revision)
        if newest is None:
            self.pages[title] = page
        self.changes[revision.time, title, revision.number] = revision
        self.words.update(title, f"{title} {newest.text}" if newest else "", f"{title} {text}")
        return revision

    def newest_changes(self, count: int) -> Iterator[tuple[str, Revision]]:
        """Yield title and revision of the last changes, the newest first."""
        for (_, title, _), revision in islice(self.changes.items_backward(), count):
            yield title, revision


def open_wiki(root: Any) -> Wiki:
    """Give the wiki of a database, made if the database is new."""
    if "wiki" not in root:
        root["wiki"] = Wiki()
    wiki: Wiki = root["wiki"]
    return wiki


def clean_title(text: str) -> str | None:
    """Give a title in the one form in which it is stored, or None if it can be none."""
    title = " ".join(unicodedata.normalize("NFC", text).split())
    is_good = re.fullmatch(r"\w[\w .,'()-]*", title) and len(title) <= _LONGEST_TITLE
    return title if is_good else None
