"""PDFs: what viewers show beside a page's content is read where it stands, or said to be left out."""

from __future__ import annotations

import pytest
from document_samples import attached_pdf, form_pdf, page_pdf, text_pdf, unmapped_pdf

from focusdoc.documents import load
from focusdoc.errors import EmptyDocumentError

LABELS = b"BT /F1 12 Tf 72 700 Td (Name:) Tj 0 -40 Td (City) Tj 0 -60 Td (Married) Tj 120 0 Td (Remarks) Tj ET"


def field(kind: bytes, rest: bytes, rect: bytes = b"200 400 300 414") -> bytes:
    return b"/Subtype /Widget /Rect [%s] /FT /%s %s" % (rect, kind, rest)


class TestFields:
    def test_values_stand_behind_their_labels(self) -> None:
        fields = [
            field(b"Tx", b"/T (f1) /V (Ann Smith)", b"120 696 300 714"),
            field(b"Tx", b"/T (f2) /V (Lisbon)", b"72 640 200 656"),  # right below its label
            field(b"Btn", b"/T (f3) /AS /On /V /On", b"120 598 132 610"),
        ]
        document = load(form_pdf(LABELS, fields))
        assert document.text == "Name: Ann Smith\nCity Lisbon\nMarried [x] Remarks"
        assert document.metadata["left_out"] == []

    def test_a_value_without_a_label_comes_last_with_its_name(self) -> None:
        fields = [field(b"Tx", b"/T (f1) /TU (Code of the city) /V (4471)"), field(b"Tx", b"/T (f2) /V (77)")]
        assert load(form_pdf(LABELS, fields)).text.splitlines()[-2:] == ["Code of the city: 4471", "f2: 77"]

    def test_a_page_of_field_values_alone_is_no_scan(self) -> None:
        document = load(form_pdf(b"", [field(b"Tx", b"/T (Code) /V (4471)")]))
        assert document.text == "Code: 4471"
        assert document.metadata["pages_without_text"] == []

    @pytest.mark.parametrize(
        ("kind", "rest", "shown"),
        [
            (b"Ch", b"/V (PT) /Opt [[(PT) (Portugal)] [(NO) (Norway)]]", "Portugal"),
            (b"Ch", b"/V [(a) (b)] /Opt [(a) (b) (c)]", "a, b"),
            (b"Tx", b"/V <FEFF00C400620063> ", "Äbc"),
            (b"Tx", b"/V (two\nlines)", "two lines"),
            (b"Tx", b"", ""),
            (b"Tx", b"/V (secret) /Ff 8192", ""),
            (b"Tx", b"/V (hidden) /F 2", ""),
            (b"Btn", b"/AS /Off", ""),
            (b"Btn", b"/AS /On /Ff 65536", ""),
        ],
    )
    def test_what_a_field_shows(self, kind: bytes, rest: bytes, shown: str) -> None:
        data = form_pdf(b"BT /F1 12 Tf 72 700 Td (Text) Tj ET", [field(kind, b"/T (f) " + rest)])
        assert load(data).text == ("Text\nf: " + shown if shown else "Text")

    def test_what_a_field_is_may_stand_in_its_parent(self) -> None:
        fields = [b"/Subtype /Widget /Rect [0 0 9 9] /Parent 7 0 R", b"/FT /Tx /T (Code) /V (4471)"]
        assert load(form_pdf(b"", fields)).text == "Code: 4471"

    def test_what_a_field_is_may_stand_elsewhere_in_the_file(self) -> None:
        data = form_pdf(b"", [field(b"Tx", b"/T (Code) /V 7 0 R /Ff 8 0 R")])
        objects = b"7 0 obj (4471) endobj 8 0 obj 0 endobj 9 0 obj [6 0 R] endobj\n"
        head, table = data.replace(b"/Annots [6 0 R]", b"/Annots 9 0 R").split(b"xref\n", 1)
        assert load(head + objects + b"xref\n" + table.replace(b"startxref", b"startxref 0 %")).text == "Code: 4471"

    @pytest.mark.parametrize("odd", [b"null", b"3", b"(text)", b"[]"])
    def test_annotations_that_are_none_are_skipped(self, odd: bytes) -> None:
        data = form_pdf(b"", [field(b"Tx", b"/T (Code) /V (4471)")])
        odd_pdf = data.replace(b"/Annots [6 0 R]", b"/Annots [6 0 R " + odd + b"]").replace(
            b"startxref", b"startxref 0 %"
        )
        assert load(odd_pdf).text == "Code: 4471"

    def test_values_keep_to_the_columns_of_their_page(self) -> None:
        lines = [
            (x, 700 - 12 * row, f"{name}{row} some words of prose")
            for row in range(20)
            for x, name in ((54, "A"), (320, "B"))
        ]
        content = b"BT /F1 10 Tf " + b"".join(
            b"1 0 0 1 %d %d Tm (%s) Tj " % (x, y, text.encode()) for x, y, text in lines
        )
        data = form_pdf(content + b"ET", [field(b"Tx", b"/V (4471)", b"200 578 230 590")])
        texts = load(data).text.splitlines()
        assert texts[10] == "A10 some words of prose 4471"
        assert texts[20:22] == ["", "B0 some words of prose"]

    @pytest.mark.parametrize(
        "odd", [b"/Rect [1 2]", b"/Rect (x)", b"/Parent 6 0 R /Rect [0 0 9 9]", b"/Rect [0 0 9 9] /Opt 3 /V 5 /F (x)"]
    )
    def test_a_damaged_field_is_no_reason_to_refuse_the_rest(self, odd: bytes) -> None:
        text = load(form_pdf(b"BT /F1 12 Tf 72 700 Td (Text) Tj ET", [b"/Subtype /Widget /FT /Tx " + odd])).text
        assert text.startswith("Text")


class TestNotes:
    def test_text_on_the_page_stands_there_and_notes_in_brackets(self) -> None:
        notes = [
            b"/Subtype /FreeText /Rect [120 696 300 714] /Contents (Ann Smith)",
            b"/Subtype /Text /Rect [120 656 140 676] /Contents (check this)",
            b"/Subtype /Link /Rect [72 690 300 714] /Contents (a link)",
            b"/Subtype /Popup /Rect [72 690 300 714] /Contents (a window)",
        ]
        assert load(form_pdf(LABELS, notes)).text == "Name: Ann Smith\nCity [check this]\nMarried Remarks"


class TestLeftOut:
    def test_files_in_a_pdf_are_named(self) -> None:
        document = load(attached_pdf("The cover", {"bill.xlsx": b"...", "letter.pdf": b"..."}))
        assert document.text == "The cover"
        assert "were not read: bill.xlsx, letter.pdf" in document.left_out[0]
        with pytest.raises(EmptyDocumentError, match=r"no text of its own.*bill\.xlsx"):
            load(attached_pdf("", {"bill.xlsx": b"..."}))

    def test_a_file_pinned_to_a_page_is_named(self) -> None:
        pinned = b"/Subtype /FileAttachment /Rect [0 0 9 9] /FS << /Type /Filespec /UF (bill.xlsx) >>"
        assert "bill.xlsx" in load(form_pdf(LABELS, [pinned])).left_out[0]

    def test_an_xfa_form_that_shows_a_placeholder_is_named_and_one_with_fields_is_read(self) -> None:
        content = b"BT /F1 12 Tf 72 700 Td (Please wait...) Tj ET"
        assert "XFA form" in load(form_pdf(content, [], form=b"/XFA [(template) 5 0 R]")).left_out[0]
        fields = [field(b"Tx", b"/T (Code) /V (4471)")]
        rendered = form_pdf(content, fields, form=b"/XFA []", catalog=b"/NeedsRendering true")
        assert "XFA form" in load(rendered).left_out[0]
        assert load(form_pdf(content, fields, form=b"/XFA []")).left_out == ()

    def test_pages_of_unknown_characters_are_named(self) -> None:
        (sentence,) = load(unmapped_pdf("Plain text", "no unicode")).left_out
        assert "characters of page 2 could not be mapped to Unicode" in sentence

    @pytest.mark.parametrize("lost", ["(cid:17)(cid:9)", "\\001\\002\\003\\004\\005"])
    def test_glyph_numbers_and_controls_are_unknown_characters(self, lost: str) -> None:
        escaped = lost.replace("(", r"\(").replace(")", r"\)") if "cid" in lost else lost
        (sentence,) = load(page_pdf(b"BT /F1 12 Tf 72 700 Td (%s ab) Tj ET" % escaped.encode())).left_out
        assert "characters of page 1" in sentence

    def test_a_few_bullets_are_none_of_them(self) -> None:
        assert load(text_pdf(["\x7f " + "words of a list " * 4])).left_out == ()

    def test_pages_without_text_are_left_out(self) -> None:
        assert load(text_pdf(["Words", "", ""])).left_out == (
            "2 of 3 pages have no text, so nothing can be found there (pages 2-3)",
        )
