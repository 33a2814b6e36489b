"""From what the command line names to documents, engines and memories, with progress on standard error."""

from __future__ import annotations

import getpass
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from focusdoc.cli.display import errors
from focusdoc.config import FocusConfig
from focusdoc.documents import Document, load
from focusdoc.errors import ConfigError
from focusdoc.terminal import plain

if TYPE_CHECKING:
    from focusdoc.engine import FocusEngine
    from focusdoc.memory.chunk_memory import DocumentMemory
    from focusdoc.memory.plan import MemoryPlan


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """The options that choose a model and how it reads; wrong ones are refused before anything is loaded.

    Attributes:
        model, adapter, chunk_size, device, dtype: as for `FocusEngine.from_pretrained`, but the adapter may be the
            word "none".
        memory_dtype, quote_tokens: see `FocusConfig`.
        paper: decode as the paper's code does, whatever the adapter was trained for.
        store: keep the memories of documents, so that none is read twice.
    """

    model: str | None
    adapter: str
    chunk_size: int | None
    paper: bool
    device: str
    dtype: str
    memory_dtype: str = "auto"
    quote_tokens: int | None = None
    store: bool = True

    def __post_init__(self) -> None:
        FocusConfig(**self._settings())

    def load(self) -> FocusEngine:
        """The engine, while the terminal shows what is being waited for."""
        from focusdoc.modeling.quiet import quiet_libraries

        with errors.status("Starting") as status, quiet_libraries():
            from focusdoc.engine import FocusEngine
            from focusdoc.modeling.default_model import DEFAULT_MODEL, default_model_path

            if self.model in (None, DEFAULT_MODEL):
                default_model_path(progress=_teller(status.update))
            status.update(f"Loading {_markup_free(self.model or DEFAULT_MODEL)}")
            engine = FocusEngine.from_pretrained(
                self.model,
                adapter=None if self.adapter == "none" else self.adapter,
                config=FocusConfig.paper(**self._settings()) if self.paper else None,
                device=self.device,
                dtype=self.dtype,
                store="auto" if self.store else None,
            )
            # Only now is it known which mode the adapter was trained for; the settings must not change that.
            config = replace(engine.config, **self._settings())
            if config != engine.config:
                engine = FocusEngine(engine.base, engine.adapter, config, store=engine.store)
        return engine

    def _settings(self) -> dict[str, Any]:
        """The fields of `FocusConfig` that were given."""
        given: dict[str, Any] = {"chunk_size": self.chunk_size, "quote_tokens": self.quote_tokens}
        return {"memory_dtype": self.memory_dtype} | {name: value for name, value in given.items() if value is not None}


def _teller(update: Callable[[str], None]) -> Callable[[str], None]:
    """Says a sentence beside the spinner, or as a line of its own where there is no terminal."""

    def tell(sentence: str) -> None:
        if errors.is_terminal:
            update(_markup_free(sentence))
        else:
            errors.print(sentence, markup=False, soft_wrap=True)

    return tell


def _markup_free(text: str) -> str:
    """A text for rich's status, which reads markup."""
    from rich.markup import escape

    return escape(plain(text))


def open_document(file: Path, password: str | None) -> Document:
    """Load a document, asking for the password if it is "-"; says on standard error what was left out.

    Raises:
        DocumentError: it cannot be loaded. ConfigError: a password is to be asked for, but there is no terminal.
    """
    if password == "-":
        if not sys.stdin.isatty():
            raise ConfigError("--password - asks on the terminal, and there is none; set FOCUSDOC_PASSWORD instead.")
        password = getpass.getpass("Password: ", stream=sys.stderr)
    with errors.status(f"Opening {_markup_free(file.name)}"):
        document = load(file, password=password)
    for sentence in document.left_out:
        errors.print(f"Note: {plain(f'{document.name}: {sentence}')}.", style="yellow", markup=False, soft_wrap=True)
    return document


def check_question(question: str) -> str:
    """The question without white space around it.

    Raises:
        ConfigError: it is empty, or no text (bytes that are not UTF-8).
    """
    question = question.strip()
    if not question:
        raise ConfigError("The question is empty; ask something.")
    try:
        question.encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigError("The question holds bytes that are not valid UTF-8; type it in a UTF-8 terminal.") from None
    return question


def read(engine: FocusEngine, document: Document) -> tuple[DocumentMemory, float]:
    """Read a document, unless it is known, after telling the plan; the memory and the seconds it took."""

    def tell(plan: MemoryPlan) -> None:
        if plan.rung != "store":
            errors.print(f"{plain(document.name)}: {plan}.", markup=False, soft_wrap=True)

    begun = time.perf_counter()
    memory = engine.read(document, on_plan=tell)
    return memory, time.perf_counter() - begun
