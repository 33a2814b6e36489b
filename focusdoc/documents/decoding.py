"""Decoding text files strictly, without guessing encodings."""

from __future__ import annotations

import codecs
import unicodedata

from focusdoc.errors import DocumentError

#: UTF-32 first, since its little-endian mark starts with that of UTF-16.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
#: Control characters that occur in texts: bell to carriage return, and escape (in terminal logs).
_TEXT_CONTROLS = {*range(0x07, 0x0E), 0x1B}
_BINARY_CONTROLS = bytes(code for code in range(0x20) if code not in _TEXT_CONTROLS)
#: Unicode categories that result when other bytes are decoded as UTF-16.
_NO_TEXT = {"Cc", "Cn", "Co", "Cs"}
#: A file is binary above this share of other control characters.
_MAX_CONTROLS = 0.02


def decode(data: bytes, name: str) -> str:
    """Decode UTF-8 or UTF-16, or UTF-32 with a byte order mark; nothing is replaced or dropped.

    Raises:
        DocumentError: the bytes are binary, or in another encoding.
    """
    encoding = next((encoding for mark, encoding in _BYTE_ORDER_MARKS if data.startswith(mark)), None)
    encoding = encoding or _without_mark(data)
    if encoding in ("utf-8", "utf-8-sig"):
        _refuse_binary(data, name)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        # Codecs that skip a byte order mark count from after it.
        offset = error.start + len(data) - len(error.object)
        likely = "UTF-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "WINDOWS-1252"
        found = f"0x{error.object[error.start]:02X}" if error.start < len(error.object) else "it ends"
        raise DocumentError(
            f"{name!r} is not valid {encoding.removesuffix('-sig').upper()} ({found} at byte {offset:,}); "
            f"convert it to UTF-8 first, for example with: iconv -f {likely} -t UTF-8."
        ) from None


def _without_mark(data: bytes) -> str:
    """UTF-16, detected by the NULs of ASCII characters; else UTF-8."""
    at_even, at_odd = data[::2].count(0), data[1::2].count(0)
    # NULs on one side in a 25th of the characters (line ends, at least), and few on the other (U+4E00, say).
    most, fewest = max(at_even, at_odd), min(at_even, at_odd)
    if len(data) % 2 == 0 and 50 * most >= len(data) and 3 * fewest <= most:
        encoding = "utf-16-le" if at_odd > at_even else "utf-16-be"
        text = data.decode(encoding, "replace")
        strange = sum(unicodedata.category(c) in _NO_TEXT and ord(c) not in _TEXT_CONTROLS for c in text)
        if "\N{REPLACEMENT CHARACTER}" not in text and strange <= _MAX_CONTROLS * len(text):
            return encoding
    return "utf-8"


def _refuse_binary(data: bytes, name: str) -> None:
    nul, found = data.find(b"\0"), ""
    controls = len(data) - len(data.translate(None, _BINARY_CONTROLS))
    if nul >= 0:
        found = f"a NUL byte at byte {nul:,}"
    elif controls > _MAX_CONTROLS * len(data):
        found = f"{controls:,} of {len(data):,} bytes are control characters"
    if found:
        raise DocumentError(
            f"{name!r} looks binary ({found}); give a text in UTF-8, or a PDF, and convert other formats to one of "
            "them first."
        )
