"""Web pages, e-books, office files and e-mails: their text as a viewer shows it, under the limits of PDFs."""

from __future__ import annotations

import io
import sys
from datetime import date, datetime
from email.message import EmailMessage
from pathlib import Path
from zipfile import ZipFile

import pytest
from office_samples import docx, epub, open_document, open_slide, open_table, packed, pptx, table, words, xlsx
from openpyxl import Workbook

from focusdoc.documents import Document, LoadLimits, load
from focusdoc.errors import DocumentError, DocumentLimitError, EmptyDocumentError, EncryptedDocumentError

CITIES = [["City", "Code"], ["Lisbon", "4471"]]
REPEATED = '<table:table-cell table:number-columns-repeated="2">'
AS_LINES = "City | Code\nLisbon | 4471"


def page_texts(document: Document) -> list[str]:
    return [document.text[page.start : page.end].strip() for page in document.pages]


def labels(document: Document) -> list[str | None]:
    return [page.label for page in document.pages]


def html(body: str, head: str = "") -> bytes:
    return f"<!doctype html><html><head><title>A  Title</title>{head}</head><body>{body}</body></html>".encode()


class TestHtml:
    def test_tags_scripts_and_styles_are_no_text(self) -> None:
        document = load(
            html(
                "<h1>Head</h1><p>One &amp; <b>tw</b>o.<script>alert(1)</script><!-- no --> Three<br>Four&nbsp;five</p>"
                "<template>no</template><noscript>no</noscript><div hidden>no</div><pre>a\n  b</pre>",
                "<style>p {}</style><script>var x = '<p>no</p>'</script>",
            )
        )
        assert document.text == "Head\n\nOne & two. Three\nFour five\n\na\n  b"
        assert (document.metadata["format"], document.metadata["title"]) == ("html", "A Title")

    def test_rows_of_tables_are_lines(self) -> None:
        rows = "".join(f"<tr>{''.join(f'<td><p>{cell}</p></td>' for cell in row)}</tr>" for row in CITIES)
        assert load(html(f"<table>{rows}</table>")).text == AS_LINES

    def test_a_table_that_only_arranges_others_keeps_their_lines(self) -> None:
        inner = "<table><tr><td>City</td><td>Code</td></tr><tr><td>Lisbon</td><td>4471</td></tr></table>"
        assert load(html(f"<table><tr><td>Left<p>more</td><td>{inner}</td></tr></table>")).text == (
            f"Left\n\nmore\n\n{AS_LINES}"
        )

    def test_items_of_lists_have_their_numbers(self) -> None:
        text = load(html("<ol start=3><li>three<li>four</ol><ul><li>dash</ul>")).text
        assert text == "3. three\n4. four\n\n- dash"

    def test_an_empty_item_gives_its_marker_to_nobody(self) -> None:
        assert load(html("<ol><li>one<li></ol><p>After.")).text == "1. one\n\nAfter."
        assert load(html("<ul><li><li><p>two</ul>")).text == "- two"

    def test_a_number_that_is_none_is_no_reason_to_refuse_a_page(self) -> None:
        assert load(html('<ol start="x"><li>one</ol><br c="y">')).text == "1. one"

    def test_marks_of_footnotes_and_powers_are_no_digits_of_the_word_before(self) -> None:
        text = load(
            html('<p>4471<sup><a href="#n1">2</a></sup> and 7<a href="#n">*</a> and 10<sup>5</sup> H<sub>2</sub>O')
        ).text
        assert text == "4471[2] and 7[*] and 10^5 H2O"

    def test_headings_of_the_highest_level_that_comes_again_are_sections(self) -> None:
        document = load(html("<h1>Book</h1><p>Start.<h2>One</h2>First.<h3>sub</h3>deep<h2>Two</h2>Second."))
        assert labels(document) == ["Book", "One", "Two"]
        assert page_texts(document) == ["Book\n\nStart.", "One\n\nFirst.\n\nsub\n\ndeep", "Two\n\nSecond."]
        assert (document.unit, document.has_pages) == ("section", True)
        assert not load(html("<h1>One</h1>text")).has_pages

    @pytest.mark.parametrize("encoding", ["iso-8859-1", "windows-1252", "shift_jis", "utf-8", "utf-8-sig", "utf-16"])
    def test_the_encoding_is_the_one_it_names(self, encoding: str) -> None:
        text = "漢字" if encoding == "shift_jis" else "Käse"
        named = encoding.removesuffix("-sig")
        data = f"<!doctype html><meta charset='{named}'><p>{text}".encode(encoding)
        assert load(data).text == text

    def test_an_encoding_that_is_none_of_text_is_ignored(self) -> None:
        assert load(b"<!doctype html><meta charset=idna><p>.xn--99999999").text == ".xn--99999999"

    def test_a_long_title_is_cut(self) -> None:
        assert len(load(b"<!doctype html><title>" + b"long " * 1000 + b"</title>text").metadata["title"]) == 1000

    def test_an_encoding_that_is_wrong_is_an_error(self) -> None:
        with pytest.raises(DocumentError, match="not valid UTF-8"):
            load(b"<!doctype html><p>caf\xe9")

    def test_a_page_is_told_by_its_beginning_or_its_name(self, tmp_path: Path) -> None:
        assert load(b"\xef\xbb\xbf<?xml version='1.0'?><!-- x --><HTML><p>a").metadata["format"] == "html"
        (tmp_path / "part.htm").write_text("<p>a</p>")
        assert load(tmp_path / "part.htm").text == "a"
        (tmp_path / "page.md").write_text("<html> is the first tag")
        assert load(tmp_path / "page.md").text == "<html> is the first tag"

    def test_a_page_without_text_is_empty(self) -> None:
        with pytest.raises(EmptyDocumentError, match="no text"):
            load(html("<script>alert(1)</script>"))


class TestEpub:
    def test_chapters_come_in_the_order_of_reading(self) -> None:
        document = load(
            epub(
                {
                    "z.xhtml": "<h1>Loomings</h1><p>Call me&nbsp;Ishmael. caf&eacute;</p>",
                    "a.xhtml": "<h2>The <i>Bag</i></h2>I",
                }
            )
        )
        assert page_texts(document) == ["Loomings\n\nCall me Ishmael. café", "The Bag\n\nI"]
        assert labels(document) == ["Loomings", "The Bag"]
        assert document.unit == "chapter"
        assert {"format": "epub", "title": "A Title", "author": "A. Writer"}.items() <= document.metadata.items()

    def test_a_single_chapter_is_still_one(self) -> None:
        assert load(epub({"a.xhtml": "<p>text"})).has_pages

    def test_a_chapter_may_be_named_with_a_place_in_it(self) -> None:
        assert load(epub({"a.xhtml": "<p>text"}, fragment="#start")).text == "text"
        assert load(epub({"a#b.xhtml": "<p>text"})).text == "text"

    def test_a_protected_book_is_refused_but_hidden_fonts_are_none_of_our_business(self) -> None:
        with pytest.raises(EncryptedDocumentError, match="protected against copying"):
            load(epub({"a.xhtml": "<p>text"}, encryption="OEBPS/Text/a.xhtml"))
        assert load(epub({"a.xhtml": "<p>text"}, encryption="OEBPS/font.otf")).text == "text"

    def test_a_missing_chapter_is_not_skipped(self) -> None:
        data = epub({"a.xhtml": "<p>a", "b.xhtml": "<p>b"}).replace(b"Text/b.xhtml", b"Text/c.xhtml")
        with pytest.raises(DocumentError, match=r"chapter OEBPS/Text/b\.xhtml is missing"):
            load(data)


class TestWord:
    def test_headings_tables_notes_and_accepted_changes_are_kept(self) -> None:
        added, gone = "<w:r><w:t>Inserted.</w:t></w:r>", "<w:r><w:delText>Deleted.</w:delText></w:r>"
        change = f"<w:p><w:ins>{added}</w:ins><w:del>{gone}</w:del></w:p>"
        control = f"<w:sdt><w:sdtContent>{words('Filled in.')}</w:sdtContent></w:sdt>"
        note = '<w:footnoteReference w:id="2"/>'
        body = words("One", "Heading1") + words("Body", behind=note) + table(CITIES) + words("Two", "Heading1")
        document = load(docx(body + change + control, "The note."))
        assert labels(document) == ["One", "Two"]
        first, second = page_texts(document)
        assert first == f"One\n\nBody[1]\n\n{AS_LINES}"
        assert second.startswith("Two\n\nInserted.\n\nFilled in.\n\n1. The note.")
        assert {"format": "docx", "title": "A Title", "author": "A. Writer"}.items() <= document.metadata.items()

    def test_what_is_not_read_is_said(self) -> None:
        formula = '<m:oMath xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"/>'
        assert "equations" in str(load(docx(words("Text") + formula)).metadata["left_out"])
        assert load(docx(words("Text"))).metadata["left_out"] == []


class TestSlides:
    def test_slides_come_in_the_order_of_the_presentation(self) -> None:
        data = pptx([("Budget", ["First point", "Second"]), ("Plan", ["Third"])], "Say this.", {"East": 1.5, "West": 2})
        document = load(data)
        assert page_texts(document) == [
            "Budget\nFirst point\nSecond\n\nNotes: Say this.\n\nSales: East 1.5, West 2",
            "Plan\nThird",
        ]
        assert labels(document) == ["Budget", "Plan"]
        assert (document.unit, document.metadata["format"], document.metadata["title"]) == ("slide", "pptx", "A Title")


class TestSheets:
    def test_sheets_are_rows_of_what_a_viewer_shows(self) -> None:
        rows: list[list[object]] = [
            ["City", "Code", "When", "Share"],
            ["Lisbon", 4471, date(2026, 11, 29), 0.1 + 0.2],
            [],
            [None, "x", datetime(2026, 11, 29, 12, 30), "=A1+B1"],
        ]
        document = load(xlsx({"Cities": rows, "Empty": [], "More": [["end"]]}))
        assert page_texts(document) == [
            "City | Code | When | Share\nLisbon | 4471 | 2026-11-29 | 0.3\n | x | 2026-11-29 12:30:00 | =A1+B1".strip(),
            "",
            "end",
        ]
        assert labels(document) == ["Cities", "Empty", "More"]
        assert (document.unit, document.metadata["pages_without_text"]) == ("sheet", [2])


class TestOpenDocument:
    def test_a_text_has_sections_tables_and_notes(self) -> None:
        heading = '<text:h text:outline-level="1">{}</text:h>'
        body = "<text:note-body><text:p>The note.</text:p></text:note-body>"
        note = f"<text:note><text:note-citation>1</text:note-citation>{body}</text:note>"
        content = [
            "<text:tracked-changes><text:p>Deleted.</text:p></text:tracked-changes>",
            heading.format("One"),
            f'<text:p>Bo<text:span>dy</text:span>{note}, more<text:s text:c="2"/>text.</text:p>',
            open_table(CITIES),
            heading.format("Two"),
            "<text:p>End.</text:p>",
        ]
        document = load(open_document("text", "".join(content)))
        assert page_texts(document) == [f"One\n\nBody [1 The note.], more  text.\n\n{AS_LINES}", "Two\n\nEnd."]
        assert labels(document) == ["One", "Two"]
        assert {"format": "odt", "unit": "section", "title": "A Title"}.items() <= document.metadata.items()

    def test_slides_are_called_as_their_title_or_their_name(self) -> None:
        slides = open_slide("page1", "Point", title="Budget") + open_slide("page2", "Plan")
        document = load(open_document("presentation", slides))
        assert (page_texts(document), labels(document)) == (["Budget\n\nPoint", "Plan"], ["Budget", "page2"])
        assert (document.metadata["format"], document.unit) == ("odp", "slide")

    def test_cells_that_are_repeated_are_written_as_often_but_empty_ones_are_not(self) -> None:
        empty = '<table:table-row table:number-rows-repeated="1048000"><table:table-cell/></table:table-row>'
        twice = open_table([["a", "b"]], "Cities").replace("<table:table-cell><text:p>b", f"{REPEATED}<text:p>b")
        sheet = twice.replace("</table:table>", f"{empty}</table:table>")
        document = load(open_document("spreadsheet", sheet))
        assert (document.text, labels(document), document.unit) == ("a | b | b", ["Cities"], "sheet")

    def test_a_protected_one_is_refused(self) -> None:
        with pytest.raises(EncryptedDocumentError, match="password"):
            load(open_document("text", "", encrypted=True))


class TestEmail:
    @staticmethod
    def message() -> EmailMessage:
        message = EmailMessage()
        message["Received"] = "from a by b"
        message["From"], message["To"], message["Subject"] = "Ann Käse <ann@example.org>", "bob@example.org", "The cöde"
        message.set_content("Grüße,\nthe code is 4471.\n", cte="base64")
        return message

    def test_people_subject_and_decoded_text(self, tmp_path: Path) -> None:
        document = load(bytes(self.message()))
        assert document.text == (
            "Subject: The cöde\nFrom: Ann Käse <ann@example.org>\nTo: bob@example.org\n\nGrüße,\nthe code is 4471."
        )
        assert document.metadata["format"] == "email"
        (tmp_path / "a.eml").write_bytes(b"Subject: x\n\nbody\n")
        assert load(tmp_path / "a.eml").text == "Subject: x\n\nbody"

    @pytest.mark.parametrize("charset", ["iso-8859-8-i", "windows-874", "x-unknown", "idna"])
    def test_text_in_an_unknown_encoding_is_read(self, charset: str) -> None:
        head = f'Received: x\nFrom: a@b.example\nMIME-Version: 1.0\nContent-Type: text/plain; charset="{charset}"\n\n'
        assert load(head.encode() + b"Line one\rLine two\n").text.endswith("Line one\nLine two")

    def test_an_empty_text_beside_a_page_is_the_page(self) -> None:
        message = self.message()
        message.set_content("\n")
        message.add_alternative("<p>The gold is in the barn.</p>", subtype="html")
        assert load(bytes(message)).text.endswith("The gold is in the barn.")

    def test_html_alone_is_read_without_tags_and_attachments_are_named(self) -> None:
        message = self.message()
        message.set_content("<p>The <b>code</b></p>", subtype="html")
        message.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="bill.pdf")
        document = load(bytes(message))
        assert document.text.endswith("\n\nThe code")
        assert document.metadata["left_out"] == ["its attachments were not read: bill.pdf"]


class TestOtherFiles:
    @pytest.mark.parametrize("name", ["rows.csv", "data.json", "code.py", "page.tex"])
    def test_tables_of_text_data_and_code_stay_as_they_are_written(self, tmp_path: Path, name: str) -> None:
        text = 'a;"b"\n<html> = %PDF-1\n'
        (tmp_path / name).write_text(text)
        assert load(tmp_path / name).text == text

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), r"old Office.*\.docx"),
            (rb"{\rtf1\ansi Text}", r"RTF.*\.docx"),
            (packed({"a.txt": "text"}), "neither an e-book nor an office file"),
        ],
    )
    def test_other_programs_files_are_refused_with_what_to_do(self, data: bytes, message: str) -> None:
        with pytest.raises(DocumentError, match=message):
            load(data)

    @pytest.mark.parametrize("name", ["a.docx", "a.epub", "a.ods"])
    def test_a_file_that_is_not_what_it_is_called_is_damaged(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("text")
        with pytest.raises(DocumentError, match="not a ZIP archive"):
            load(tmp_path / name)

    @pytest.mark.parametrize("share", [0.5, 0.9])
    def test_a_truncated_archive_is_damaged(self, share: float) -> None:
        data = docx(words("text"))
        with pytest.raises(DocumentError, match="is a damaged file"):
            load(data[: int(share * len(data))])

    def test_a_missing_package_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "mammoth.py").write_text("raise ModuleNotFoundError('no', name='mammoth')", encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(DocumentError, match=r"needs the package mammoth.*pip install mammoth"):
            load(docx(words("text")))


class TestLimits:
    def test_an_archive_that_expands_too_far_is_refused(self) -> None:
        bomb = packed({"mimetype": "application/epub+zip", "bomb": bytes(3_000_000)})
        assert len(bomb) < 10_000
        with pytest.raises(DocumentLimitError, match=r"3,000,020 bytes unpacked.*max_unpacked = 1,000,000"):
            load(bomb, limits=LoadLimits(max_unpacked=1_000_000))

    @pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the system does not limit address space")
    def test_the_memory_limit_holds(self) -> None:
        with pytest.raises(DocumentLimitError, match=r"max_memory = 200,000,000"):
            load(epub({"a.xhtml": "<p>word</p>" * 9_000_000}), limits=LoadLimits(max_memory=200_000_000))

    def test_the_time_limit_holds(self) -> None:
        with pytest.raises(DocumentLimitError, match=r"max_seconds = 0\.001"):
            load(html("text"), limits=LoadLimits(max_seconds=0.001))

    def test_chapters_and_characters_are_counted(self) -> None:
        book = epub({"a.xhtml": "<p>12345", "b.xhtml": "<p>12345"})
        with pytest.raises(DocumentLimitError, match=r"has 2 chapters, more than max_pages = 1"):
            load(book, limits=LoadLimits(max_pages=1))
        with pytest.raises(DocumentLimitError, match="max_characters = 9"):
            load(book, limits=LoadLimits(max_characters=9))

    @pytest.mark.parametrize("kind", ["epub", "odt", "docx"])
    def test_no_other_file_is_put_in(self, tmp_path: Path, kind: str) -> None:
        secret = tmp_path / "secret.txt"
        secret.write_text("the secret")
        data = _with_types(_with_entity(kind, "&file;"), f'<!DOCTYPE x [<!ENTITY file SYSTEM "{secret.as_uri()}">]>')
        text = load(data).text
        assert "text" in text
        assert "secret" not in text

    @pytest.mark.parametrize("kind", ["odt", "docx"])
    def test_entities_that_multiply_are_refused(self, kind: str) -> None:
        levels = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
        with pytest.raises(DocumentError, match="amplification"):
            load(_with_types(_with_entity(kind, "&e11;"), f'<!DOCTYPE x [<!ENTITY e0 "boom">{levels}]>'))

    def test_a_page_nested_without_end_is_refused_and_not_cut(self) -> None:
        assert load(html("<div>" * 1000 + "end")).text == "end"
        with pytest.raises(DocumentLimitError, match="nested too deeply"):
            load(html("<div>" * 100_000 + "end"))

    def test_nothing_is_fetched(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "sitecustomize.py").write_text(
            "import socket\ndef _refuse(*a, **k): raise SystemExit('network')\nsocket.socket.connect = _refuse\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        linked = '<link rel="stylesheet" href="http://127.0.0.1:9/a.css"><img src="http://127.0.0.1:9/a.png">'
        assert load(html(f"text{linked}", linked)).text == "text"
        types = '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd">'
        assert load(_with_types(open_document("text", "<text:p>text</text:p>"), types)).text == "text"


def _with_entity(kind: str, entity: str) -> bytes:
    if kind == "epub":
        return epub({"a.xhtml": f"<p>text{entity}</p>"})
    if kind == "odt":
        return open_document("text", f"<text:p>text{entity}</text:p>")
    return docx(words(f"text{entity}"))


def _with_types(data: bytes, types: str) -> bytes:
    """The archive with a document type in front of every part that holds text."""
    archive = ZipFile(io.BytesIO(data))
    parts = {name: archive.read(name).decode() for name in archive.namelist()}
    for name, text in parts.items():
        if name.endswith((".xhtml", "content.xml", "document.xml")):
            parts[name] = types + text.rpartition("<!DOCTYPE html>")[2]
    return packed(dict(parts))


def test_whole_numbers_are_percent_where_the_cell_is() -> None:
    book = Workbook()
    for row, value in enumerate([1, 0.5, 0, 2, 7, True], start=1):
        book.active.cell(row, 1, value).number_format = "0%" if row < 5 else '0" % of all"' if row == 5 else "General"
    file = io.BytesIO()
    book.save(file)
    assert load(file.getvalue()).text.split() == ["100%", "50%", "0%", "200%", "7", "True"]


def test_a_page_without_elements_is_empty_and_not_damaged() -> None:
    for page in (b"<!doctype html><!-- nothing -->", b"<?xml version='1.0'?><!doctype html>"):
        with pytest.raises(EmptyDocumentError):
            load(page, name="page.html")


def test_a_page_in_ascii_that_declares_utf16_is_read() -> None:
    page = b"<html><head><meta charset=utf-16le></head><body>The gold is in the barn.</body></html>"
    assert load(page).text == "The gold is in the barn."
