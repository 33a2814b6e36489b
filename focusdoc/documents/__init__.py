"""Documents: loading files with their pages, and splitting them into chunks of tokens."""

from focusdoc.documents.chunking import Chunk, TokenizedText, char_span, cut_chunks, tokenize
from focusdoc.documents.document import Document, Page
from focusdoc.documents.limits import LoadLimits
from focusdoc.documents.loaders import load, load_text

__all__ = [
    "Chunk",
    "Document",
    "LoadLimits",
    "Page",
    "TokenizedText",
    "char_span",
    "cut_chunks",
    "load",
    "load_text",
    "tokenize",
]
