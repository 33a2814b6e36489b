"""A small PDF for the examples, made on the spot: a town's yearly report, one office to a page."""

from __future__ import annotations

import textwrap
from pathlib import Path

PAGES = (
    "The harbour. Its walls, cranes and lights were inspected in spring and found in good order. Ships enter from "
    "the west when the tide allows it; small boats may moor at the old quay at any hour, and the ferry has a berth "
    "of its own behind the customs house. The depth of the channel is measured every month.",
    "The library. It lent eleven thousand books, a third of them to children. The reading room was closed for two "
    "weeks in August while the heating was renewed. Readers asked for longer hours on Saturdays, and from next year"
    " the doors will stay open until eight. Old maps may now be seen in the cellar.",
    "The archive. Deeds and letters from four centuries lie here in boxes. Visitors write their names into the book"
    " at the entrance. The access code of Lima is 105938. Papers may be read at the long table by the window, but "
    "nothing may leave the house, and pens are to be left at the desk.",
    "The railway. Trains were late on nineteen days, mostly through snow. The bridge over the river was painted "
    "green and its rails were changed at night, so that no train had to be cancelled. A new clock hangs in the "
    "hall, a gift from the town of Hanoi, and the waiting room is heated again.",
    "The museum. The great hall shows ships in bottles and the bones of a whale. A school from the next valley came"
    " every Thursday. Two paintings were lent to Quito and came back unharmed. The bakery lost money, and its lease"
    " is to be given to a baker who promises fresh bread.",
    "The lighthouse. Its lamp burned on every night of the year, and its horn was heard in forty fogs. The keeper "
    "of the lighthouse is Aoife Byrne. The stairs were swept, the glass was cleaned every week, and swallows nest "
    "under the gallery as they always have.",
    "The garden. Six hundred roses were planted along the southern wall, and the pond was freed of weeds. Wardens "
    "counted nine kinds of butterfly. Dogs must be led; music is allowed on Sundays in the afternoon. A bench "
    "stands now where the old oak fell in the storm of October.",
    "The observatory. Clouds hid the sky in half of all nights, but the comet was seen in March by a crowd of two "
    "hundred. The mirror of the telescope was coated anew in Perth. A lecture on the moons of Jupiter is to be "
    "given each month in winter, and entry will be free.",
)


def write_sample_pdf(path: Path) -> Path:
    """Write the report to `path`."""
    path.write_bytes(_pdf(list(PAGES)))
    return path


def _pdf(texts: list[str]) -> bytes:
    """A PDF with one page for each text, in Helvetica."""
    font, first_page = 3, 4
    kids = " ".join(f"{first_page + 2 * index} 0 R" for index in range(len(texts)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(texts)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for index, text in enumerate(texts):
        lines = " ".join(f"({line}) ' " for line in textwrap.wrap(text, 90))
        content = f"BT /F1 11 Tf 14 TL 60 740 Td {lines} ET"
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {first_page + 2 * index + 1} 0 R "
            f"/Resources << /Font << /F1 {font} 0 R >> >> >>",
            f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        ]
    body, offsets = "%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    end = f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF\n"
    return f"{body}xref\n0 {size}\n0000000000 65535 f \n{table}{end}".encode("ascii")
