"""Detecting content that viewers show but the extracted text of a PDF lacks, described in sentences."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from pypdf import PdfReader

from focusdoc.documents.document import page_ranges
from focusdoc.documents.pdf_marks import entry, objects

#: Replacements of characters without Unicode: U+FFFD, private use, control characters, glyph numbers.
_UNMAPPED = re.compile(r"[\ufffd\ue000-\uf8ff\U000f0000-\U0010ffff\x00-\x08\x0e-\x1f]|\(cid:\d+\)")
#: A page is unmapped above this share of its characters; a few may be bullets and the like.
_MAX_UNMAPPED = 0.05
_MAX_NAMES, _MAX_NAME = 10, 100


def is_unmapped(text: str, pieces: Iterable[tuple[Any, ...]]) -> bool:
    """Whether many of a page's characters could not be mapped to Unicode.

    Args:
        pieces: see `pdf_columns.page_text`; the font is at index 3.
    """
    known: dict[int, bool] = {}
    lost = 0
    for piece in pieces:
        font = piece[3]
        if known.setdefault(id(font), _has_no_unicode(font)):
            lost += len("".join(piece[0].split()))
    lost += len(_UNMAPPED.findall(text)) if not lost else 0
    return lost > _MAX_UNMAPPED * len("".join(text.split()))


def _has_no_unicode(font: Any) -> bool:
    """Whether a font has glyph numbers without a mapping to characters."""
    with contextlib.suppress(Exception):
        if font["/Subtype"] == "/Type0" and "/ToUnicode" not in font:
            return str(font["/Encoding"]) in ("/Identity-H", "/Identity-V")
    return False


def left_out(reader: PdfReader, unmapped: Sequence[int]) -> list[str]:
    """Sentences about content that was not read.

    Args:
        unmapped: pages whose characters have no Unicode mapping.
    """
    found = []
    if unmapped:
        found.append(
            f"the characters of {page_ranges(unmapped)} could not be mapped to Unicode, so words are wrong or missing "
            "there; run text recognition (OCR) over it"
        )
    if files := _attached(reader):
        more = f" and {len(files) - _MAX_NAMES} more" if len(files) > _MAX_NAMES else ""
        found.append(f"files in it were not read: {', '.join(files[:_MAX_NAMES])}{more}; save them and load each")
    if _is_dynamic_form(reader):
        found.append(
            "it is an XFA form, which only Adobe's programs show; its fields were not read, and the text may be a "
            "placeholder; print it to a new PDF there"
        )
    return found


def _attached(reader: PdfReader) -> list[str]:
    """The names of attached files, of the document (as in a portfolio) or of a page."""
    try:
        names = [file.name for file in reader.attachment_list]
        for page in reader.pages:
            files = (one["/FS"] for one in objects(entry(page, "/Annots")) if one.get("/Subtype") == "/FileAttachment")
            names += [str(file.get("/UF") or file.get("/F")) for file in files]
        return [name[:_MAX_NAME] for name in names]
    except Exception:
        return ["(their names are damaged)"]


def _is_dynamic_form(reader: PdfReader) -> bool:
    """Whether a form's fields are only in its XFA part."""
    with contextlib.suppress(Exception):
        form = reader.root_object.get("/AcroForm", {}).get_object()
        has_fields = bool(form.get("/Fields", []).get_object()) if "/Fields" in form else False
        return "/XFA" in form and (bool(reader.root_object.get("/NeedsRendering")) or not has_fields)
    return False
