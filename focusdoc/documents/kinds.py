"""Detecting the kind of a file from its bytes and its name."""

from __future__ import annotations

import re

from focusdoc.errors import DocumentError

#: Kinds that are parsed in the child process; the others are "text" and "markdown".
PARSED = frozenset({"pdf", "html", "zip", "email"})
_MARKDOWN = (".md", ".markdown", ".mdx")
#: Files with these endings are text, whatever their first lines look like.
_TEXTS = (*_MARKDOWN, *(".txt", ".text", ".log", ".rst", ".tex", ".csv", ".tsv", ".json", ".jsonl", ".xml"))
_CODE = (".py", ".c", ".cpp", ".h", ".rs", ".go", ".java", ".js", ".ts", ".tsx", ".jsx", ".css", ".sh", ".php", ".vue")
_BY_ENDING = {".html": "html", ".htm": "html", ".xhtml": "html", ".eml": "email", ".mht": "email", ".mhtml": "email"}
#: Files with these endings must be ZIP archives.
_PACKED = {".epub", ".docx", ".docm", ".pptx", ".pptm", ".xlsx", ".xlsm", ".odt", ".odp", ".ods"}
_PDF_HEADER = re.compile(rb"%PDF-\d")
#: The PDF header must be within so many bytes.
_PDF_HEADER_WITHIN = 1024
#: Bytes that are searched for HTML and e-mail headers.
_SEARCHED = 4096
# Atomic: with backtracking, comments would take exponential time.
_HTML = re.compile(rb"\s*+(?:<\?xml[^>]*>\s*+)?(?>(?:<!--.*?-->\s*)*)(?:<!doctype\s+html|<html)\b", re.I | re.S)
_EMAIL = re.compile(rb"(?:Return-Path|Received|Delivered-To|MIME-Version|Message-ID):\s", re.I)
#: Unsupported file types by their first bytes, with the remedy.
_UNSUPPORTED = {
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an old Office or Outlook file, or one with a password; save it as .docx, "
    ".pptx, .xlsx or .eml, without a password",
    b"{\\rtf": "an RTF file; save it as .docx",
}


def kind_of(data: bytes, ending: str, name: str) -> str:
    """ "pdf", "html", "zip" (e-books and office files), "email", "markdown" or "text".

    Args:
        ending: of the file's name, lower case, with the dot; "" if it has none.

    Raises:
        DocumentError: it is an unsupported file type, or not of the kind that its ending says.
    """
    text = data[:_SEARCHED].lstrip(b"\xef\xbb\xbf\xff\xfe").replace(b"\0", b"")  # a byte order mark, and UTF-16
    if _is_pdf(data, named_text=ending in (*_TEXTS, *_CODE, *_BY_ENDING)):
        return "pdf"
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    for mark, what in _UNSUPPORTED.items():
        if data.startswith(mark):
            raise DocumentError(f"{name!r} is {what}.")
    lack = "has no PDF header" if ending == ".pdf" else "is not a ZIP archive" if ending in _PACKED else ""
    if lack:
        raise DocumentError(f"{name!r} is named {ending} but {lack}; it is damaged or another kind of file.")
    if ending in _TEXTS or ending in _CODE:
        return "markdown" if ending in _MARKDOWN else "text"
    if ending in _BY_ENDING:
        return _BY_ENDING[ending]
    return "html" if _HTML.match(text) else "email" if _EMAIL.match(text) else "text"


def _is_pdf(data: bytes, *, named_text: bool) -> bool:
    head = data[:_PDF_HEADER_WITHIN]
    # A text about PDF files may quote the header in its first lines.
    return (
        _PDF_HEADER.match(head.lstrip(b"\xef\xbb\xbf \t\r\n")[:16]) if named_text else _PDF_HEADER.search(head)
    ) is not None
