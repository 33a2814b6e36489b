"""Pages as pictures, drawn in a process of their own."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from test_server import text_pdf

from focusdoc.server.render import picture

resource = pytest.importorskip("resource", reason="limits of a process are not on Windows")


def _drawn_under_a_limit(pdf: bytes, path: str) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (15, 15))
    Path(path).write_bytes(picture(pdf, 1, "")[0])


def test_a_process_whose_own_limit_is_lower_draws_too(tmp_path: Path) -> None:
    drawn = tmp_path / "page.png"
    limited = multiprocessing.get_context("spawn").Process(
        target=_drawn_under_a_limit, args=(text_pdf(["A lighthouse."]), str(drawn))
    )
    limited.start()
    limited.join(60)
    assert drawn.read_bytes().startswith(b"\x89PNG")
