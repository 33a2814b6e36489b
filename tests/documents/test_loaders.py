"""What load takes for a path, for a text and for bytes, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from document_samples import text_pdf
from hypothesis import given
from hypothesis import strategies as st

from focusdoc.documents import Document, LoadLimits, load, load_text
from focusdoc.errors import ConfigError, DocumentError, DocumentLimitError, EmptyDocumentError


def test_a_file_is_loaded_by_path_and_by_string(tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_text("# Title\n\nSome *text*.\n", encoding="utf-8")
    document = load(path)
    assert document == load(str(path))
    assert document.text == "# Title\n\nSome *text*.\n"
    assert document.metadata == {"source": str(path), "name": "notes.md", "format": "markdown", "num_pages": 1}
    assert load(path, name="My notes").name == "My notes"


def test_the_name_of_a_file_is_found_without_an_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("README").write_text("read me", encoding="utf-8")
    assert load("README").text == "read me"


@pytest.mark.parametrize("text", ["two\nlines of a/b.txt", "\nold Mac\rline ends", "x" * 5000, "word " * 500])
def test_a_string_of_several_lines_or_a_long_one_is_the_text(text: str) -> None:
    assert load(text) == load_text(text)
    assert load(text).text == text


@pytest.mark.parametrize(
    "text",
    [
        *("report", "/home/me/My Notes/minutes", "~/minutes", "Call me Ishmael.", "book.pdf\n", "no\0path.txt"),
        *("either/or is a book", "C:\\My Notes\\minutes", "word " * 100 + "notes.txt", "x" * 1024),
    ],
)
def test_a_short_line_is_a_path_and_never_a_text(text: str) -> None:
    with pytest.raises(DocumentError, match=r"load_text"):
        load(text)
    assert load_text(text).text == text


def test_a_text_of_its_own_has_a_name_and_limits() -> None:
    assert load_text("report", name="A word").name == "A word"
    with pytest.raises(DocumentLimitError, match="max_characters = 5"):
        load_text("report", limits=LoadLimits(max_characters=5))
    with pytest.raises(EmptyDocumentError):
        load_text(" ")


def test_the_home_folder_has_its_short_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "notes.txt").write_text("at home", encoding="utf-8")
    assert load("~/notes.txt") == load(Path("~/notes.txt"))
    assert load("~/notes.txt").metadata["source"] == str(tmp_path / "notes.txt")


@given(st.text(min_size=1).filter(lambda text: text.strip()))
def test_a_text_comes_back_as_it_was(text: str) -> None:
    document = Document.from_text(text)
    assert document.text == text
    assert "".join(text[page.start : page.end] for page in document.pages) == text


@given(st.text(alphabet=st.characters(exclude_categories=["C"]), min_size=1).filter(str.strip))
def test_utf8_bytes_come_back_as_text(text: str) -> None:
    assert load(text.encode("utf-8")).text == text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_name_the_encoding(encoding: str) -> None:
    assert load("Käse 😀".encode(encoding)).text == "Käse 😀"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["Käse 😀 und Brot", "門の暗号は四二。\n次の行。\n", "x = 1\r\n"])
def test_utf16_is_told_without_a_byte_order_mark(text: str, encoding: str) -> None:
    assert load(text.encode(encoding)).text == text.replace("\r\n", "\n")


@pytest.mark.parametrize(
    "data", [bytes(range(0, 64)) * 4, b"\x01\x00\x02\x00" * 40, b"\x7e\xff\x7f\x00" * 9, b"ab\0\0" * 9]
)
def test_bytes_with_nuls_are_no_utf16(data: bytes) -> None:
    with pytest.raises(DocumentError, match="looks binary"):
        load(data)


def test_line_ends_become_newlines_in_files_but_not_in_strings() -> None:
    assert load(b"a\r\nb\rc\n").text == "a\nb\nc\n"
    assert load("a\r\nb\rc\n").text == "a\r\nb\rc\n"


def test_form_feeds_make_pages() -> None:
    document = load(b"page one\fpage two\f")
    assert [(page.start, page.end) for page in document.pages] == [(0, 9), (9, 18)]
    assert document.has_pages


@pytest.mark.parametrize("name", ["missing.txt", "my book.pdf", "folder/missing", "A.MD", "C:/no.docx"])
def test_a_missing_file_is_named(name: str) -> None:
    with pytest.raises(DocumentError, match=r"no file .*load_text") as caught:
        load(name)
    assert name in str(caught.value)


def test_a_missing_path_is_never_taken_for_a_text() -> None:
    with pytest.raises(DocumentError, match="no file 'Call me Ishmael'"):
        load(Path("Call me Ishmael"))


def test_a_web_address_is_not_a_file() -> None:
    with pytest.raises(DocumentError, match="web address"):
        load("https://example.org/book")


def test_a_directory_is_refused_as_one(tmp_path: Path) -> None:
    for source in (tmp_path, str(tmp_path)):
        with pytest.raises(DocumentError, match="is a directory"):
            load(source)


@pytest.mark.parametrize("data", [b"", b"  \n\t\r\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "empty.txt"
    path.write_bytes(data)
    with pytest.raises(EmptyDocumentError, match=r"empty\.txt"):
        load(path)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_text_is_refused(text: str) -> None:
    with pytest.raises(EmptyDocumentError):
        load(text)


@pytest.mark.parametrize(
    "data", [b"text\0text", bytes(range(256)) * 10, b"abc\x01\x02\x03", b"\xff\xd8\xff\xe0\x00JFIF"]
)
def test_a_binary_file_called_txt_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "picture.txt"
    path.write_bytes(data)
    with pytest.raises(DocumentError, match=r"picture\.txt.*looks binary"):
        load(path)


def test_terminal_colours_do_not_make_a_log_binary() -> None:
    assert load(b"\x1b[31mred\x1b[0m and a bell\x07").text.startswith("\x1b[31m")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_invalid_utf8_is_refused_with_its_place_in_the_file(mark: bytes) -> None:
    data = mark + b"caf\xe9 au lait"
    place = data.index(b"\xe9")
    with pytest.raises(DocumentError, match=f"0xE9 at byte {place}.*convert it to UTF-8"):
        load(data)


@pytest.mark.parametrize("data", ["Käse".encode()[:2], "ab".encode("utf-16")[:-1]])
def test_a_file_cut_inside_a_character_is_refused(data: bytes) -> None:
    with pytest.raises(DocumentError, match="not valid UTF"):
        load(data)


@pytest.mark.parametrize("source", [None, 3, ["a"]])
def test_other_types_are_refused_by_name(source: object) -> None:
    with pytest.raises(DocumentError, match=type(source).__name__):
        load(source)  # type: ignore[arg-type]


def test_pdfs_are_told_by_their_header_not_their_name(tmp_path: Path) -> None:
    pdf = text_pdf(["Hello"])
    assert load(b"some mail header\n" + pdf).metadata["format"] == "pdf"
    path = tmp_path / "really.txt"
    path.write_bytes(pdf)
    assert load(path).metadata["format"] == "pdf"
    path.write_bytes(b"A PDF file starts with %PDF-1.7.")
    assert load(path).metadata["format"] == "text"
    path = tmp_path / "not.pdf"
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(DocumentError, match="no PDF header"):
        load(path)


def test_limits_refuse_and_never_cut(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_bytes(b"x" * 101)
    with pytest.raises(DocumentLimitError, match="max_bytes = 100"):
        load(path, limits=LoadLimits(max_bytes=100))
    with pytest.raises(DocumentLimitError, match="max_characters = 100"):
        load(path, limits=LoadLimits(max_characters=100))
    assert len(load(path, limits=LoadLimits(max_bytes=101, max_characters=101)).text) == 101


@pytest.mark.parametrize(
    "field", ["max_bytes", "max_pages", "max_characters", "max_unpacked", "max_seconds", "max_memory"]
)
@pytest.mark.parametrize("value", [0, -1, None, True, "1", float("nan"), float("inf")])
def test_limits_must_be_numbers_above_zero(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        LoadLimits(**{field: value})  # type: ignore[arg-type]


def test_importing_documents_is_cheap() -> None:
    heavy = "{'torch', 'transformers', 'pypdf', 'gguf'}"
    code = f"import sys, focusdoc.documents; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_many_comments_are_searched_in_no_time() -> None:
    code = "from focusdoc.documents.kinds import kind_of; print(kind_of(b'<!---->' * 500 + b'hello', '', 'x'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "text"
    assert load(b"<!-- a --> <!-- b --><html><body>Hello</body></html>").metadata["format"] == "html"


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("mail.eml", b"From: a@b.example\n\nHello\n", "email"),
        ("part.html", b"<p>Hello</p>", "html"),
        ("about.txt", b"<html>is how a page begins", "text"),
        ("notes.md", b"It quotes %PDF-1.7 and goes on.", "markdown"),
    ],
)
def test_bytes_with_a_name_are_what_a_file_of_that_name_is(tmp_path: Path, name: str, data: bytes, kind: str) -> None:
    (tmp_path / name).write_bytes(data)
    named, file = load(data, name=name), load(tmp_path / name)
    assert (named.metadata["format"], file.metadata["format"]) == (kind, kind)
    assert named.text == file.text


@pytest.mark.parametrize("at", [100, 101])
@pytest.mark.parametrize("text", [b"The keeper counts ships. ", b"1234,5678;"])
def test_a_nul_in_a_text_makes_it_no_utf16(at: int, text: bytes) -> None:
    data = bytearray(text * 100)
    data[at] = 0
    with pytest.raises(DocumentError, match="looks binary"):
        load(bytes(data))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_chinese_in_utf16_without_a_mark_is_read(encoding: str) -> None:
    text = "".join(f"图书馆在河边，门朝北。\n管理员数了{number}本书。\n" for number in range(9)) + "客人带着一只猫。"
    assert load(text.encode(encoding)).text == text.strip()
