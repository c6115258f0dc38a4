"""The wiki as a browser sees it, without a socket."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote, urlencode
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from durus.database import Database
from durus.error import CommitUnknownError
from durus.storage import MemoryStorage
from wiki.app import Application


class Browser:
    """Sends requests to the application; `wsgiref.validate` looks over both."""

    def __init__(self, database: Database) -> None:
        self.application = validator(Application(database))
        self.status = ""
        self.headers: dict[str, str] = {}

    def get(self, url: str, method: str = "GET", data: bytes = b"") -> str:
        path, _, query = url.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote(path, "latin-1"),
            "QUERY_STRING": query,
            "wsgi.input": io.BytesIO(data),
        }
        if method == "POST":
            environ["CONTENT_LENGTH"] = str(len(data))
        setup_testing_defaults(environ)
        answer: Any = self.application(environ, self._note)
        body = b"".join(answer)
        answer.close()
        return body.decode()

    def post(self, url: str, **fields: str | int) -> str:
        return self.get(url, "POST", urlencode(fields).encode())

    def _note(self, status: str, headers: list[tuple[str, str]], *_: object) -> Any:
        self.status, self.headers = status, dict(headers)
        return lambda _: None


@pytest.fixture
def database() -> Iterator[Database]:
    with Database(MemoryStorage()) as database:
        yield database


@pytest.fixture
def browser(database: Database) -> Browser:
    return Browser(database)


def test_a_new_wiki_offers_to_write_its_first_page(browser: Browser) -> None:
    """The way in leads to a page that is not there, and on to its form."""
    browser.get("/")
    assert (browser.status, browser.headers["Location"]) == ("303 See Other", "/page/Start")
    assert 'href="/edit/Start"' in browser.get("/page/Start")
    assert browser.status == "404 Not Found"
    assert 'name="begun_with" value="0"' in browser.get("/edit/Start")


def test_what_is_saved_is_shown(browser: Browser) -> None:
    """A saved page is there, in the history, in the changes, and its old revision too."""
    browser.post("/edit/Start", begun_with=0, text="Hello.\r\n\r\nWorld.", author="Kim")
    assert (browser.status, browser.headers["Location"]) == ("303 See Other", "/page/Start")
    assert "<p>Hello.</p>\n<p>World.</p>" in browser.get("/page/Start")
    browser.post("/edit/Start", begun_with=1, text="Bye.", author="")
    assert "<p>Bye.</p>" in browser.get("/page/Start")
    old = browser.get("/page/Start?revision=1")
    assert "<p>Hello.</p>" in old
    assert "old revision" in old
    history = browser.get("/history/Start")
    assert history.index("by anonymous") < history.index("by Kim")
    assert "by anonymous" in browser.get("/changes")
    assert "Start</a></li>" in browser.get("/search?q=by*")


def test_links(browser: Browser) -> None:
    """[[Title]] is a link, another one if there is no such page; what is no title is text."""
    title = "Café au lait"
    url = f"/page/{quote(title)}"
    browser.post("/edit/Tea", begun_with=0, text=f"[[Tea]] [[{title}]] [[..]] [[x", author="")
    page = browser.get("/page/Tea")
    assert '<a href="/page/Tea">Tea</a>' in page
    assert f'<a href="{url}" class="missing">{title}</a>' in page
    assert "[[..]] [[x" in page
    browser.post(f"/edit/{quote(title)}", begun_with=0, text="Milk.", author="")
    assert "<p>Milk.</p>" in browser.get(url)
    assert f'<a href="{url}">{title}</a>' in browser.get("/page/Tea")


def test_nothing_of_a_visitor_is_taken_for_html(browser: Browser) -> None:
    """Text, author and query are escaped wherever they are shown."""
    evil = "<script>'\"&</script>"
    browser.post("/edit/Tea", begun_with=0, text=f"{evil} [[{evil}]]", author=evil)
    browser.post("/edit/Tea", begun_with=0, text=f"</textarea>{evil}", author=evil)
    shown = [browser.post("/edit/Tea", begun_with=0, text=f"</textarea>{evil}", author=evil)]
    urls = ["/page/Tea", "/edit/Tea", "/history/Tea", "/changes", f"/search?q={quote(evil)}"]
    shown += map(browser.get, urls)
    for page in shown:
        assert "&lt;script&gt;" in page
        assert "<script" not in page
        assert page.count("</textarea>") <= 1


def test_an_edit_conflict_loses_nothing(browser: Browser) -> None:
    """Who saves second sees both texts, and can save what he makes of them."""
    browser.post("/edit/Tea", begun_with=0, text="Black.", author="Kim")
    browser.post("/edit/Tea", begun_with=1, text="Black or green.", author="Lee")
    page = browser.post("/edit/Tea", begun_with=1, text="Black or white.", author="Kim")
    assert browser.status == "409 Conflict"
    assert "<pre>Black or green.</pre>" in page
    assert "\nBlack or white.</textarea>" in page
    assert 'name="begun_with" value="2"' in page
    assert "<p>Black or green.</p>" in browser.get("/page/Tea")
    browser.post("/edit/Tea", begun_with=2, text="Black, green or white.", author="Kim")
    assert "<p>Black, green or white.</p>" in browser.get("/page/Tea")


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("/nothing", "404 Not Found"),
        ("/page/", "404 Not Found"),
        ("/page/..", "404 Not Found"),
        ("/page/a/b", "404 Not Found"),
        ("/page/%ff", "404 Not Found"),
        ("/page/Tea?revision=0", "404 Not Found"),
        ("/page/Tea?revision=2", "404 Not Found"),
        ("/page/Tea?revision=x", "404 Not Found"),
        ("/search?q=%ff", "400 Bad Request"),
    ],
)
def test_addresses_that_lead_nowhere(browser: Browser, url: str, status: str) -> None:
    """Whatever a visitor asks for, the answer is a page."""
    browser.post("/edit/Tea", begun_with=0, text="Black.", author="Kim")
    assert "</html>" in browser.get(url)
    assert browser.status == status


@pytest.mark.parametrize(
    "data",
    [b"", b"text=a", b"text=&begun_with=0", b"text=a&begun_with=-1", b"text=%ff&begun_with=0"],
)
def test_forms_that_were_made_up(browser: Browser, data: bytes) -> None:
    """A form that no browser would send changes nothing."""
    browser.get("/edit/Tea", "POST", data)
    assert browser.status == "400 Bad Request"
    browser.get("/edit/Tea", "POST", b"text=" + b"x" * 1_000_001)
    assert browser.status == "400 Bad Request"
    browser.get("/page/Tea")
    assert browser.status == "404 Not Found"


def test_a_lost_server_is_told(browser: Browser, database: Database) -> None:
    """When nobody knows whether the form was saved, sending it again is right either way."""
    run = database.run

    def lose_answer(*arguments: Any) -> Any:
        run(*arguments)
        raise CommitUnknownError("the server was lost")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "run", lose_answer)
        assert "try again" in browser.post("/edit/Tea", begun_with=0, text="Black.", author="")
        assert browser.status == "503 Service Unavailable"
    browser.post("/edit/Tea", begun_with=0, text="Black.", author="")
    assert browser.status == "303 See Other"
    assert "revision 1" in browser.get("/page/Tea")
