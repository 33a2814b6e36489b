"""Files that are ZIP archives, and the chapters of an EPUB in reading order. Runs in the child process."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import unquote

from focusdoc.documents.archive import Archive
from focusdoc.documents.markup import attribute, parse_xml, to_text
from focusdoc.documents.office import read_docx, read_open_document, read_pptx, read_xlsx
from focusdoc.documents.parsed import Parsed, Refused, Request
from focusdoc.documents.web import HTML, html_text, parse_html
from focusdoc.errors import DocumentError

#: The content type of the main part, which identifies the kind of an Office file.
_MAIN_PART = re.compile(
    rb"(wordprocessingml|ms-word|presentationml|ms-powerpoint|spreadsheetml|ms-excel)[\w.]*\.main\+xml"
)
#: Media types of e-books and (as a prefix) of OpenDocument, in the archive's file "mimetype".
_EPUB, _OPEN_DOCUMENT = b"application/epub+zip", b"application/vnd.oasis.opendocument."
_FONTS = (".ttf", ".otf", ".woff", ".woff2")


def read(data: bytes, request: Request) -> Parsed:
    """The text of an e-book, of an Office file or of an OpenDocument file.

    Raises:
        Refused: it is encrypted, damaged, or too large unpacked. DocumentError: it is another kind of archive.
    """
    archive = Archive(data, request.limits.max_unpacked)
    mimetype = archive.find("mimetype").strip()
    main = _MAIN_PART.search(archive.find("[Content_Types].xml"))
    if mimetype == _EPUB or "META-INF/container.xml" in archive.NameToInfo:
        return _read_epub(archive)
    if mimetype.startswith(_OPEN_DOCUMENT):
        return read_open_document(archive)
    if main is None:
        raise DocumentError(
            f"{request.name!r} is a ZIP archive and neither an e-book nor an office file; give one of its files."
        )
    if main[1] in (b"wordprocessingml", b"ms-word"):
        return read_docx(archive, data)
    if main[1] in (b"presentationml", b"ms-powerpoint"):
        return read_pptx(archive)
    return read_xlsx(archive, data)


def _read_epub(archive: Archive) -> Parsed:
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
        text, headings = to_text(parse_html(html_text(archive.read(name), name)), HTML)
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
