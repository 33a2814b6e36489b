"""What the text of a PDF lacks, though viewers show it, in sentences for whoever asks of it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from pypdf import PdfReader

from focusdoc.documents.document import page_ranges
from focusdoc.documents.pdf_marks import entry, objects

#: What stands for characters that have no Unicode: U+FFFD, private use, control characters, a glyph's number.
_UNMAPPED = re.compile(r"[\ufffd\ue000-\uf8ff\U000f0000-\U0010ffff\x00-\x08\x0e-\x1f]|\(cid:\d+\)")
#: More than this share of a page's characters; a few are bullets and the like.
_MOST_UNMAPPED = 0.05
_MOST_NAMES, _LONGEST_NAME = 10, 100


def is_unmapped(text: str, pieces: Iterable[tuple[Any, ...]]) -> bool:
    """Whether many of a page's characters could not be mapped to Unicode.

    Args:
        pieces: its single texts, the fourth of each its font; see `pdf_columns.page_text`.
    """
    known: dict[int, bool] = {}
    lost = 0
    for piece in pieces:
        font = piece[3]
        if known.setdefault(id(font), _has_no_unicode(font)):
            lost += len("".join(piece[0].split()))
    lost += len(_UNMAPPED.findall(text)) if not lost else 0
    return lost > _MOST_UNMAPPED * len("".join(text.split()))


def _has_no_unicode(font: Any) -> bool:
    """Whether a font numbers its glyphs and says nowhere which characters they are."""
    with contextlib.suppress(Exception):
        if font["/Subtype"] == "/Type0" and "/ToUnicode" not in font:
            return str(font["/Encoding"]) in ("/Identity-H", "/Identity-V")
    return False


def left_out(reader: PdfReader, unmapped: Sequence[int]) -> list[str]:
    """What was not read.

    Args:
        unmapped: pages whose characters have no Unicode.
    """
    found = []
    if unmapped:
        found.append(
            f"the characters of {page_ranges(unmapped)} could not be mapped to Unicode, so words are wrong or missing "
            "there; run text recognition (OCR) over it"
        )
    if files := _attached(reader):
        more = f" and {len(files) - _MOST_NAMES} more" if len(files) > _MOST_NAMES else ""
        found.append(f"files in it were not read: {', '.join(files[:_MOST_NAMES])}{more}; save them and load each")
    if _is_dynamic_form(reader):
        found.append(
            "it is an XFA form, which only Adobe's programs show; its fields were not read, and the text may be a "
            "placeholder; print it to a new PDF there"
        )
    return found


def _attached(reader: PdfReader) -> list[str]:
    """The names of the files that are attached, as in a portfolio, or pinned to a page."""
    try:
        names = [file.name for file in reader.attachment_list]
        for page in reader.pages:
            pinned = (one["/FS"] for one in objects(entry(page, "/Annots")) if one.get("/Subtype") == "/FileAttachment")
            names += [str(file.get("/UF") or file.get("/F")) for file in pinned]
        return [name[:_LONGEST_NAME] for name in names]
    except Exception:
        return ["(their names are damaged)"]


def _is_dynamic_form(reader: PdfReader) -> bool:
    """Whether a form's fields are in its XFA part alone."""
    with contextlib.suppress(Exception):
        form = reader.root_object.get("/AcroForm", {}).get_object()
        has_fields = bool(form.get("/Fields", []).get_object()) if "/Fields" in form else False
        return "/XFA" in form and (bool(reader.root_object.get("/NeedsRendering")) or not has_fields)
    return False
