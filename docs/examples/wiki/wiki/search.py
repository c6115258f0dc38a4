"""Which pages have which words."""

from __future__ import annotations

import re
import sys
import unicodedata

from durus.btree import BTree
from durus.persistent import Persistent
from durus.persistent_set import PersistentSet

# Greater than every character that a word can have.
_LAST = chr(sys.maxunicode)


def normal(text: str) -> str:
    """Give a text in the one form in which its words are looked up."""
    return unicodedata.normalize("NFKC", text).casefold()


def words_of(text: str) -> set[str]:
    """Give the words of a text."""
    return set(re.findall(r"\w+", normal(text)))


class WordIndex(Persistent):
    """The titles of the pages that have a word, for every word."""

    def __init__(self) -> None:
        self.titles: BTree[str, PersistentSet[str]] = BTree()

    def update(self, title: str, old_text: str, new_text: str) -> None:
        """Note that the text of a page was replaced."""
        old, new = words_of(old_text), words_of(new_text)
        for word in new - old:
            if word not in self.titles:
                self.titles[word] = PersistentSet()
            self.titles[word].add(title)
        for word in old - new:
            self.titles[word].remove(title)
            if not self.titles[word]:
                del self.titles[word]

    def find(self, query: str) -> list[str]:
        """Give the titles of the pages that have every word of the query.

        A word with an asterisk at its end stands for all words that begin so.
        """
        found: set[str] | None = None
        for word, star in re.findall(r"(\w+)(\*?)", normal(query)):
            titles = self._titles_from(word) if star else set(self.titles.get(word, ()))
            found = titles if found is None else found & titles
        return sorted(found or ())

    def _titles_from(self, prefix: str) -> set[str]:
        titles = set[str]()
        for _, some in self.titles.items_range(prefix, prefix + _LAST):
            titles |= set(some)
        return titles
