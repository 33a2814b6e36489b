"""FocusReader: PDFs, texts, e-books, office files and others as LlamaIndex documents, one per page."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llama_index.core.readers.base import BaseReader
from llama_index.core.schema import Document

from focusdoc.documents import load
from focusdoc.documents.limits import LoadLimits


class FocusReader(BaseReader):
    """Loads files of all kinds that `focusdoc.load` supports; all but texts are parsed in a limited child process.

    Also a file extractor: ``SimpleDirectoryReader(folder, file_extractor={".pdf": FocusReader()})``.

    Args:
        password: of encrypted PDFs.
        limits: by default focusdoc's ``LoadLimits()``.
    """

    def __init__(self, password: str | None = None, limits: LoadLimits | None = None) -> None:
        self._password = password
        self._limits = limits

    def lazy_load_data(self, file: str | Path, extra_info: dict[str, Any] | None = None) -> Iterable[Document]:
        """One document for each page with text.

        Metadata: file_path, file_name, page_label (the printed page number, or the title of a chapter, slide, sheet or
        section), page (from 1), total_pages, left_out (content that a viewer shows but the text lacks, if any), and
        `extra_info`.

        Raises:
            focusdoc.errors.DocumentError: the file is missing, damaged, encrypted, empty or too large.
        """
        path = Path(file)
        document = load(path, password=self._password, limits=self._limits)
        left_out = {"left_out": "; ".join(document.left_out)} if document.left_out else {}
        for page in document.pages:
            text = document.text[page.start : page.end]
            if not text.strip():
                continue
            metadata = {
                "file_path": str(path),
                "file_name": path.name,
                "page_label": page.label or str(page.number),
                "page": page.number,
                "total_pages": len(document.pages),
                **left_out,
                **(extra_info or {}),
            }
            hidden = list(left_out)  # for display, neither for the LLM nor for embeddings
            yield Document(
                text=text,
                metadata=metadata,
                id_=f"{path}#page={page.number}",
                excluded_llm_metadata_keys=hidden,
                excluded_embed_metadata_keys=hidden,
            )

    def load_data(self, file: str | Path, extra_info: dict[str, Any] | None = None) -> list[Document]:
        """The documents of `lazy_load_data` as a list."""
        return list(self.lazy_load_data(file, extra_info))
