"""E-books, office files and e-mails made on the spot, part by part."""

from __future__ import annotations

import io
from zipfile import ZIP_DEFLATED, ZipFile

_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_A, _P = (f"http://schemas.openxmlformats.org/{kind}ml/2006/main" for kind in ("drawing", "presentation"))
_C = "http://schemas.openxmlformats.org/drawingml/2006/chart"
_ODF = "urn:oasis:names:tc:opendocument:xmlns"
_DC = "http://purl.org/dc/elements/1.1/"


def packed(parts: dict[str, str | bytes]) -> bytes:
    """A ZIP archive of these files."""
    file = io.BytesIO()
    with ZipFile(file, "w", ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()


def _relations(*relations: tuple[str, str, str]) -> str:
    """The relations of an Office file's part: id, kind and target of each."""
    entries = "".join(
        f'<Relationship Id="{key}" Type="{_OFFICE}/{kind}" Target="{target}"/>' for key, kind, target in relations
    )
    return f'<Relationships xmlns="{_PACKAGE}/relationships">{entries}</Relationships>'


def _office(main: str, kind: str, parts: dict[str, str | bytes]) -> bytes:
    """An Office file whose main part has this name and kind."""
    content_type = f"application/vnd.openxmlformats-officedocument.{kind}.main+xml"
    types = (
        f'<Types xmlns="{_PACKAGE}/content-types"><Default Extension="xml" ContentType="application/xml"/>'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/{main}" ContentType="{content_type}"/></Types>'
    )
    core = f'<c xmlns:dc="{_DC}"><dc:title>A Title</dc:title><dc:creator>A. Writer</dc:creator></c>'
    relations = _relations(("r1", "officeDocument", main), ("r2", "core-properties", "docProps/core.xml"))
    return packed({"[Content_Types].xml": types, "_rels/.rels": relations, "docProps/core.xml": core, **parts})


def docx(body: str = "", footnote: str = "") -> bytes:
    """A Word file with this body."""
    parts: dict[str, str | bytes] = {
        "word/document.xml": f'<w:document xmlns:w="{_W}"><w:body>{body}</w:body></w:document>',
        "word/_rels/document.xml.rels": _relations(("r1", "styles", "styles.xml"), ("r2", "footnotes", "notes.xml")),
        "word/styles.xml": f'<w:styles xmlns:w="{_W}"><w:style w:type="paragraph" w:styleId="Heading1">'
        '<w:name w:val="heading 1"/></w:style></w:styles>',
        "word/notes.xml": f'<w:footnotes xmlns:w="{_W}"><w:footnote w:id="2">{words(footnote)}</w:footnote>'
        "</w:footnotes>",
    }
    return _office("word/document.xml", "wordprocessingml.document", parts)


def words(text: str, style: str = "", *, behind: str = "") -> str:
    """A paragraph of a Word file."""
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f'<w:p>{properties}<w:r><w:t xml:space="preserve">{text}</w:t>{behind}</w:r></w:p>'


def table(rows: list[list[str]]) -> str:
    """A table of a Word file."""
    cells = ("".join(f"<w:tc>{words(cell)}</w:tc>" for cell in row) for row in rows)
    return f"<w:tbl>{''.join(f'<w:tr>{row}</w:tr>' for row in cells)}</w:tbl>"


def pptx(slides: list[tuple[str, list[str]]], notes: str = "", chart: dict[str, float] | None = None) -> bytes:
    """A presentation of slides with a title and paragraphs; the first one has notes and a chart.

    The files of the slides are numbered backwards: only the presentation itself tells their order.
    """
    count = len(slides)
    numbers = [count - index for index in range(count)]
    order = "".join(f'<p:sldId id="{256 + number}" r:id="s{number}"/>' for number in numbers)
    parts: dict[str, str | bytes] = {
        "ppt/presentation.xml": f'<p:presentation xmlns:p="{_P}" xmlns:r="{_OFFICE}"><p:sldIdLst>{order}</p:sldIdLst>'
        "</p:presentation>",
        "ppt/_rels/presentation.xml.rels": _relations(
            *((f"s{number}", "slide", f"slides/slide{number}.xml") for number in numbers)
        ),
    }
    for number, (title, paragraphs) in zip(numbers, slides, strict=True):
        shapes = _shape([title], "title") + _shape(paragraphs) + _shape([str(number)], "sldNum")
        parts[f"ppt/slides/slide{number}.xml"] = _slide(shapes)
    beside = []
    if notes:
        parts["ppt/notesSlides/notes1.xml"] = _slide(_shape([notes], "body") + _shape(["1"], "sldNum"))
        beside.append(("n", "notesSlide", "../notesSlides/notes1.xml"))
    if chart:
        points = [
            "".join(f"<c:pt><c:v>{value}</c:v></c:pt>" for value in values) for values in (chart.keys(), chart.values())
        ]
        series = f"<c:ser><c:tx><c:v>Sales</c:v></c:tx><c:cat>{points[0]}</c:cat><c:val>{points[1]}</c:val></c:ser>"
        parts["ppt/charts/chart1.xml"] = f'<c:chartSpace xmlns:c="{_C}">{series}</c:chartSpace>'
        beside.append(("c", "chart", "../charts/chart1.xml"))
    parts[f"ppt/slides/_rels/slide{numbers[0]}.xml.rels"] = _relations(*beside)
    return _office("ppt/presentation.xml", "presentationml.presentation", parts)


def _slide(shapes: str) -> str:
    return f'<p:sld xmlns:p="{_P}" xmlns:a="{_A}"><p:cSld><p:spTree>{shapes}</p:spTree></p:cSld></p:sld>'


def _shape(paragraphs: list[str], kind: str = "") -> str:
    place = f'<p:nvSpPr><p:nvPr><p:ph type="{kind}"/></p:nvPr></p:nvSpPr>' if kind else ""
    texts = "".join(f"<a:p><a:r><a:t>{text}</a:t></a:r></a:p>" for text in paragraphs)
    return f"<p:sp>{place}<p:txBody>{texts}</p:txBody></p:sp>"


def xlsx(sheets: dict[str, list[list[object]]]) -> bytes:
    """A workbook; formulas have no values in it."""
    from openpyxl import Workbook

    book = Workbook()
    book.remove(book.worksheets[0])
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def epub(chapters: dict[str, str], *, fragment: str = "", encryption: str = "") -> bytes:
    """A book with these chapters: the names of their files, in the order in which they are read, and their bodies."""
    files = {f"Text/{name}": _page(body) for name, body in chapters.items()}
    items = "".join(
        f'<item id="i{number}" href="Text/{name}{fragment}"/>' for number, name in enumerate(sorted(chapters))
    )
    spine = "".join(f'<itemref idref="i{sorted(chapters).index(name)}"/>' for name in chapters)
    about = f'<metadata xmlns:dc="{_DC}"><dc:title>A Title</dc:title><dc:creator>A. Writer</dc:creator></metadata>'
    package = f'<package xmlns="http://www.idpf.org/2007/opf">{about}<manifest>{items}</manifest><spine>{spine}</spine></package>'
    container = '<container><rootfiles><rootfile full-path="OEBPS/content.opf"/></rootfiles></container>'
    parts: dict[str, str | bytes] = {"mimetype": "application/epub+zip", "META-INF/container.xml": container}
    parts |= {"OEBPS/content.opf": package} | {f"OEBPS/{name}": page for name, page in files.items()}
    if encryption:
        reference = f'<encryption><CipherReference URI="{encryption}"/></encryption>'
        parts["META-INF/encryption.xml"] = reference
    return packed(parts)


def _page(body: str) -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?><!DOCTYPE html><html xmlns="http://www.w3.org/1999/xhtml"><head>'
        f"<title/><style>p {{ color: red }}</style></head><body>{body}</body></html>"
    )


def open_document(kind: str, body: str, *, encrypted: bool = False) -> bytes:
    """An OpenDocument file: "text", "presentation" or "spreadsheet"."""
    spaces = " ".join(
        f'xmlns:{name}="{_ODF}:{name}:1.0"' for name in ("office", "text", "table", "draw", "presentation")
    )
    body = f"<office:body><office:{kind}>{body}</office:{kind}></office:body>"
    content = f"<office:document-content {spaces}>{body}</office:document-content>"
    about = f'<m xmlns:dc="{_DC}"><dc:title>A Title</dc:title><dc:creator>A. Writer</dc:creator></m>'
    manifest = "<manifest><encryption-data/></manifest>" if encrypted else "<manifest/>"
    return packed(
        {
            "mimetype": f"application/vnd.oasis.opendocument.{kind}",
            "content.xml": content,
            "meta.xml": about,
            "META-INF/manifest.xml": manifest,
        }
    )


def open_table(rows: list[list[str]], name: str = "") -> str:
    """A table of an OpenDocument file."""
    lines = ("".join(f"<table:table-cell><text:p>{cell}</text:p></table:table-cell>" for cell in row) for row in rows)
    filled = "".join(f"<table:table-row>{line}</table:table-row>" for line in lines)
    return f'<table:table table:name="{name}">{filled}</table:table>'


def open_slide(name: str, *texts: str, title: str = "") -> str:
    """A slide of an OpenDocument file."""
    box = "<draw:frame{}><draw:text-box><text:p>{}</text:p></draw:text-box></draw:frame>"
    frames = [box.format(' presentation:class="title"', title)] * bool(title) + [box.format("", text) for text in texts]
    return f'<draw:page draw:name="{name}">{"".join(frames)}</draw:page>'
