"""PDFs: pages and labels, passwords, damage, bombs; all parsed in a child process with limits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from document_samples import deflated, page_pdf, raw_pdf, text_pdf

from focusdoc.documents import LoadLimits, Page, load, parsing
from focusdoc.documents.pdf import valid_text
from focusdoc.errors import DocumentError, DocumentLimitError, EmptyDocumentError, EncryptedDocumentError

DATA = Path(__file__).parents[2].parent / "shared" / "data"
REAL_PDF = DATA / "pdf" / "i1040nr.pdf"


def test_pages_tile_the_text_with_their_separators() -> None:
    document = load(text_pdf(["First page", "Second page", "Last"], title="A Title"))
    assert document.text == "First page\n\nSecond page\n\nLast"
    assert document.pages == (Page(1, None, 0, 12), Page(2, None, 12, 25), Page(3, None, 25, 29))
    assert document.page_at(document.text.index("Second")).number == 2
    assert document.has_pages
    expected = {"format": "pdf", "num_pages": 3, "title": "A Title", "author": "A. Writer", "pages_without_text": []}
    assert expected.items() <= document.metadata.items()


def test_printed_page_numbers_are_the_labels() -> None:
    document = load(text_pdf(["preface", "thanks", "chapter"], roman_pages=2))
    assert [page.label for page in document.pages] == ["i", "ii", "1"]


def test_a_file_is_named_in_metadata(tmp_path: Path) -> None:
    path = tmp_path / "book.pdf"
    path.write_bytes(text_pdf(["Hello"]))
    assert load(path).metadata["source"] == str(path)
    assert load(path).name == "book.pdf"


def test_pages_without_text_are_kept_and_reported() -> None:
    document = load(text_pdf(["", "Words", "", "More", ""]))
    assert document.text == "\n\nWords\n\n\n\nMore\n\n"
    assert len(document.pages) == 5
    assert document.metadata["pages_without_text"] == [1, 3, 5]
    assert document.page_at(document.text.index("More")).number == 4


def test_a_scan_without_text_asks_for_text_recognition() -> None:
    with pytest.raises(EmptyDocumentError, match=r"any of its 3 pages.*scanned.*OCR"):
        load(text_pdf(["", "", ""]))


def test_a_pdf_without_pages_is_refused() -> None:
    with pytest.raises(EmptyDocumentError, match="without pages"):
        load(raw_pdf([b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [] /Count 0 >>"]))


class TestEncrypted:
    @pytest.mark.parametrize("algorithm", ["RC4-40", "RC4-128", "AES-256"])
    def test_the_right_password_opens_it(self, algorithm: str) -> None:
        data = text_pdf(["Secret", "words"], password="pässword", algorithm=algorithm)
        assert load(data, password="pässword").text == "Secret\nwords"

    def test_no_password_is_an_error_that_asks_for_one(self) -> None:
        with pytest.raises(EncryptedDocumentError, match="is encrypted; give its password"):
            load(text_pdf(["Secret"], password="open"))

    def test_a_wrong_password_is_an_error_that_does_not_repeat_it(self) -> None:
        with pytest.raises(EncryptedDocumentError, match="the password is wrong") as caught:
            load(text_pdf(["Secret"], password="open"), password="sesame")
        assert "sesame" not in str(caught.value)

    def test_a_pdf_with_the_empty_password_just_opens(self) -> None:
        data = text_pdf(["Not so secret"], password="")
        assert load(data).text == load(data, password="any").text == "Not so secret"

    def test_a_password_for_an_open_pdf_does_no_harm(self) -> None:
        assert load(text_pdf(["Open"]), password="any").text == "Open"

    def test_a_missing_package_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        data = text_pdf(["Secret"], password="open", algorithm="AES-256")
        for package in ("cryptography", "Crypto"):
            (tmp_path / f"{package}.py").write_text("raise ImportError", encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(EncryptedDocumentError, match="pip install cryptography"):
            load(data, password="open")

    def test_the_password_is_not_on_the_command_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []
        run = subprocess.run
        monkeypatch.setattr(
            parsing.subprocess,
            "run",
            lambda args, **kwargs: seen.append((args, kwargs["env"])) or run(args, **kwargs),
        )
        load(text_pdf(["Secret"], password="sesame"), password="sesame")
        assert "sesame" not in str(seen)


class TestDamaged:
    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.97])
    def test_a_truncated_pdf_is_refused(self, share: float) -> None:
        data = text_pdf(["one", "two", "three"])
        with pytest.raises(DocumentError, match="damaged PDF"):
            load(data[: int(len(data) * share)])

    def test_a_header_alone_is_refused(self) -> None:
        with pytest.raises(DocumentError, match="damaged PDF"):
            load(b"%PDF-1.7\n")

    def test_missing_pages_are_not_skipped(self) -> None:
        data = raw_pdf(
            [
                b"<< /Type /Catalog /Pages 2 0 R >>",
                b"<< /Type /Pages /Kids [3 0 R 9 0 R] /Count 2 >>",
                b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] >>",
            ]
        )
        with pytest.raises(DocumentError, match="only 1 of its 2 pages"):
            load(data)

    def test_a_parser_that_dies_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "pypdf.py").write_text("import os; os._exit(3)", encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(DocumentError, match="died with code 3"):
            load(page_pdf(b""))


class TestBombs:
    def test_a_stream_that_expands_a_thousandfold_is_refused(self) -> None:
        bomb = page_pdf(deflated(100_000_000), b"/Filter /FlateDecode")
        assert len(bomb) < 200_000
        with pytest.raises(DocumentLimitError, match="safety limit"):
            load(bomb)

    def test_a_page_tree_that_loops_is_refused(self) -> None:
        node = b"<< /Type /Pages /Kids [%d 0 R] /Count 1 >>"
        with pytest.raises(DocumentLimitError, match="cyclic"):
            load(raw_pdf([b"<< /Type /Catalog /Pages 2 0 R >>", node % 3, node % 2]))

    def test_a_page_tree_that_multiplies_is_refused(self) -> None:
        levels = [b"<< /Type /Pages /Count 1 /Kids [%s] >>" % (b"%d 0 R " % (level + 1) * 10) for level in range(2, 12)]
        leaf = b"<< /Type /Page /MediaBox [0 0 9 9] >>"
        with pytest.raises(DocumentLimitError):
            load(raw_pdf([b"<< /Type /Catalog /Pages 2 0 R >>", *levels, leaf]))

    @pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the system does not limit address space")
    def test_the_memory_limit_holds(self) -> None:
        with pytest.raises(DocumentLimitError, match=r"max_memory = 100,000,000"):
            load(page_pdf(deflated(70_000_000), b"/Filter /FlateDecode"), limits=LoadLimits(max_memory=100_000_000))

    def test_the_time_limit_holds(self) -> None:
        with pytest.raises(DocumentLimitError, match=r"max_seconds = 0\.001"):
            load(text_pdf(["Hello"]), limits=LoadLimits(max_seconds=0.001))

    def test_page_and_character_limits_hold(self) -> None:
        data = text_pdf(["12345", "12345", "12345"])
        with pytest.raises(DocumentLimitError, match=r"has 3 pages.*max_pages = 2"):
            load(data, limits=LoadLimits(max_pages=2))
        with pytest.raises(DocumentLimitError, match=r"max_characters = 9 .*2 of 3 pages"):
            load(data, limits=LoadLimits(max_characters=9))


class TestChildProcess:
    def test_a_script_without_a_main_guard_can_load_a_pdf(self, tmp_path: Path) -> None:
        (tmp_path / "a.pdf").write_bytes(text_pdf(["Hello"]))
        script = tmp_path / "script.py"
        script.write_text("from focusdoc.documents import load\nprint(load('a.pdf').text)\n", encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(
            [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.stdout == "Hello\n", done.stderr

    def test_the_child_imports_no_framework(self) -> None:
        heavy = "{'torch', 'transformers', 'numpy', 'pydantic', 'typer'}"
        code = f"import sys, focusdoc.documents.worker, focusdoc.documents.pdf; print({heavy} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "set()"

    def test_halves_of_surrogate_pairs_do_not_get_out(self) -> None:
        assert valid_text("a\ud83d\ude00b\ud800c") == "a😀b\ufffdc"


@pytest.mark.skipif(not REAL_PDF.exists(), reason=f"needs the real PDF {REAL_PDF}")
def test_a_real_form_is_read_page_by_page() -> None:
    document = load(REAL_PDF)
    assert len(document.pages) == 50
    assert len(document.text) > 250_000
    assert "Nonresident Alien Income Tax Return" in document.text
    for number, heading in ((1, "What’s New for 2007"), (2, "Who Must File\n\nFile"), (4, "Where To File\n\nIn")):
        assert document.page_at(document.text.index(heading)).number == number
    assert document.text.count(" of 48 Instructions for Form 1040NR") == 2  # the first of them
