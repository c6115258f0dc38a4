"""A path or URL to a storage class, tried against fake installed distributions."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, EntryPoints, distributions
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import pytest

import durus.backends
from durus.backends import (
    InstalledStorage,
    file_path,
    installed_storages,
    open_storage,
    own_file,
    owner_of_file,
    storage_class,
)
from durus.error import (
    BackendError,
    StorageFormatError,
    StorageMissingError,
    StorageOpenError,
    StoragePermissionError,
)
from durus.storage import MemoryStorage, Storage

FILE_PLUGIN = """
from __future__ import annotations
import os
from typing import TYPE_CHECKING, Optional
from durus.storage import MemoryStorage
if TYPE_CHECKING:
    from nowhere import Unknown

class FakeFile(MemoryStorage):
    magic = b"SHELF-1\\n"

    @classmethod
    def has_format(cls, path: str) -> bool:
        with open(path, "rb") as file:
            return file.read(8).startswith(cls.magic)

    def __init__(
        self,
        filename: str | os.PathLike[str] | None = None,
        readonly: bool = False,
        *,
        durable: bool = True,
        limit: int | None = None,
        ratio: float = 1.0,
        label: Optional[str] = None,
        size: int | str = 0,
        hook: Unknown | None = None,
        bare=None,
    ) -> None:
        super().__init__()
        self.filename = filename
        self.options = {k: v for k, v in locals().items() if k in self.names}

    names = ("readonly", "durable", "limit", "ratio", "label", "size")

class FakeFile2(FakeFile):
    magic = b"DFS20\\0"

class FakeServer(MemoryStorage):
    def __init__(self, address: str = "127.0.0.1:2972", timeout_s: float = 5.0) -> None:
        super().__init__()
        self.filename = address
        self.options = {"timeout_s": timeout_s}

class FakeAnything(MemoryStorage):
    def __init__(self, address: str, **options: str) -> None:
        super().__init__()
        self.filename, self.options = address, options

class NotAStorage:
    pass
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Give a function that installs a fake distribution; no real one is seen."""
    site = tmp_path / "site-packages"
    site.mkdir()
    before = set(sys.modules)

    def install(
        distribution: str, schemes: Mapping[str, str], modules: Mapping[str, str] | None = None
    ) -> None:
        info = site / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n"
        )
        lines = [f"{scheme} = {value}" for scheme, value in schemes.items()]
        (info / "entry_points.txt").write_text("\n".join(["[durus.storages]", *lines, ""]))
        for name, source in (modules or {}).items():
            (site / f"{name}.py").write_text(source)

    def entry_points(group: str) -> EntryPoints:
        found = [e for dist in distributions(path=[str(site)]) for e in dist.entry_points]
        return EntryPoints(e for e in found if e.group == group)

    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(durus.backends, "entry_points", entry_points)
    yield install
    for name in set(sys.modules) - before:
        if name.startswith("plugin_"):
            del sys.modules[name]


@pytest.fixture
def installed(install: Install) -> Install:
    """Install what the four first-party distributions would."""
    install("durus-core", {"memory": "durus.storage:MemoryStorage"})
    install(
        "durus-filestorage",
        {"file": "plugin_file:FakeFile", "file2": "plugin_file:FakeFile2"},
        {"plugin_file": FILE_PLUGIN},
    )
    install("durus-server", {"durus": "plugin_file:FakeServer"})
    return install


def opened(path_or_url: Any, **options: Any) -> Any:
    """Open, as `Any`: the fakes have attributes of their own."""
    return open_storage(path_or_url, **options)


# -- what is installed ----------------------------------------------------------------------------


def test_installed_storages_are_listed_without_importing(installed: Install) -> None:
    """The list gives name, distribution and version of each back-end and imports none."""
    assert installed_storages() == [
        InstalledStorage("durus", "durus-server", "1.2", "plugin_file:FakeServer"),
        InstalledStorage("file", "durus-filestorage", "1.2", "plugin_file:FakeFile"),
        InstalledStorage("file2", "durus-filestorage", "1.2", "plugin_file:FakeFile2"),
        InstalledStorage("memory", "durus-core", "1.2", "durus.storage:MemoryStorage"),
    ]
    assert "plugin_file" not in sys.modules


def test_real_distributions_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution on `sys.path` is found by the means of the standard library alone."""
    info = tmp_path / "outsider-3.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outsider\nVersion: 3.0\n")
    (info / "entry_points.txt").write_text(
        "[durus.storages]\nOutside = durus.storage:MemoryStorage\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    expected = InstalledStorage("outside", "outsider", "3.0", "durus.storage:MemoryStorage")
    assert expected in installed_storages()
    assert isinstance(open_storage("OUTSIDE:"), MemoryStorage)


def test_entry_point_made_by_hand_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point without a distribution, which a test may make, is listed as such."""
    entry = EntryPoint("Mine", "durus.storage:MemoryStorage", "durus.storages")
    monkeypatch.setattr(durus.backends, "entry_points", lambda group: EntryPoints([entry]))
    expected = InstalledStorage("mine", "unknown", "unknown", "durus.storage:MemoryStorage")
    assert installed_storages() == [expected]
    assert str(expected) == "unknown unknown (durus.storage:MemoryStorage)"


def test_storage_class_imports_the_one_that_is_asked_for(installed: Install) -> None:
    """A class is found by its scheme in any case, and no other back-end is imported."""
    assert storage_class("Memory") is MemoryStorage
    assert "plugin_file" not in sys.modules
    assert storage_class("file2").__name__ == "FakeFile2"


def test_nobody_installed_says_what_to_install(install: Install) -> None:
    """A scheme of ours names the distribution to install, and what is there instead."""
    install("durus-core", {"memory": "durus.storage:MemoryStorage"})
    for scheme, distribution in (
        ("file", "durus-filestorage"),
        ("file2", "durus-filestorage"),
        ("sqlite", "durus-sqlite"),
        ("durus", "durus-server"),
        ("durus+unix", "durus-server"),
    ):
        with pytest.raises(BackendError) as caught:
            open_storage(f"{scheme}:x")
        assert str(caught.value) == (
            f"no back-end for '{scheme}:' is installed (installed: memory);"
            f" pip install {distribution}"
        )
        assert caught.value.name == scheme


def test_unknown_scheme_lists_what_is_installed(installed: Install) -> None:
    """A scheme of nobody says what is installed, and how to name such a file."""
    with pytest.raises(BackendError) as caught:
        open_storage("postgres://host/db")
    assert (
        "no back-end for 'postgres:' is installed (installed: durus, file, file2, memory)"
        in str(caught.value)
    )
    assert "for a file of that name write './postgres://host/db'" in str(caught.value)
    with pytest.raises(BackendError, match="'nosuch:' is installed"):
        storage_class("nosuch")


def test_nothing_installed_at_all(install: Install, tmp_path: Path) -> None:
    """Without any back-end, a new path says what to install."""
    with pytest.raises(BackendError, match=r"\(installed: none\); pip install durus-filestorage"):
        open_storage(tmp_path / "new.durus")


def test_two_owners_are_an_error_that_names_both(installed: Install) -> None:
    """Two distributions that claim one scheme are both named, whatever the case of the scheme."""
    installed("rival", {"FILE": "plugin_file:FakeFile2"})
    with pytest.raises(BackendError) as caught:
        open_storage("file:x")
    assert "durus-filestorage 1.2 (plugin_file:FakeFile)" in str(caught.value)
    assert "rival 1.2 (plugin_file:FakeFile2)" in str(caught.value)
    assert isinstance(open_storage("memory:"), MemoryStorage)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise RuntimeError('out of order')", "RuntimeError: out of order"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("", "has no attribute 'Broken'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_broken_back_end_is_a_clear_error_by_name(
    installed: Install, source: str, said: str
) -> None:
    """A back-end that cannot be imported is named with its distribution, chained to the cause."""
    installed("broken", {"broken": "plugin_broken:Broken"}, {"plugin_broken": source})
    with pytest.raises(BackendError) as caught:
        open_storage("broken:x")
    assert "'broken:', broken 1.2 (plugin_broken:Broken), cannot be imported" in str(caught.value)
    assert said in str(caught.value)
    assert caught.value.__cause__ is not None


def test_what_is_no_storage_is_refused(installed: Install) -> None:
    """An entry point that is not a Storage class is named."""
    installed("odd", {"odd": "plugin_file:NotAStorage", "odder": "plugin_file:FILE"})
    with pytest.raises(BackendError, match=r"odd 1.2 .* is no subclass of durus.storage.Storage"):
        open_storage("odd:x")


# -- URLs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:relative.durus", "relative.durus"),
        ("file:dir/relative.durus", "dir/relative.durus"),
        ("file:/abs/a.durus", "/abs/a.durus"),
        ("file:///abs/a.durus", "/abs/a.durus"),
        ("file://localhost/abs/a.durus", "/abs/a.durus"),
        ("FILE:a%20b%3F%25.durus", "a b?%.durus"),
        ("file:a#b+c.durus", "a#b+c.durus"),
        ("file:%ff.durus", os.fsdecode(b"\xff.durus")),
        ("file:%C3%A4.durus", "ä.durus"),
        ("durus://host:2972", "host:2972"),
        ("durus:/run/durus%20socket", "/run/durus socket"),
        ("durus://[::1]:2972", "[::1]:2972"),
    ],
)
def test_url_gives_its_address_to_the_class(installed: Install, url: str, path: str) -> None:
    """What stands after the scheme is percent-decoded; a file's URL may be relative or absolute."""
    assert opened(url).filename == path


def test_url_without_an_address(installed: Install) -> None:
    """`memory:` takes nothing; a server may have a default; a file must be named."""
    assert isinstance(open_storage("memory:"), MemoryStorage)
    assert opened("durus:").filename == "127.0.0.1:2972"
    with pytest.raises(BackendError, match="'memory:' takes nothing after the colon, got 'x'"):
        open_storage("memory:x")
    with pytest.raises(BackendError, match="'file:' needs its filename after the colon"):
        open_storage("file:?readonly=1")


@pytest.mark.parametrize("url", ["file://host/abs.durus", "file://relative.durus"])
def test_url_of_a_file_elsewhere_is_refused(installed: Install, url: str) -> None:
    """`file://name` names a host, a usual slip for a relative path, and is told how to write it."""
    with pytest.raises(BackendError, match=r"names the host '.*write 'file:relative/path'"):
        open_storage(url)


@pytest.mark.parametrize(
    ("query", "option", "value"),
    [
        ("readonly=1", "readonly", True),
        ("readonly=true", "readonly", True),
        ("readonly=YES", "readonly", True),
        ("durable=0", "durable", False),
        ("durable=false", "durable", False),
        ("durable=no", "durable", False),
        ("limit=-12", "limit", -12),
        ("ratio=0.5", "ratio", 0.5),
        ("label=a%20b%26c", "label", "a b&c"),
        ("label=", "label", ""),
        ("label=a=b", "label", "a=b"),
        ("label=7", "label", "7"),
        ("size=7", "size", 7),
        ("size=big", "size", "big"),
        ("&limit=3&", "limit", 3),
        ("%6cimit=3", "limit", 3),
    ],
)
def test_url_option_is_typed_by_the_annotation(
    installed: Install, query: str, option: str, value: object
) -> None:
    """An option of a URL becomes what the constructor's annotation says."""
    found = opened(f"file:x?{query}").options
    assert found[option] == value
    assert type(found[option]) is type(value)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("readonly=maybe", "option 'readonly' of 'file:' takes 1, 0, true, .* got 'maybe'"),
        ("readonly", "option 'readonly' of 'file:' takes 1, 0, true, .* got ''"),
        ("limit=1.5", "option 'limit' of 'file:' takes a whole number, got '1.5'"),
        ("ratio=half", "option 'ratio' of 'file:' takes a number, got 'half'"),
        ("hook=x", "option 'hook' of 'file:' is given as a keyword, not in a URL"),
        ("bare=x", "option 'bare' of 'file:' is given as a keyword, not in a URL"),
        ("readonly=1&readonly=1", "option 'readonly' is given twice in the URL"),
        ("filename=y", "'file:' has no option 'filename' .it has: .*durable, .*readonly.*"),
        ("sync=0", "'file:' has no option 'sync' .it has: .*durable, .*readonly"),
    ],
)
def test_bad_url_option_is_named(installed: Install, query: str, said: str) -> None:
    """An unknown option, a bad value and a repeated option are errors that say what is known."""
    with pytest.raises(BackendError, match=said) as caught:
        open_storage(f"file:x?{query}")
    assert caught.value.name == "file"


def test_options_as_keywords(installed: Install, tmp_path: Path) -> None:
    """Keywords go to the class as they are, and stand beside those of a URL."""
    assert opened("file:x?limit=3", durable=False).options["durable"] is False
    assert opened("file:x?limit=3", durable=False).options["limit"] == 3
    assert opened("file:x", hook=len).options["durable"] is True
    assert opened(tmp_path / "new", limit=4).options["limit"] == 4
    with pytest.raises(BackendError, match="option 'limit' is given in the URL and as a keyword"):
        open_storage("file:x?limit=3", limit=3)
    with pytest.raises(BackendError, match="'file:' has no option 'sync'"):
        open_storage("file:x", sync=False)
    with pytest.raises(BackendError, match="FakeFile has no option 'filename'"):
        open_storage(tmp_path / "new", filename="y")
    with pytest.raises(BackendError, match=r"'memory:' has no option 'readonly' \(it has: none\)"):
        open_storage("memory:?readonly=1")


def test_class_with_any_options_gets_them_as_text(installed: Install) -> None:
    """A class that takes `**options` is given whatever the URL says."""
    installed("any", {"any": "plugin_file:FakeAnything"})
    found = opened("any://host/db?user=me&n=1")
    assert (found.filename, found.options) == ("host/db", {"user": "me", "n": "1"})
    with pytest.raises(BackendError, match="'any:' needs its address after the colon"):
        open_storage("any:")


# -- paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "plain.durus",
        "a:b.durus",
        "C:\\data\\app.durus",
        "c:app.durus",
        "./file:x",
        "dir/memory:",
        "my_db:1",
        "2024-01-01T10:00.durus",
        "100%20sure?.durus",
        "what?readonly=1",
        "a#b&c=d.durus",
        ":",
        "~",
        " ",
        "ä.durus",
    ],
)
def test_bare_path_is_taken_as_it_is(
    installed: Install, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path with colons, question marks or percent signs is a path, and never decoded."""
    monkeypatch.chdir(tmp_path)
    assert opened(name).filename == name
    assert file_path(name) == name


def test_path_like_is_always_a_path(
    installed: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An `os.PathLike` that looks like a URL names a file."""
    monkeypatch.chdir(tmp_path)
    for name in ("memory:", "file:x?readonly=1", "sqlite:y"):
        assert opened(Path(name)).filename == name
        assert file_path(Path(name)) == name


def test_file_that_looks_like_an_unknown_url_is_opened(
    installed: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An existing file is found under a name such as "backup:monday", which nobody's scheme is."""
    monkeypatch.chdir(tmp_path)
    Path("backup:monday").write_bytes(b"SHELF-1\n")
    assert opened("backup:monday").filename == "backup:monday"


def test_file_path_tells_the_file_of_a_url(installed: Install) -> None:
    """`file_path` gives the path that a URL names, or None where it names no file."""
    assert file_path("file:///srv/a%20b.durus?readonly=1") == "/srv/a b.durus"
    assert file_path("durus://host") is None
    assert file_path("memory:") is None


@pytest.mark.parametrize(
    ("content", "cls"),
    [
        (b"SHELF-1\n" + bytes(50), "FakeFile"),
        (b"DFS20\0" + bytes(50), "FakeFile2"),
        (b"", "FakeFile"),
    ],
)
def test_file_is_judged_by_its_first_bytes(
    installed: Install, tmp_path: Path, content: bytes, cls: str
) -> None:
    """An existing file goes to the back-end that knows it, an empty one to `file:`."""
    path = tmp_path / "data"
    path.write_bytes(content)
    found = opened(str(path), readonly=True)
    assert type(found).__name__ == cls
    assert found.options["readonly"] is True
    assert found.filename == str(path)


def test_foreign_back_end_may_know_a_file(installed: Install, tmp_path: Path) -> None:
    """A format that we have never heard of goes to the plug-in that claims it."""
    source = "from plugin_file import FakeFile\nclass Odd(FakeFile):\n    magic = b'ODD'\n"
    installed("odd", {"odd": "plugin_odd:Odd"}, {"plugin_odd": source})
    path = tmp_path / "data.odd"
    path.write_bytes(b"ODDITY")
    assert type(open_storage(path)).__name__ == "Odd"


def test_known_file_imports_its_own_back_end_alone(installed: Install, tmp_path: Path) -> None:
    """A file of our formats asks its own back-end first, so that no other is imported."""
    installed("aaa", {"aaa": "plugin_aaa:A"}, {"plugin_aaa": "raise RuntimeError"})
    path = tmp_path / "data"
    path.write_bytes(b"SHELF-1\n")
    assert type(open_storage(path)).__name__ == "FakeFile"
    assert "plugin_aaa" not in sys.modules


def test_broken_plug_in_harms_nobody(
    installed: Install, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While a file is judged, a plug-in that fails is logged and passed over."""
    raises = "from plugin_file import FakeFile\nclass R(FakeFile):\n    has_format = 1 / 0\n"
    fails = (
        "from plugin_file import FakeFile\nclass F(FakeFile):\n"
        "    @classmethod\n    def has_format(cls, path):\n        raise OSError('cannot look')\n"
    )
    installed("aaa", {"aaa": "plugin_a:R", "aab": "plugin_b:F"}, {"plugin_a": raises})
    (tmp_path / "site-packages" / "plugin_b.py").write_text(fails)
    installed("rival", {"durus": "plugin_file:FakeFile2"})
    source = "from plugin_file import FakeFile\nclass Z(FakeFile):\n    magic = b'ZZ'\n"
    installed("zzz", {"zzz": "plugin_z:Z"}, {"plugin_z": source})
    path = tmp_path / "data"
    path.write_bytes(b"ZZTOP")
    with caplog.at_level(logging.WARNING, "durus"):
        assert type(open_storage(path)).__name__ == "Z"
    assert "passed over the back-end 'aaa'" in caplog.text
    assert "cannot look" in caplog.text
    assert "'durus:' is claimed by" in caplog.text
    path.write_bytes(b"unknown")
    with pytest.raises(StorageFormatError, match="passed over, being broken: aaa, aab, durus"):
        open_storage(path)


def test_a_file_that_a_storage_of_this_process_has_open_is_not_read(
    installed: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its class was told by `own_file`: to look would cost the process its locks on the file."""
    path = tmp_path / "data.db"
    path.write_bytes(b"SHELF-1\nand what follows")
    assert owner_of_file(str(path)) is None
    disown = [own_file(str(path), MemoryStorage) for _ in range(2)]
    monkeypatch.setattr("durus.backends._first_bytes", lambda path: pytest.fail("was read"))
    monkeypatch.setattr(MemoryStorage, "__init__", lambda self, path: None)
    for each in disown:
        assert owner_of_file(str(path)) is MemoryStorage
        assert isinstance(open_storage(str(path)), MemoryStorage)
        each()
        each()
    assert owner_of_file(str(path)) is None
    assert owner_of_file(str(tmp_path / "missing")) is None


def test_unknown_file_is_a_format_error(installed: Install, tmp_path: Path) -> None:
    """A file that nobody knows is named, with what is installed; nothing is written."""
    path = tmp_path / "letter.txt"
    path.write_bytes(b"Dear Durus,")
    with pytest.raises(StorageFormatError) as caught:
        open_storage(path)
    assert str(caught.value) == (
        f"{str(path)!r} is not a database that an installed back-end knows"
        " (installed: durus, file, file2, memory)"
    )
    assert caught.value.path == str(path)
    assert path.read_bytes() == b"Dear Durus,"


def test_known_format_without_its_back_end(installed: Install, tmp_path: Path) -> None:
    """A file of a known format says what to install."""
    path = tmp_path / "data.db"
    path.write_bytes(b"SQLite format 3\0" + bytes(84))
    with pytest.raises(BackendError, match=r"is a 'sqlite:' file: .* pip install durus-sqlite"):
        open_storage(path)


def test_known_format_with_a_broken_back_end(install: Install, tmp_path: Path) -> None:
    """A file of a known format whose back-end cannot be imported says so, chained to the cause."""
    install("durus-filestorage", {"file": "plugin_gone:FileStorage"})
    path = tmp_path / "data"
    path.write_bytes(b"SHELF-1\n")
    with pytest.raises(BackendError, match=r"is a 'file:' file: .* cannot be imported") as caught:
        open_storage(path)
    assert isinstance(caught.value.__cause__, BackendError)


# -- what cannot be opened ------------------------------------------------------------------------


def test_missing_file_opened_read_only(installed: Install, tmp_path: Path) -> None:
    """A bare path that is not there cannot be opened read-only; nothing is made."""
    path = tmp_path / "no.durus"
    with pytest.raises(StorageMissingError) as caught:
        open_storage(path, readonly=True)
    assert str(caught.value) == f"there is no file {str(path)!r} to open read-only"
    assert isinstance(caught.value, FileNotFoundError)
    assert not path.exists()


def test_directory_is_refused(installed: Install, tmp_path: Path) -> None:
    """A directory is no database."""
    with pytest.raises(StorageOpenError, match="it is a directory, not a file") as caught:
        open_storage(tmp_path)
    assert caught.value.path == str(tmp_path)


def test_fifo_and_devices_are_refused_without_reading(installed: Install, tmp_path: Path) -> None:
    """A FIFO, where reading would wait for ever, a device and a socket are refused at once."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    link = tmp_path / "link"
    link.symlink_to(fifo)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for path in (fifo, link, tmp_path / "socket", Path("/dev/zero"), Path("/dev/null")):
            with pytest.raises(StorageOpenError, match="a device, pipe or socket, not a file"):
                open_storage(path)


def test_odd_paths_are_refused(installed: Install, tmp_path: Path) -> None:
    """An empty path, one with a null byte, one below a file, one too long: each a clear error."""
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StorageOpenError, match="the path is empty"):
        open_storage("")
    for path in ("a\0b", str(tmp_path / "file" / "below"), str(tmp_path / ("x" * 5000))):
        with pytest.raises(StorageOpenError, match="cannot open '"):
            open_storage(path)
    with pytest.raises(BackendError, match="null"):
        open_storage("file:a%00b")


@pytest.mark.parametrize("call", ["stat", "open"])
def test_no_permission(
    installed: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A file that may not be reached or read is a clear error, not one of every plug-in."""
    path = tmp_path / "secret"
    path.write_bytes(b"SHELF-1\n")

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    if call == "stat":
        monkeypatch.setattr("durus.backends.os.stat", refuse)
    else:
        monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(StoragePermissionError, match=r"no permission to re(ach|ad) '.*secret'"):
        open_storage(path)


def test_unreadable_file(
    installed: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails under the first bytes is a clear error."""
    path = tmp_path / "data"
    path.write_bytes(b"SHELF-1\n")

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(StorageOpenError, match=r"cannot read .*Input/output error"):
        open_storage(path)


# -- an old Durus ---------------------------------------------------------------------------------


def test_old_durus_in_the_environment_is_refused(tmp_path: Path) -> None:
    """Beside an older Durus, whose `durus` is a package, `durus.backends` does not load."""
    for portion in sys.modules["durus"].__path__:
        copytree(
            portion,
            tmp_path / "durus",
            dirs_exist_ok=True,
            ignore=ignore_patterns("__pycache__", "__init__.py"),
        )
    (tmp_path / "durus" / "__init__.py").write_text('"""Durus 4.3"""\n__version__ = "4.3"\n')
    run = subprocess.run(
        [sys.executable, "-c", "import durus.backends"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    last_line = run.stderr.strip().splitlines()[-1]
    assert last_line.startswith("ImportError: an old Durus (")
    assert "pip uninstall Durus" in last_line


def test_storage_is_opened(installed: Install) -> None:
    """What is given is a Storage, ready for use."""
    with open_storage("memory:") as storage:
        assert isinstance(storage, Storage)
        assert storage.new_oid() == bytes(8)
