"""Converting LlamaIndex documents to focusdoc's, with the pages of a file joined to one text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, TextNode

from focusdoc.documents import Document, Page

if TYPE_CHECKING:
    from focusdoc.decoding.answer import Source

#: Metadata keys for a page's file, in order of preference.
_FILE_KEYS = ("file_path", "source", "file_name")


def to_documents(nodes: Sequence[BaseNode]) -> list[Document]:
    """One document for each file, with its nodes as pages; nodes without a file are separate documents.

    Raises:
        ValueError: no node has text.
    """
    files: dict[str, list[BaseNode]] = {}
    for node in nodes:
        if node.get_content(metadata_mode=MetadataMode.NONE).strip():
            files.setdefault(_file_of(node), []).append(node)
    if not files:
        raise ValueError("There is no document with text in it; pass at least one.")
    return [_join(name, pages) for name, pages in files.items()]


def to_nodes(sources: Sequence[Source], documents: Sequence[Document]) -> Iterator[NodeWithScore]:
    """The sources of an answer as nodes, with the metadata and label of their page and their score."""
    known = {document.name: document for document in documents}
    for source in sources:
        document = known[source.document]
        of_page: dict[str, Any] = document.metadata["of_pages"][source.page - 1]
        label = source.page_label or str(source.page)
        node = TextNode(
            text=source.text,
            metadata={"file_name": source.document, "page_label": label, **of_page},
            start_char_idx=source.start,
            end_char_idx=source.end,
        )
        yield NodeWithScore(node=node, score=source.score)


def _file_of(node: BaseNode) -> str:
    return next((str(node.metadata[key]) for key in _FILE_KEYS if node.metadata.get(key)), node.node_id)


def _join(file: str, nodes: Sequence[BaseNode]) -> Document:
    text = ""
    pages: list[Page] = []
    for number, node in enumerate(nodes, start=1):
        start = len(text)
        text += node.get_content(metadata_mode=MetadataMode.NONE)
        if number < len(nodes) and not text.endswith(("\n", "\f", " ")):
            text += "\n"  # keeps the words of two pages apart
        label = node.metadata.get("page_label")
        pages.append(Page(number, None if label is None else str(label), start, len(text)))
    of_pages = [node.metadata for node in nodes]
    left_out = list(dict.fromkeys(page["left_out"] for page in of_pages if page.get("left_out")))
    known = {"name": file, "format": "pages", "of_pages": of_pages, "left_out": left_out}
    return Document(text, tuple(pages), known)
