"""File offsets in pages: what an index, a map and the marks of a pack hand to each other."""

from __future__ import annotations

from array import array

__all__ = ["NO_PAGE", "PAGE_BYTES", "PAGE_WORDS", "Words"]

# Of type code "Q".
Words = array

# A page has as many words as a block of the disk has room for.
PAGE_WORDS = 512
PAGE_BYTES = PAGE_WORDS * 8

# Not to be changed.
NO_PAGE: Words[int] = array("Q", bytes(PAGE_BYTES))
