"""Durus databases in a folder, with one file for each transaction."""

from __future__ import annotations

from durus_folder.storage import FolderStorage

__all__ = ["FolderStorage"]
