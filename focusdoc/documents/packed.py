"""Files that are ZIP archives: e-books, Office files, OpenDocument. Runs in the child process."""

from __future__ import annotations

import re

from focusdoc.documents.archive import Archive
from focusdoc.documents.ebook import read_epub
from focusdoc.documents.office import read_docx, read_pptx, read_xlsx
from focusdoc.documents.opendocument import read_open_document
from focusdoc.documents.parsed import Parsed, Request
from focusdoc.errors import DocumentError

#: The content type of the main part, which identifies the kind of an Office file.
_MAIN_PART = re.compile(
    rb"(wordprocessingml|ms-word|presentationml|ms-powerpoint|spreadsheetml|ms-excel)[\w.]*\.main\+xml"
)
#: Media types of e-books and (as a prefix) of OpenDocument, in the archive's file "mimetype".
_EPUB, _OPEN_DOCUMENT = b"application/epub+zip", b"application/vnd.oasis.opendocument."


def read(data: bytes, request: Request) -> Parsed:
    """The text of an e-book, of an Office file or of an OpenDocument file.

    Raises:
        Refused: it is encrypted, damaged, or too large unpacked. DocumentError: it is another kind of archive.
    """
    archive = Archive(data, request["max_unpacked"])
    mimetype = archive.find("mimetype").strip()
    main = _MAIN_PART.search(archive.find("[Content_Types].xml"))
    if mimetype == _EPUB or "META-INF/container.xml" in archive.NameToInfo:
        return read_epub(archive)
    if mimetype.startswith(_OPEN_DOCUMENT):
        return read_open_document(archive)
    if main is None:
        raise DocumentError(
            f"{request['name']!r} is a ZIP archive and neither an e-book nor an office file; give one of its files."
        )
    if main[1] in (b"wordprocessingml", b"ms-word"):
        return read_docx(archive, data)
    if main[1] in (b"presentationml", b"ms-powerpoint"):
        return read_pptx(archive)
    return read_xlsx(archive, data)
