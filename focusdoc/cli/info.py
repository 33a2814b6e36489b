"""``focusdoc info``: estimate tokens, memory and reading time of documents without loading a model."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any

from rich.text import Text

from focusdoc.cli import options
from focusdoc.cli.dataclass_options import option
from focusdoc.cli.display import about, errors, output
from focusdoc.cli.loading import open_documents
from focusdoc.config import FocusConfig, GenerationConfig
from focusdoc.documents.document import page_ranges
from focusdoc.modeling.dimensions import ModelSize
from focusdoc.modeling.estimate import (
    CHUNK_TOKENS,
    default_placement,
    estimate_seconds_per_token,
    estimate_tokens,
    model_size,
)
from focusdoc.terminal import in_bytes, in_time, plain

if TYPE_CHECKING:
    from focusdoc.memory.plan import MemoryPlan


def info(
    files: options.Files,
    model: Annotated[
        str | None,
        option(
            "A base model: a name of focusdoc models list or a folder; without it, SmolLM2-135M-Instruct.",
            None,
            "FOLDER|NAME",
        ),
    ] = None,
    chunk_size: options.ChunkSize = None,
    memory_dtype: options.MemoryDtype = "auto",
    password: options.Password = None,
    json_output: options.Json = False,
) -> None:
    """Show pages, characters and tokens of documents, and the memory and time that reading them takes."""
    settings = FocusConfig(chunk_size=chunk_size, memory_dtype=memory_dtype)  # type: ignore[arg-type]  # checked there
    size = model_size(model)
    documents = open_documents(files, password)
    with errors.status("Counting tokens and measuring this machine"):
        estimates = [estimate_tokens(document.text, model) for document in documents]
        num_tokens = sum(tokens.num_tokens for tokens in estimates)
        device, size = default_placement(size)
        plan = _plan(size, device, num_tokens, settings)
    facts: dict[str, Any] = {
        "documents": [
            {
                **about(document),
                "title": document.metadata.get("title"),
                "pages_without_text": document.metadata.get("pages_without_text", []),
                "left_out": list(document.left_out),
                "warnings": document.metadata.get("warnings", []),
            }
            for document in documents
        ],
        "tokens": num_tokens,
        "tokens_method": estimates[0].method,
        "model": size.name,
        "model_bytes": size.num_bytes,
        "memory_bytes_per_token": size.kv_bytes_per_token,
        "memory_bytes": num_tokens * size.kv_bytes_per_token,
        "read_seconds": plan.seconds,
        "plan": asdict(plan),
        "device": device,
    }
    if json_output:
        print(json.dumps(facts, indent=2))
        return
    for known in facts["documents"]:
        _print_rows(_about(known))
    per_token, weights = size.kv_bytes_per_token, in_bytes(size.num_bytes)
    _print_rows(
        [
            ("tokens", f"{num_tokens:,}, {estimates[0].method}"),
            (
                "memory",
                f"{in_bytes(num_tokens * per_token)} for all of it ({per_token:,} bytes a token), plus {weights} of "
                "weights",
            ),
            ("time to read", f"about {in_time(plan.seconds)} on this {_DEVICES[device]}, once"),
            ("plan", f"{plan}, question and answer included"),
            ("model", size.name),
        ]
    )


def _plan(size: ModelSize, device: str, num_tokens: int, settings: FocusConfig) -> MemoryPlan:
    """The plan of an engine, except for stored documents, which only a loaded model can look up."""
    import torch

    from focusdoc.memory.library import open_store
    from focusdoc.memory.plan import QUESTION_TOKENS, FreeSpace, plan_memory
    from focusdoc.modeling.adapter_files import shipped_chunk_size

    chunk_size = settings.chunk_size or shipped_chunk_size(size.name) or CHUNK_TOKENS
    return plan_memory(
        FreeSpace.of(torch.device(device), open_store()),
        kv=size,
        num_tokens=num_tokens,
        chunk_size=chunk_size,
        memory_dtype=settings.memory_dtype,
        tail_tokens=QUESTION_TOKENS + GenerationConfig.max_new_tokens,
        seconds_per_token=partial(estimate_seconds_per_token, size, device, chunk_size=chunk_size),
    )


def _about(known: dict[str, Any]) -> list[tuple[str, str | None]]:
    """The printed rows of one document."""
    unit, without = known["unit"], known["pages_without_text"]
    pages = "none" if known["pages"] is None else f"{known['pages']:,}"
    if without:
        pages += f", {len(without):,} without text ({page_ranges(without, unit)})"
    kind = str(known["format"])
    return [
        ("document", f"{known['name']} ({_KINDS.get(kind, kind)})"),
        ("title", known["title"]),
        (f"{unit}s", pages),
        ("characters", f"{known['characters']:,}"),
        *(("warning", shorten(warning, 100, placeholder=" ...")) for warning in known["warnings"]),
    ]


def _print_rows(rows: list[tuple[str, str | None]]) -> None:
    for name, value in rows:
        if value:
            line = Text(f"{name:<13}", style="bold")
            output.print(line.append(plain(value).replace("\n", " "), style="not bold"), soft_wrap=True)


_KINDS = {
    **{"text": "plain text", "markdown": "Markdown", "pdf": "PDF", "html": "web page", "email": "e-mail"},
    **{"epub": "EPUB", "docx": "Word", "pptx": "PowerPoint", "xlsx": "Excel"},
    **dict.fromkeys(("odt", "odp", "ods"), "OpenDocument"),
}
_DEVICES = {"cpu": "processor", "cuda": "GPU"}
