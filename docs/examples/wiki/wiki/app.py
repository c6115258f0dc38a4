"""The wiki as a WSGI application."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs, quote

from durus.database import Database
from durus.error import CommitUnknownError, ConflictError, StorageDisconnectedError
from wiki import views
from wiki.pages import EditConflictError, Page, Revision, Wiki, clean_title, open_wiki

_LONGEST_FORM_BYTES = 1_000_000
_CHANGES_SHOWN = 50
_BUSY = "The database cannot be reached, or is busy. Your text is not lost: go back and try again."

Response = tuple[str, str, list[tuple[str, str]]]  # status, body, headers
Fields = dict[str, str]


class Application:
    """Answers requests with what a database holds; for any number of threads.

    Args:
        database: which nobody else need know about.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        database.run(open_wiki)  # made now, in a new database

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., object]
    ) -> Iterable[bytes]:
        status, body, headers = self.respond(environ)
        data = body.encode()
        start_response(
            status,
            [
                ("Content-Type", "text/html; charset=utf-8"),
                ("Content-Length", str(len(data))),
                ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"),
                *headers,
            ],
        )
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [data]

    def respond(self, environ: dict[str, Any]) -> Response:
        """Answer one request: in one transaction, which is done again if it is in conflict."""
        try:
            fields = read_fields(environ)
        except ValueError as error:
            return message("400 Bad Request", str(error))
        is_post = environ["REQUEST_METHOD"] == "POST"
        # WSGI gives the bytes of the path as if they were Latin-1.
        path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
        try:
            return self.database.run(answer, path, fields, is_post)
        except (ConflictError, StorageDisconnectedError, CommitUnknownError):
            return message("503 Service Unavailable", _BUSY)


def read_fields(environ: dict[str, Any]) -> Fields:
    """Give the fields of a request: those of the form that was sent, or of the query.

    Raises:
        ValueError: they cannot be read.
    """
    text = environ.get("QUERY_STRING", "")
    if environ["REQUEST_METHOD"] == "POST":
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if not 0 <= length <= _LONGEST_FORM_BYTES:
            raise ValueError(f"a form has at most {_LONGEST_FORM_BYTES} bytes, not {length}")
        text = environ["wsgi.input"].read(length).decode()
    fields = parse_qs(text, keep_blank_values=True, errors="strict", max_num_fields=10)
    return {name: values[-1] for name, values in fields.items()}


def answer(root: Any, path: str, fields: Fields, is_post: bool) -> Response:
    """Answer a request from the database. All that is asked of it is asked in here."""
    wiki = open_wiki(root)
    if path == "/":
        return redirect("Start")
    if path == "/changes":
        return ok(views.changes_html(wiki.newest_changes(_CHANGES_SHOWN)))
    if path == "/search":
        query = fields.get("q", "")
        return ok(views.found_html(query, wiki.words.find(query)))
    _, kind, rest = [*path.split("/", 2), "", ""][:3]
    title = clean_title(rest)
    if title is None or kind not in {"page", "history", "edit"}:
        return message("404 Not Found", "There is nothing at this address.")
    page = wiki.pages.get(title)
    if kind == "edit":
        return save(wiki, title, fields) if is_post else edit(title, page)
    if page is None:
        return "404 Not Found", views.missing_html(title), []
    if kind == "history":
        return ok(views.history_html(page))
    revision = find_revision(page, fields.get("revision", str(page.newest.number)))
    if revision is None:
        return message("404 Not Found", f"{title} has no such revision.")
    return ok(views.page_html(page, revision, wiki))


def find_revision(page: Page, text: str) -> Revision | None:
    """Give the revision whose number is in a URL."""
    number = number_from(text)
    return page.revisions[number - 1] if 1 <= number <= len(page.revisions) else None


def number_from(text: str) -> int:
    """Read a number that a visitor may have made up; what is none becomes -1."""
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else -1


def edit(title: str, page: Page | None) -> Response:
    """Give the form, with the page as it is now."""
    if page is None:
        return ok(views.form_html(title, "", "", 0))
    return ok(views.form_html(title, page.newest.text, "", page.newest.number))


def save(wiki: Wiki, title: str, fields: Fields) -> Response:
    """Take the form that was sent."""
    text = fields.get("text", "").replace("\r\n", "\n")
    author = fields.get("author", "").strip()[:100] or "anonymous"
    begun_with = number_from(fields.get("begun_with", ""))
    if not text.strip() or begun_with < 0:
        return message("400 Bad Request", "A page needs a text, and its form a revision.")
    try:
        wiki.save(title, text, author, begun_with)
    except EditConflictError:
        page = wiki.pages.get(title)
        if page is None:
            return message("400 Bad Request", "The form names a revision that never was.")
        theirs = page.newest
        form = views.form_html(title, text, author, theirs.number, theirs.text)
        return "409 Conflict", form, []
    return redirect(title)


def ok(body: str) -> Response:
    """Give a whole page."""
    return "200 OK", body, []


def message(status: str, text: str) -> Response:
    """Say why there is no page."""
    return status, views.message_html(status.partition(" ")[2], text), []


def redirect(title: str) -> Response:
    """Send the browser to a page."""
    return "303 See Other", "", [("Location", f"/page/{quote(title)}")]
