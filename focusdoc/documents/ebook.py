"""E-books: the chapters of an EPUB in reading order."""

from __future__ import annotations

import posixpath
from urllib.parse import unquote

from focusdoc.documents.archive import Archive
from focusdoc.documents.markup import attribute, parse_xml, to_text
from focusdoc.documents.parsed import Parsed, Refused
from focusdoc.documents.web import HTML, html_text, parse_html

_FONTS = (".ttf", ".otf", ".woff", ".woff2")


def read_epub(archive: Archive) -> Parsed:
    """The files of the book's spine, each labelled with its first heading.

    Raises:
        Refused: a chapter is encrypted or missing.
    """
    package = attribute(archive.xml("META-INF/container.xml").find(".//{*}rootfile"), "full-path")
    tree = archive.xml(package)
    folder = posixpath.dirname(package)
    items = {
        attribute(item, "id"): posixpath.normpath(posixpath.join(folder, unquote(attribute(item, "href"))))
        for item in tree.iterfind(".//{*}manifest/{*}item")
    }
    locked = _encrypted(archive)
    pages: list[str] = []
    labels: list[str | None] = []
    read: set[str] = set()
    for reference in tree.iterfind(".//{*}spine/{*}itemref"):
        name = items.get(attribute(reference, "idref"), attribute(reference, "idref"))
        if name not in archive.NameToInfo and (whole := name.partition("#")[0]) in archive.NameToInfo:
            if whole in read:  # another place of the same file
                continue
            name = whole
        read.add(name)
        if name in locked:
            raise Refused("protected", "protected against copying")
        if name not in archive.NameToInfo:
            raise Refused("damaged", f"its chapter {name} is missing")
        root = parse_html(html_text(archive.read(name), name))
        text, headings = to_text(root, HTML) if root is not None else ("", [])
        pages.append(text)
        labels.append(headings[0][2] if headings else None)
    return archive.named(Parsed(format="epub", pages=pages, labels=labels, unit="chapter"), package)


def _encrypted(archive: Archive) -> set[str]:
    """The encrypted files, except for fonts, which many books obfuscate."""
    data = archive.find("META-INF/encryption.xml")
    names = (
        {unquote(attribute(item, "URI")) for item in parse_xml(data).iterfind(".//{*}CipherReference")} if data else ()
    )
    return {name for name in names if not name.lower().endswith(_FONTS)}
