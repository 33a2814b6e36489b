"""``focusdoc info``: what a document will cost, told before any model is loaded."""

from __future__ import annotations

import json
from dataclasses import asdict
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from focusdoc.cli import options
from focusdoc.cli.display import errors, output
from focusdoc.cli.loading import open_document
from focusdoc.config import FocusConfig, GenerationConfig
from focusdoc.documents import Document, estimate_tokens
from focusdoc.documents.ranges import page_ranges
from focusdoc.modeling.size import CHUNK_TOKENS, ModelSize, estimate_seconds_per_token, model_size, where_it_runs
from focusdoc.terminal import in_bytes, in_time, plain

if TYPE_CHECKING:
    from focusdoc.memory.plan import MemoryPlan


def info(
    file: options.File,
    model: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="A base model's folder; without it, the built-in SmolLM2-135M-Instruct."),
    ] = None,
    chunk_size: options.ChunkSize = None,
    memory_dtype: options.MemoryDtype = "auto",
    password: options.Password = None,
    json_output: options.Json = False,
) -> None:
    """Tell pages, characters and tokens of a document, and the memory and time that reading it will take."""
    settings = FocusConfig(chunk_size=chunk_size, memory_dtype=memory_dtype)  # type: ignore[arg-type]  # checked there
    size = model_size(model)
    document = open_document(file, password)
    with errors.status("Counting tokens and measuring this machine"):
        tokens = estimate_tokens(document.text, model)
        device, size = where_it_runs(size)
        plan = _plan(size, device, tokens.num_tokens, settings)
    facts = {
        "document": {
            "name": document.name,
            "title": document.metadata.get("title"),
            "format": document.metadata.get("format"),
            "pages": len(document.pages) if document.has_pages else None,
            "pages_without_text": document.metadata.get("pages_without_text", []),
            "characters": len(document.text),
            "warnings": document.metadata.get("warnings", []),
        },
        "tokens": tokens.num_tokens,
        "tokens_method": tokens.method,
        "model": size.name,
        "model_bytes": size.num_bytes,
        "memory_bytes_per_token": size.kv_bytes_per_token,
        "memory_bytes": tokens.num_tokens * size.kv_bytes_per_token,
        "read_seconds": plan.seconds,
        "plan": asdict(plan),
        "device": device,
    }
    if json_output:
        print(json.dumps(facts, indent=2))
    else:
        _show(document, facts, size, plan)


def _plan(size: ModelSize, device: str, num_tokens: int, settings: FocusConfig) -> MemoryPlan:
    """The plan that an engine would make, but for what the store knows: that takes the model to tell."""
    import torch

    from focusdoc.memory.library import open_store
    from focusdoc.memory.plan import QUESTION_TOKENS, plan_memory
    from focusdoc.memory.room import free_beside, free_bytes
    from focusdoc.modeling.adapter_files import shipped_chunk_size

    chunk_size = settings.chunk_size or shipped_chunk_size(size.name) or CHUNK_TOKENS
    store = open_store()
    return plan_memory(
        size,
        getattr(torch, size.dtype, torch.float32),
        num_tokens,
        chunk_size,
        free=free_bytes(torch.device(device)),
        memory_dtype=settings.memory_dtype,
        tail_tokens=QUESTION_TOKENS + GenerationConfig.max_new_tokens,
        beside=lambda: free_beside(torch.device(device)),
        disk=store.room if store is not None and device == "cpu" else None,
        seconds_per_token=lambda: estimate_seconds_per_token(size, device, chunk_size=chunk_size),
    )


def _show(document: Document, facts: dict[str, Any], size: ModelSize, plan: MemoryPlan) -> None:
    known = facts["document"]
    without = known["pages_without_text"]
    pages = "none (a plain text)" if known["pages"] is None else f"{known['pages']:,}"
    if without:
        pages += f", {len(without):,} without text ({page_ranges(without)})"
    kind = {"pdf": "PDF", "markdown": "Markdown"}.get(str(known["format"]), "plain text")
    rows = [
        ("document", f"{known['name']} ({kind})"),
        ("title", known["title"]),
        ("pages", pages),
        ("characters", f"{known['characters']:,}"),
        ("tokens", f"{facts['tokens']:,}, {facts['tokens_method']}"),
        (
            "memory",
            f"{in_bytes(facts['memory_bytes'])} for the document ({facts['memory_bytes_per_token']:,} bytes a token), "
            f"beside {in_bytes(facts['model_bytes'])} of weights",
        ),
        ("time to read", f"about {in_time(facts['read_seconds'])} on this {_DEVICES[facts['device']]}, once"),
        ("plan", f"{plan}, question and answer included"),
        ("model", size.name),
        *(("warning", shorten(warning, 100, placeholder=" ...")) for warning in known["warnings"]),
    ]
    for name, value in rows:
        if value:
            line = Text(f"{name:<13}", style="bold")
            output.print(line.append(plain(str(value)).replace("\n", " "), style="not bold"), soft_wrap=True)


_DEVICES = {"cpu": "processor", "cuda": "GPU"}
