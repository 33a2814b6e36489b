"""``focusdoc ask``: one question, one answer with its sources."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from focusdoc.cli import options
from focusdoc.cli.display import errors, output, show_sources, show_totals, write
from focusdoc.cli.loading import EngineOptions, check_question, open_document, read
from focusdoc.config import GenerationConfig

if TYPE_CHECKING:
    from focusdoc.decoding.answer import Answer
    from focusdoc.engine import FocusEngine
    from focusdoc.memory.chunk_memory import DocumentMemory


def ask(
    file: options.File,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question, in quotes.", show_default=False)],
    max_new_tokens: options.MaxNewTokens = GenerationConfig.max_new_tokens,
    stop: options.Stop = None,
    temperature: options.Temperature = GenerationConfig.temperature,
    top_p: options.TopP = GenerationConfig.top_p,
    top_k: options.TopK = GenerationConfig.top_k,
    repetition_penalty: options.RepetitionPenalty = GenerationConfig.repetition_penalty,
    seed: options.Seed = None,
    model: options.Model = None,
    adapter: options.Adapter = "auto",
    chunk_size: options.ChunkSize = None,
    paper: options.Paper = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json_output: options.Json = False,
    no_stream: options.NoStream = False,
    password: options.Password = None,
) -> None:
    """Ask one question of a document: the answer, then the passages it was taken from."""
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
        model=model, adapter=adapter, chunk_size=chunk_size, paper=paper, device=device, dtype=dtype
    )
    question = check_question(question)
    document = open_document(file, password)
    engine = engine_options.load()
    engine.require_adapter()  # else it would be missed only after the reading
    memory, seconds = read(engine, document)
    answer = answer_question(engine, memory, question, settings, show="no" if json_output else not no_stream)
    if json_output:
        print(json.dumps(as_json(engine, memory, question, answer, seconds), indent=2))
        return
    show_sources(answer, document)
    show_totals(answer, seconds)
