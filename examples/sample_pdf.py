"""A small PDF for the examples, made on the spot: the harbours of eight cities, one to a page."""

from __future__ import annotations

import textwrap
from pathlib import Path

HARBOURS = {
    "Oslo": ("771204", "Ingrid Dahl"),
    "Riga": ("640275", "Janis Berzins"),
    "Lima": ("105938", "Rosa Quispe"),
    "Perth": ("318866", "Alan Moore"),
    "Quito": ("927351", "Elena Paz"),
    "Lisbon": ("482913", "Tomas Reis"),
    "Hanoi": ("556120", "Minh Tran"),
    "Cork": ("203847", "Aoife Byrne"),
}


def write_sample_pdf(path: Path) -> Path:
    """Write the report to `path`, one harbour to a page."""
    pages = [_page(number, city, *facts) for number, (city, facts) in enumerate(HARBOURS.items(), start=1)]
    path.write_bytes(_pdf(pages))
    return path


def _page(number: int, city: str, code: str, keeper: str) -> str:
    return (
        f"Report on the harbour of {city}, part {number}. The harbour was inspected in spring, and its walls, cranes "
        "and lights were found in good order. Ships enter from the west when the tide allows it; small boats may moor "
        "at the old quay at any hour, and the ferry has a berth of its own behind the customs house. The warehouse "
        f"was painted, and its roof no longer leaks. The access code of {city} is {code}. The keeper of the harbour "
        f"of {city} is {keeper}. The next inspection is due in two years. Until then the depth of the channel is to "
        "be measured every month, the lamps are to be cleaned every week, and each ship's papers are to be kept for "
        "ten years in the harbour office, where every citizen may read them."
    )


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
