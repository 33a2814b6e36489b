"""``focusdoc ask``: one question, one answer with its sources."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from focusdoc.cli import options
from focusdoc.cli.display import errors, show_doubt, show_sources, show_steps, show_totals, write
from focusdoc.cli.loading import EngineOptions, check_question, open_documents, read
from focusdoc.config import GenerationConfig
from focusdoc.documents import Document
from focusdoc.errors import ReaderError

if TYPE_CHECKING:
    from focusdoc.decoding.answer import Answer, Source
    from focusdoc.engine import FocusEngine
    from focusdoc.memory.chunk_memory import DocumentMemory

Show = Literal["stream", "whole", "none"]


def ask(
    files: options.Files,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question, in quotes.", show_default=False)],
    max_new_tokens: options.MaxNewTokens = GenerationConfig.max_new_tokens,
    stop: options.Stop = None,
    quote_tokens: options.QuoteTokens = None,
    overview: options.Overview = None,
    temperature: options.Temperature = GenerationConfig.temperature,
    top_p: options.TopP = GenerationConfig.top_p,
    top_k: options.TopK = GenerationConfig.top_k,
    repetition_penalty: options.RepetitionPenalty = GenerationConfig.repetition_penalty,
    seed: options.Seed = None,
    model: options.Model = None,
    adapter: options.Adapter = "auto",
    reader: options.Reader = "auto",
    reader_model: options.ReaderModel = None,
    chunk_size: options.ChunkSize = None,
    paper: options.Paper = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    memory_dtype: options.MemoryDtype = "auto",
    json_output: options.Json = False,
    no_stream: options.NoStream = False,
    password: options.Password = None,
    no_store: options.NoStore = False,
) -> None:
    """Ask one question of a document, or of several: the answer, then the passages it was taken from."""
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        stop=tuple(stop or ()),
        seed=seed,
    )
    engine_options = EngineOptions(
        model=model,
        adapter=adapter,
        chunk_size=chunk_size,
        paper=paper,
        device=device,
        dtype=dtype,
        memory_dtype=memory_dtype,
        quote_tokens=quote_tokens,
        store=not no_store,
        reader=reader,
        reader_model=reader_model,
    )
    question = check_question(question)
    documents = open_documents(files, password)
    engine = engine_options.load()
    # Else it would be found out only after the reading.
    engine.check_question(question, max_new_tokens=settings.max_new_tokens)
    memories, seconds = read(engine, documents)
    answer = answer_question(
        engine,
        memories,
        question,
        settings,
        overview=overview,
        show="none" if json_output else "whole" if no_stream else "stream",
    )
    if json_output:
        print(json.dumps(as_json(engine, documents, memories, question, answer, seconds), indent=2))
        return
    show_sources(answer.sources, documents, by_reader=engine.reader is not None)
    show_totals(answer, seconds, known=not any(memory.tokens_encoded for memory in memories))


def answer_question(
    engine: FocusEngine,
    memories: Sequence[DocumentMemory],
    question: str,
    settings: GenerationConfig,
    *,
    overview: bool | None = None,
    show: Show = "stream",
    cancel: threading.Event | None = None,
) -> Answer:
    """The answer to a question, shown on standard output as it comes, when it is whole, or not at all.

    Args:
        overview: see `FocusEngine.ask`.
        cancel: ends the answer after the current token when it is set.
    """
    pieces = engine.stream(memories, question, overview=overview, cancel=cancel, **asdict(settings))
    begun = False
    # The first piece is the slow one: the question goes through every chunk before it.
    try:
        with errors.status("Thinking") as status:
            for piece in pieces:
                if show == "stream" and (text := piece if begun else piece.lstrip()):
                    status.stop()  # before it redraws over the answer
                    write(text)
                    begun = True
    except ReaderError as error:  # the passages were found all the same
        if show != "none":
            write("\n\n" if begun else "")
            show_sources(
                cast("tuple[Source, ...]", error.sources),
                [memory.document for memory in memories if memory.document is not None],
                by_reader=True,
            )
        raise
    answer = piece.answer
    if answer is None:  # pragma: no cover - the last piece always carries the answer
        raise RuntimeError("the stream ended without an answer")
    if show == "whole":
        write(answer.text.strip())
    if show != "none":
        write("\n\n" if answer.text.strip() else "(The answer is empty.)\n\n")
        show_steps(answer)
        show_doubt(answer)
    return answer


def as_json(
    engine: FocusEngine,
    documents: Sequence[Document],
    memories: Sequence[DocumentMemory],
    question: str,
    answer: Answer,
    read_seconds: float,
) -> dict[str, Any]:
    """What ``--json`` prints; the answer's parts as in `Answer.to_dict`, seconds throughout."""
    values = answer.to_dict()
    return {
        "documents": [
            {
                "name": document.name,
                "format": document.metadata.get("format"),
                "unit": document.unit,
                "pages": len(document.pages) if document.has_pages else None,
                "characters": len(document.text),
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
        "found": answer.found,
        "confidence": answer.confidence,
        "steps": values["steps"],
        "finish_reason": answer.finish_reason,
        "sources": values["sources"],
        "warnings": values["warnings"],
        "usage": values["usage"],
        "timings": {"read": read_seconds, **values["timings"]},
    }
