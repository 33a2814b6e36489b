"""Rendering PDF pages with a quote marked, in a child process with limits, since files are untrusted.

``python -m focusdoc.server.render`` reads a line of JSON (page, quote) and the file's bytes from standard input, and
writes the position of the mark and a PNG to standard output.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from typing import Any

from focusdoc.documents.child import limit_process, run_child
from focusdoc.errors import DocumentError

#: Pixels of a page's longer side.
_LONGEST = 1600
#: Most points from a line of a quote down to the next one.
_LINE = 24.0
_SECONDS, _MEMORY = 20, 2 << 30
_MARK = (255, 214, 0, 90)

Box = tuple[float, float, float, float]


def picture(data: bytes, page: int, quote: str) -> tuple[bytes, float]:
    """Render a page of a PDF (from 1) as PNG; also returns the top of the mark as a share of the page's height.

    Args:
        quote: the text to mark, line by line; empty for none.

    Raises:
        DocumentError: rendering failed or took too long.
    """
    try:
        done = run_child("focusdoc.server.render", {"page": page, "quote": quote}, data, _SECONDS)
    except subprocess.TimeoutExpired:
        raise DocumentError(f"Page {page} takes longer than {_SECONDS} seconds to render.") from None
    except OSError as error:
        raise DocumentError(f"Page {page} cannot be rendered: its process does not start ({error}).") from error
    top, _, drawn = done.stdout.partition(b"\n")
    if done.returncode or not drawn.startswith(b"\x89PNG"):
        raise DocumentError(f"Page {page} cannot be rendered.")
    return drawn, float(top)


def boxes_of(page: Any, quote: str) -> list[Box]:
    """Find the lines of a quote on a pypdfium2 page: (left, bottom, right, top) of each, in points.

    The text of columns may be interleaved, so each line is searched separately, right below the one before.
    """
    words = page.get_textpage()
    shown = words.get_text_range()
    places = [index for index, letter in enumerate(shown) if letter.isalnum()]
    letters = "".join(shown[index] for index in places)
    found: list[Box] = []
    for line in quote.splitlines():
        wanted = "".join(filter(str.isalnum, line))
        for match in re.finditer(re.escape(wanted), letters) if wanted else ():
            lefts, lows, rights, highs = zip(
                *(words.get_charbox(index) for index in places[match.start() : match.end()]), strict=True
            )
            if not found or 0 < found[-1][1] - min(lows) < _LINE:
                found.append((min(lefts), min(lows), max(rights), max(highs)))
                break
    return found


def _draw(data: bytes, number: int, quote: str) -> bytes:
    import pypdfium2  # type: ignore[import-untyped]
    from PIL import Image, ImageDraw

    page = pypdfium2.PdfDocument(data)[number - 1]
    scale = _LONGEST / max(page.get_width(), page.get_height())
    drawn = page.render(scale=scale).to_pil().convert("RGBA")
    marks = Image.new("RGBA", drawn.size)
    boxes, height = boxes_of(page, quote), page.get_height()
    for left, low, right, high in boxes:
        top, bottom = height - high, height - low
        ImageDraw.Draw(marks).rectangle([scale * side for side in (left - 1, top - 1, right + 1, bottom + 1)], _MARK)
    file = io.BytesIO()
    Image.alpha_composite(drawn, marks).convert("RGB").save(file, "PNG")
    begins = max(0.0, 1 - boxes[0][3] / height) if boxes else 0.0
    return f"{begins:.3f}\n".encode() + file.getvalue()


if __name__ == "__main__":
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # printed output must not mix with the picture
    request = json.loads(sys.stdin.buffer.readline())
    limit_process(_MEMORY, _SECONDS)
    answer.write(_draw(sys.stdin.buffer.read(), request["page"], request["quote"]))
