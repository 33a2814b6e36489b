"""Web pages: decoding and conversion to text. Runs in the child process."""

from __future__ import annotations

import codecs
import re
from typing import Any

from lxml import etree, html

from focusdoc.documents.decoding import decode
from focusdoc.documents.markup import Rules, count, names, sections, to_text
from focusdoc.documents.parsed import Parsed, Refused, Request

_CHARSET = re.compile(rb"""<(?:meta|\?xml)[^>]*?(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.I)
#: The encoding must be declared within so many bytes.
_CHARSET_WITHIN = 1024


def _list_marker(element: Any) -> str:
    """The number of a list item, or a dash."""
    parent = element.getparent()
    if parent is None or parent.tag != "ol":
        return "- "
    number = count(parent.get("focusdoc-next", parent.get("start", "")))
    parent.set("focusdoc-next", str(number + 1))
    return f"{number}. "


HTML = Rules(
    paragraphs=names(
        "address article aside blockquote body details dl fieldset figure footer form h1 h2 h3 h4 h5 h6 header hr main "
        "nav ol p pre section table ul"
    ),
    lines=names("caption center dd div dt figcaption legend li option summary tbody tfoot thead"),
    rows=names("tr"),
    cells=names("td th"),
    skipped=names("head iframe noscript object script style template"),
    breaks={"br": "\n"},
    verbatim=names("pre textarea"),
    level=lambda element: int(element.tag[1]) if re.fullmatch("h[1-6]", element.tag) else 0,
    marker=lambda element: _list_marker(element) if element.tag == "li" else "",
)


def read(data: bytes, request: Request) -> Parsed:
    """The text of an HTML page, split into sections at its headings. DocumentError: it cannot be decoded."""
    root = parse_html(html_text(data, request.name))
    pages, labels = sections(*to_text(root, HTML))
    title = root.findtext(".//title") if root is not None else None
    title = " ".join((title or "").split()) or None
    return Parsed(format="html", pages=pages, labels=labels, unit="section", title=title)


def html_text(data: bytes, name: str) -> str:
    """Decode an HTML page with its declared encoding, else as UTF-8. DocumentError: neither is right."""
    named = _CHARSET.search(data[:_CHARSET_WITHIN])
    try:
        # A byte order mark takes precedence, and a declaration in ASCII cannot be UTF-16.
        if named and not data.startswith(b"\xef\xbb\xbf"):
            encoding = codecs.lookup(named[1].decode("ascii")).name
            encoding = "utf-8" if encoding.startswith("utf-16") else encoding
            return data.decode({"iso8859-1": "cp1252", "ascii": "cp1252"}.get(encoding, encoding))
    except (LookupError, UnicodeError):
        pass
    return decode(data, name)


def parse_html(text: str) -> Any:
    """The tree of an HTML page, even a broken one; None for an empty page.

    Raises:
        Refused: it is nested too deeply for libxml2.
    """
    if not text.strip():
        return None
    parser = html.HTMLParser(encoding="utf-8", no_network=True, huge_tree=True)
    try:
        root = html.document_fromstring(text.encode(), parser=parser)
    except etree.ParserError:  # no element, such as a comment alone
        return None
    if any(error.type_name == "ERR_RESOURCE_LIMIT" for error in parser.error_log):  # the rest is lost
        raise Refused("limit", "it is nested too deeply")
    return root
