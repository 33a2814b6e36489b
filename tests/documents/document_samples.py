"""PDFs made on the spot, and tiny tokenizers of the kinds that models use."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

#: Enough to train a few hundred merges on.
CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the other dogs look on.",
    "Ein Käse für 3,50 €.",
    "漢字 😀",
] * 20
SPECIAL_TOKENS = ["<s>", "<|im_start|>", "<|im_end|>"]


def raw_pdf(objects: list[bytes]) -> bytes:
    """A PDF file of these objects, numbered from 1; the first is the catalog."""
    body = b"%PDF-1.7\n"
    offsets = []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    trailer = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, len(body))
    return body + head + table + trailer


def page_pdf(content: bytes, filters: bytes = b"") -> bytes:
    """A PDF of one page with this content stream, as it stands in the file."""
    return raw_pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
            b"/Resources << /Font << /F1 5 0 R >> >> >>",
            b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(content), filters, content),
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        ]
    )


def fixed_pitch(content: bytes) -> bytes:
    """A page in a font with characters of half an em."""
    return raw_pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
            b"/Resources << /Font << /F1 5 0 R >> >> >>",
            b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Fixed /FirstChar 32 /LastChar 126 /Widths [%s] >>"
            % (b"500 " * 95),
        ]
    )


def deflated(num_bytes: int) -> bytes:
    """That many zeros, compressed about a thousand times."""
    compressor = zlib.compressobj(9)
    million = bytes(1_000_000)
    parts = [compressor.compress(million) for _ in range(num_bytes // len(million))]
    return b"".join(parts) + compressor.flush()


def text_pdf(
    texts: list[str],
    *,
    title: str | None = None,
    roman_pages: int = 0,
    password: str | None = None,
    algorithm: str = "RC4-128",
) -> bytes:
    """A PDF with a line of text on every page; an empty text makes a page without any, as a scan has."""
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = PdfWriter()
    names = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}
    font = DictionaryObject({NameObject(key): NameObject(value) for key, value in names.items()})
    fonts = DictionaryObject({NameObject("/F1"): font})
    for text in texts:
        page = writer.add_blank_page(width=612, height=792)
        if text:
            stream = DecodedStreamObject()
            stream.set_data(b"BT /F1 12 Tf 72 720 Td (%s) Tj ET" % text.encode("latin-1"))
            page[NameObject("/Contents")] = writer._add_object(stream)
            page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
    if title:
        writer.add_metadata({"/Title": title, "/Author": "A. Writer"})
    if roman_pages:
        writer.set_page_label(0, roman_pages - 1, style="/r")
        writer.set_page_label(roman_pages, len(texts) - 1, style="/D", start=1)
    if password is not None:
        writer.encrypt(password, algorithm=algorithm)
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def _byte_level(num_merges: int) -> Any:
    """As GPT-2, Llama 3, Qwen and SmolLM: bytes are the alphabet, so a character can be split between tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = len(SPECIAL_TOKENS) + len(alphabet) + num_merges
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=SPECIAL_TOKENS)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _metaspace() -> Any:
    """As Llama 2 and Mistral: a space mark is put in front, unknown characters fall back to bytes."""
    from tokenizers import Tokenizer, models, normalizers

    pieces = [*SPECIAL_TOKENS, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁thequickbrownfoxdg"]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    vocabulary["he"] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, [("h", "e")], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


def _words() -> Any:
    """As BERT's kind: white space is dropped and belongs to no token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(CORPUS, trainers.WordLevelTrainer(special_tokens=[*SPECIAL_TOKENS, "<unk>"]))
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "bytes": lambda: _byte_level(0),
    "byte_level": lambda: _byte_level(200),
    "metaspace": _metaspace,
    "words": _words,
}


@cache
def make_tokenizer(kind: str) -> Any:
    """A fast tokenizer of transformers, of one of the kinds above, for a context of 16 tokens."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=TOKENIZERS[kind](),
        bos_token="<s>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        model_max_length=16,
    )


def form_pdf(content: bytes, annotations: list[bytes], *, form: bytes = b"", catalog: bytes = b"") -> bytes:
    """A PDF of one page with this content and these annotations, each without its << >>, and a form.

    Args:
        form: entries of the form beside its fields, which are the annotations.
        catalog: further entries of the catalog.
    """
    numbers = b" ".join(b"%d 0 R" % number for number in range(6, 6 + len(annotations)))
    return raw_pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R /AcroForm << /Fields [%s] %s >> %s >>" % (numbers, form, catalog),
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Annots [%s] "
            b"/Resources << /Font << /F1 5 0 R >> >> >>" % numbers,
            b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
            *(b"<< /Type /Annot %s >>" % annotation for annotation in annotations),
        ]
    )


def attached_pdf(text: str, files: dict[str, bytes]) -> bytes:
    """A PDF with a page of this text, and these files in it."""
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(text_pdf([text]))))
    for name, content in files.items():
        writer.add_attachment(name, content)
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def unmapped_pdf(text: str, lost: str) -> bytes:
    """A PDF whose second page is in a font that numbers its glyphs and does not say which characters they are."""
    codes = "".join(f"{ord(character) - 29:04x}" for character in lost).encode()
    contents = [b"BT /F1 12 Tf 72 720 Td (%s) Tj ET" % text.encode(), b"BT /F2 12 Tf 72 720 Td <%s> Tj ET" % codes]
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R /Resources << /Font << %s >> >> >>"
    return raw_pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R 4 0 R] /Count 2 >>",
            page % (5, b"/F1 7 0 R"),
            page % (6, b"/F2 8 0 R"),
            *(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content) for content in contents),
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
            b"<< /Type /Font /Subtype /Type0 /BaseFont /ABC /Encoding /Identity-H /DescendantFonts [9 0 R] >>",
            b"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /ABC /CIDSystemInfo << /Registry (Adobe) "
            b"/Ordering (Identity) /Supplement 0 >> >>",
        ]
    )
