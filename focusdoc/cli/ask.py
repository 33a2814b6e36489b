"""``focusdoc ask``: answer one question, with sources."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from focusdoc.cli import options
from focusdoc.cli.dataclass_options import dataclass_options
from focusdoc.cli.display import about, errors, show_remarks, show_sources, show_totals, write
from focusdoc.cli.loading import AnswerOptions, EngineOptions, check_question, open_documents, read
from focusdoc.documents import Document
from focusdoc.errors import ReaderError

if TYPE_CHECKING:
    from focusdoc.decoding.answer import Answer, Source
    from focusdoc.engine import FocusEngine
    from focusdoc.memory.chunk_memory import DocumentMemory

Show = Literal["stream", "whole", "none"]


@dataclass_options()
def ask(
    files: options.Files,
    question: options.Question,
    *,
    answering: AnswerOptions,
    loading: EngineOptions,
    json_output: options.Json = False,
    no_stream: options.NoStream = False,
    password: options.Password = None,
) -> None:
    """Answer a question about one or several documents, and show the passages that the answer is based on."""
    question = check_question(question)
    documents = open_documents(files, password)
    engine = loading.load()
    engine.check_question(question, **answering.given)  # fail before the documents are read
    memories, seconds = read(engine, documents)
    show: Show = "none" if json_output else "whole" if no_stream else "stream"
    answer = answer_question(engine, memories, question, answering, show=show)
    if json_output:
        print(json.dumps(as_json(engine, documents, memories, question, answer, seconds), indent=2))
        return
    show_sources(answer.sources, documents, by_reader=engine.reader is not None)
    show_totals(answer, seconds, known=not any(memory.tokens_encoded for memory in memories))


def answer_question(
    engine: FocusEngine,
    memories: Sequence[DocumentMemory],
    question: str,
    answering: AnswerOptions,
    *,
    show: Show = "stream",
    cancel: threading.Event | None = None,
) -> Answer:
    """Answer a question and print the answer.

    Args:
        show: print it as it is generated ("stream"), when it is complete ("whole"), or not at all ("none").
    """
    pieces = engine.stream(memories, question, cancel=cancel, **answering.given)
    started = False
    # The first piece takes longest, since the question runs behind every chunk.
    try:
        with errors.status("Thinking") as status:
            for piece in pieces:
                if show == "stream" and (text := piece if started else piece.lstrip()):
                    status.stop()  # before it redraws over the answer
                    write(text)
                    started = True
    except ReaderError as error:  # the passages were found, so show them
        if show != "none":
            write("\n\n" if started else "")
            show_sources(
                cast("tuple[Source, ...]", error.sources),
                [memory.document for memory in memories if memory.document is not None],
                by_reader=True,
            )
        raise
    answer = piece.answer
    assert answer is not None  # the last piece always carries it
    if show == "whole":
        write(answer.text.strip())
    if show != "none":
        write("\n\n" if answer.text.strip() else "(The answer is empty.)\n\n")
        show_remarks(answer)
    return answer


def as_json(
    engine: FocusEngine,
    documents: Sequence[Document],
    memories: Sequence[DocumentMemory],
    question: str,
    answer: Answer,
    read_seconds: float,
) -> dict[str, Any]:
    """The output of ``--json``; the answer's fields as in `Answer.to_dict`, durations in seconds."""
    values = answer.to_dict()
    fields = ("found", "confidence", "steps", "finish_reason", "sources", "warnings", "usage")
    return {
        "documents": [
            {
                **about(document),
                "tokens": memory.num_tokens,
                "chunks": memory.num_chunks,
                "memory_bytes": memory.num_bytes,
                "tokens_encoded": memory.tokens_encoded,
            }
            for document, memory in zip(documents, memories, strict=True)
        ],
        "model": {
            "name": engine.base.name,
            "mode": engine.config.local_attention,
            "chunk_size": engine.chunk_size,
            "dtype": str(engine.base.dtype).removeprefix("torch."),
            "device": str(engine.base.device),
            "reader": engine.reader.name if engine.reader is not None else None,
        },
        "question": question,
        "answer": answer.text,
        **{name: values[name] for name in fields},
        "timings": {"read": read_seconds, **values["timings"]},
    }
