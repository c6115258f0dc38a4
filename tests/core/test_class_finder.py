"""Which classes stored data may name."""

from __future__ import annotations

import array
import collections
import datetime as dt
import decimal
import fractions
import pickle
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from durus.btree import BTree
from durus.class_finder import ClassFinder
from durus.connection import Connection
from durus.error import UnknownClassError, UntrustedClassError
from durus.persistent import ComputedAttribute, Persistent
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet
from durus.serialize import ObjectReader, class_pickle, seal
from durus.storage import MemoryStorage

FILES = {
    "trusted_shop/__init__.py": "",
    "trusted_shop/models.py": """
import os
import subprocess
from subprocess import Popen
from collections import OrderedDict as Renamed
from durus.persistent import Persistent
from trusted_shop.tools import Tool

class Order(Persistent):
    class Line:
        pass

def make(*args):
    raise SystemExit("a function was called")
""",
    "trusted_shop/tools.py": "class Tool: pass\n",
    "trusted_shop_evil.py": """
import builtins
builtins.evil_was_imported = True
class Evil: pass
""",
    "trusted_shop_broken.py": "raise ValueError('at import')\n",
}


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put a package on the path, and one that tells when it is imported."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.startswith("trusted_shop")]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def nothing_evil() -> Iterator[None]:
    """Whatever a test does, the module outside of the trusted package is not imported."""
    import builtins

    yield
    assert not hasattr(builtins, "evil_was_imported")


def test_without_trust_all_is_found() -> None:
    """By default any importable name is found, nested ones too."""
    find = ClassFinder()
    assert find("os", "path.join")
    assert find("trusted_shop.models", "Order").__name__ == "Order"
    assert find("trusted_shop.models", "Order.Line").__qualname__ == "Order.Line"


@pytest.mark.parametrize(
    "trust", [["trusted_shop.models.Order"], ["trusted_shop.models"], ["trusted_shop"]]
)
def test_names_that_are_trusted(trust: list[str]) -> None:
    """A class is trusted by its own name, its module's or that of a package above it."""
    find = ClassFinder(trust)
    assert find("trusted_shop.models", "Order").__name__ == "Order"
    assert find("trusted_shop.models", "Order") is find("trusted_shop.models", "Order")


def test_a_nested_class_is_trusted_with_its_module() -> None:
    """A class inside a class of a trusted module is trusted, one of a listed class is not."""
    assert ClassFinder(["trusted_shop"])("trusted_shop.models", "Order.Line")
    with pytest.raises(UntrustedClassError):
        ClassFinder(["trusted_shop.models.Order"])("trusted_shop.models", "Order.Line")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("trusted_shop_evil", "Evil"),
        ("trusted_shop.models", "os"),
        ("trusted_shop.models", "os.system"),
        ("trusted_shop.models", "os._wrap_close"),
        ("trusted_shop.models", "subprocess.Popen"),
        ("trusted_shop.models", "Popen"),
        ("trusted_shop.models", "Renamed"),
        ("trusted_shop.models", "Tool"),
        ("trusted_shop.models", "make"),
        ("trusted_shop.models", "Order.__class__"),
        ("trusted_shop.models", "Order.__init__"),
        ("trusted_shop.models", "Order.__init__.__class__"),
        ("trusted_shop.models", "__builtins__"),
        ("trusted_shop.models", "__loader__"),
        ("trusted_shop", "models"),
        ("trusted_shop", "models.os.system"),
        ("os", "system"),
        ("posix", "system"),
        ("nt", "system"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("builtins", "getattr"),
        ("builtins", "open"),
        ("builtins", "type"),
        ("builtins", "list.append"),
        ("builtins", "object.__subclasses__"),
        ("__builtin__", "eval"),
        ("__builtin__", "apply"),
        ("copyreg", "add_extension"),
        ("copy_reg", "pickle"),
        ("operator", "attrgetter"),
        ("functools", "partial"),
        ("importlib", "import_module"),
        ("durus.connection", "Connection"),
        ("durus.persistent", "os.system"),
        ("", "x"),
        ("trusted_shop.", "x"),
    ],
)
def test_names_that_are_not_trusted(module: str, name: str) -> None:
    """A package vouches for its own classes: not for functions, modules, or what it imported."""
    find = ClassFinder(["trusted_shop"])
    find("trusted_shop.models", "Order")
    with pytest.raises(UnknownClassError) as caught:
        find(module, name)
    assert isinstance(caught.value, UntrustedClassError) or module == "trusted_shop."
    assert caught.value.class_name == f"{module}.{name}"


def test_a_listed_package_is_no_class() -> None:
    """The name of a listed module gives stored data no hold on the module itself."""
    find = ClassFinder(["trusted_shop.models"])
    assert find("trusted_shop.models", "Order")
    with pytest.raises(UntrustedClassError):
        find("trusted_shop", "models")


def test_nothing_is_imported_on_refusal() -> None:
    """A name that is refused is not imported, in whatever way stored data mentions it."""
    connection = Connection(MemoryStorage())
    reader = ObjectReader(connection, ClassFinder(["trusted_shop"]))
    body = class_pickle(Persistent)
    evil = b"ctrusted_shop_evil\nEvil\n"
    for state in (
        evil,
        evil + b")\x81",
        b"(itrusted_shop_evil\nEvil\n",
        b"\x8c\x11trusted_shop_evil\x8c\x04Evil\x93",
        b"C\x0812345678" + evil + b"\x86Q",
        evil + b")R",
    ):
        with pytest.raises(UntrustedClassError, match=r"trusted_shop_evil\.Evil"):
            reader.get_state(seal(b"8" * 8, body + b"\x80\x04" + state + b".", b""))
    with pytest.raises(UntrustedClassError):
        reader.get_class(seal(b"8" * 8, b"\x80\x04" + evil + b"." + b"\x80\x04}.", b""))
    with pytest.raises(UntrustedClassError):
        reader.get_class(b"\x80\x02" + evil + b"q\0.\x80\x02}.")


def test_a_connection_with_trust() -> None:
    """A Connection refuses an object of a class outside of `trust`, and says which."""
    storage = MemoryStorage()
    connection = Connection(storage, trust=["trusted_shop"])
    order = ClassFinder()("trusted_shop.models", "Order")()
    order.paid = decimal.Decimal("1.50")
    connection.get_root()["order"] = order
    connection.commit()
    assert Connection(storage, trust=["trusted_shop"]).get(1).paid == decimal.Decimal("1.50")
    with pytest.raises(UntrustedClassError, match=r"trusted_shop\.models\.Order.*trust=") as caught:
        Connection(storage, trust=[])
    assert caught.value.oid == bytes(8)


def test_ordinary_values_are_always_trusted() -> None:
    """What ordinary states are made of needs no mention."""
    values: dict[str, Any] = {
        "numbers": [1, 2.5, 3j, decimal.Decimal("1.1"), fractions.Fraction(1, 3)],
        "times": [
            dt.datetime.now(tz=dt.UTC),
            dt.date.today(),  # noqa: DTZ011 - any date will do
            dt.time(1, 2),
            dt.timedelta(1),
        ],
        "sets": [{1}, frozenset({2}), range(3), slice(1, 2) if sys.version_info >= (3, 12) else 0],
        "bytes": [b"a", bytearray(b"b")],
        "collections": [
            collections.OrderedDict(a=1),
            collections.defaultdict(list, a=[1]),
            collections.deque([1]),
            collections.Counter("aab"),
        ],
        "id": uuid.uuid4(),
        "persistent": [
            PersistentDict(a=1),
            PersistentList([1]),
            PersistentSet([1]),
            BTree(),
            ComputedAttribute(),
            Persistent(),
        ],
    }
    storage = MemoryStorage()
    connection = Connection(storage)
    connection.get_root().update(values)
    connection.commit()
    root = Connection(storage, trust=[]).get_root()
    assert {key: value for key, value in root.items() if key != "persistent"} == {
        key: value for key, value in values.items() if key != "persistent"
    }
    assert [type(obj) for obj in root["persistent"]] == [type(obj) for obj in values["persistent"]]
    connection.get_root()["array"] = array.array("i", [1])
    connection.commit()
    with pytest.raises(UntrustedClassError, match="array"):
        Connection(storage, trust=[])


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_names_of_python_2(protocol: int) -> None:
    """What Python 2 called otherwise is found under its name of today, trusted or not."""
    state = pickle.dumps({"a": {1}, "b": collections.OrderedDict(c=range(3))}, protocol)
    data = b"\x80\x02cdurus.persistent\nPersistent\nq\0." + state
    assert b"__builtin__" in state
    for trust in (None, []):
        reader = ObjectReader(Connection(MemoryStorage()), ClassFinder(trust))
        assert reader.get_state(data) == {"a": {1}, "b": {"c": range(3)}}


def test_an_unknown_class_is_explained() -> None:
    """A class that cannot be imported is an error that names it and says what to do."""
    for module, name in [
        ("no_such_module", "Thing"),
        ("trusted_shop.models", "NoSuchClass"),
        ("trusted_shop_broken", "Thing"),
        ("trusted_shop.models", "Order.NoSuch"),
    ]:
        with pytest.raises(UnknownClassError, match="install or restore the module") as caught:
            ClassFinder()(module, name)
        assert not isinstance(caught.value, UntrustedClassError)
        assert caught.value.class_name == f"{module}.{name}"
        assert caught.value.__cause__ is not None


def test_a_class_of_another_program_is_explained() -> None:
    """A class that stood in the script of another program is an error that says how to move it."""
    with pytest.raises(UnknownClassError, match=r"durus rename DATABASE __main__\.No MODULE\.No"):
        ClassFinder()("__main__", "No")


def test_trust_is_a_list_of_names() -> None:
    """A single str, or a class in place of its name, is a TypeError at once."""
    with pytest.raises(TypeError, match="single name 'shop'"):
        ClassFinder("shop")
    with pytest.raises(TypeError, match="list of names"):
        ClassFinder([Persistent])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        Connection(MemoryStorage(), trust="shop")
