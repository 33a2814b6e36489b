"""Page numbers in words."""

from __future__ import annotations

from collections.abc import Sequence


def page_ranges(pages: Sequence[int], unit: str = "page") -> str:
    """Sorted numbers of pages or other units in words: "page 3", "pages 3, 7-9"."""
    ranges: list[list[int]] = []
    for page in pages:
        if ranges and page == ranges[-1][1] + 1:
            ranges[-1][1] = page
        else:
            ranges.append([page, page])
    listed = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
    return f"{unit} {listed}" if len(pages) == 1 else f"{unit}s {listed}"
