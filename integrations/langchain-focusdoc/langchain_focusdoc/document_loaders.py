"""FocusDocumentLoader: PDFs, texts, e-books, office files and others as LangChain documents, one per page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from langchain_core.document_loaders import BaseLoader
from langchain_core.documents import Document

from focusdoc.documents import load
from focusdoc.documents.limits import LoadLimits


class FocusDocumentLoader(BaseLoader):
    """Loads a file of any kind that `focusdoc.load` supports; all but texts are parsed in a limited child process.

    Args:
        file_path: the file.
        password: of an encrypted PDF.
        limits: by default focusdoc's ``LoadLimits()``.
    """

    def __init__(self, file_path: str | Path, *, password: str | None = None, limits: LoadLimits | None = None) -> None:
        self.file_path = Path(file_path)
        self._password = password
        self._limits = limits

    def lazy_load(self) -> Iterator[Document]:
        """One document for each page with text.

        Metadata: source, page (from 0), page_label (the printed page number, or the title of a chapter, slide, sheet or
        section), total_pages, and if available title, author and left_out (content that a viewer shows but the text
        lacks).

        Raises:
            focusdoc.errors.DocumentError: the file is missing, damaged, encrypted, empty or too large.
        """
        document = load(self.file_path, password=self._password, limits=self._limits)
        known = {key: document.metadata[key] for key in ("title", "author") if document.metadata.get(key)}
        if document.left_out:
            known["left_out"] = "; ".join(document.left_out)
        for page in document.pages:
            text = document.text[page.start : page.end]
            if text.strip():
                yield Document(
                    page_content=text,
                    metadata={
                        "source": str(self.file_path),
                        "page": page.number - 1,
                        "page_label": page.label or str(page.number),
                        "total_pages": len(document.pages),
                        **known,
                    },
                )
