"""Pages of the wiki as HTML. Every text that a visitor wrote passes through `escape`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from urllib.parse import quote

from wiki.pages import Page, Revision, Wiki, clean_title

_STYLE = """
body { max-width: 45em; margin: 1em auto; padding: 0 1em; font-family: sans-serif }
textarea { width: 100%; height: 20em }
.missing { color: #b00 }
.warning { background: #fe9; padding: 1em }
"""


def document(title: str, body: str) -> str:
    """Put what is inside of a page into a whole one."""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<style>{_STYLE}</style></head><body>
<nav><a href="/page/Start">Start</a> | <a href="/changes">Changes</a>
<form action="/search" style="display: inline"><input name="q" aria-label="Words">
<button>Search</button></form></nav>
<h1>{escape(title)}</h1>
{body}
</body></html>
"""


def link(title: str, *, path: str = "page", text: str = "", mark: str = "") -> str:
    """Make a link to a page, or to its history or form."""
    css = f' class="{mark}"' if mark else ""
    return f'<a href="/{path}/{quote(title)}"{css}>{escape(text or title)}</a>'


def text_html(text: str, wiki: Wiki) -> str:
    """Turn a text into paragraphs, and each [[Title]] in it into a link."""
    html = ""
    for paragraph in filter(None, re.split(r"\n{2,}", text)):
        # Every second part is what stood in brackets.
        parts = re.split(r"\[\[([^\[\]\n]*)\]\]", paragraph)
        parts[::2] = map(escape, parts[::2])
        parts[1::2] = [reference_html(part, wiki) for part in parts[1::2]]
        html += f"<p>{''.join(parts)}</p>\n"
    return html


def reference_html(text: str, wiki: Wiki) -> str:
    """Turn what stood in brackets into a link, if it can be a title."""
    title = clean_title(text)
    if title is None:
        return escape(f"[[{text}]]")
    return link(title, mark="" if title in wiki.pages else "missing")


def revision_text(revision: Revision) -> str:
    """Say of which revision it is, who wrote it, and when."""
    return f"revision {revision.number}, {revision.time:%Y-%m-%d %H:%M} by {revision.author}"


def page_html(page: Page, revision: Revision, wiki: Wiki) -> str:
    """Show a page, as it is or as it was."""
    links = [
        link(page.title, path="edit", text="Edit"),
        link(page.title, path="history", text="History"),
    ]
    note = "" if revision is page.newest else '<p class="warning">This is an old revision.</p>'
    return document(
        page.title,
        f"{note}{text_html(revision.text, wiki)}<hr>"
        f"<p>{escape(revision_text(revision))} | {' | '.join(links)}</p>",
    )


def history_html(page: Page) -> str:
    """List the revisions of a page, the newest first."""
    items = [
        f'<a href="/page/{quote(page.title)}?revision={revision.number}">'
        f"{escape(revision_text(revision))}</a>"
        for revision in reversed(page.revisions)
    ]
    return document(f"History of {page.title}", list_html(items))


def changes_html(changes: Iterable[tuple[str, Revision]]) -> str:
    """List changes."""
    return document(
        "Changes",
        list_html(
            f"{link(title)}: {escape(revision_text(revision))}" for title, revision in changes
        ),
    )


def found_html(query: str, titles: list[str]) -> str:
    """List what a search has found."""
    none = "" if titles else "<p>No page has all these words.</p>"
    return document(f"Search: {query}", none + list_html(map(link, titles)))


def list_html(items: Iterable[str]) -> str:
    """Make a list of pieces of HTML."""
    return "<ul>" + "".join(f"<li>{item}</li>\n" for item in items) + "</ul>"


def form_html(title: str, text: str, author: str, begun_with: int, theirs: str = "") -> str:
    """Make the form in which a page is written.

    Args:
        title: of the page.
        text: what the form begins with.
        author: the same.
        begun_with: the number of the revision that the author has seen, or 0.
        theirs: in an edit conflict, what somebody else has saved.
    """
    warning = ""
    if theirs:
        warning = (
            '<p class="warning">Somebody else has saved this page meanwhile, as follows. Nothing'
            " of yours is lost: it is in the form. Put both together and save.</p>"
            f"<pre>{escape(theirs)}</pre>"
        )
    return document(
        f"Edit {title}",
        f"""{warning}<form method="post" action="/edit/{quote(title)}">
<input type="hidden" name="begun_with" value="{begun_with}">
<p><textarea name="text" aria-label="Text">
{escape(text)}</textarea></p>
<p><label>Your name <input name="author" value="{escape(author)}"></label>
<button>Save</button></p></form>""",
    )


def missing_html(title: str) -> str:
    """Say that there is no such page, and offer to write it."""
    offer = link(title, path="edit", text="Write it")
    return document(title, f"<p>Nobody has written this page. {offer}</p>")


def message_html(title: str, text: str) -> str:
    """Say why there is no page."""
    return document(title, f"<p>{escape(text)}</p>")
