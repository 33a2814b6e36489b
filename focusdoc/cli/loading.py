"""From what the command line names to documents, engines and memories, with progress on standard error."""

from __future__ import annotations

import getpass
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from focusdoc.cli import options
from focusdoc.cli.display import errors
from focusdoc.config import FocusConfig, GenerationConfig
from focusdoc.documents import Document, LoadLimits, load
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
        no_store: keep nothing of a document, so that it is read anew each time.
        reader, reader_model: see `FocusEngine.from_pretrained`; besides, the reader may be "none", or "auto" for the
            catalogue's, where no model is named and it is installed and fits.
    """

    model: options.Model = None
    adapter: options.Adapter = "auto"
    reader: options.Reader = "auto"
    reader_model: options.ReaderModel = None
    chunk_size: options.ChunkSize = None
    paper: options.Paper = False
    device: options.Device = "auto"
    dtype: options.Dtype = "auto"
    memory_dtype: options.MemoryDtype = "auto"
    quote_tokens: options.QuoteTokens = None
    no_store: options.NoStore = False

    def __post_init__(self) -> None:
        FocusConfig(**self._settings())

    def load(self) -> FocusEngine:
        """The engine, while the terminal shows what is being waited for."""
        from focusdoc.modeling.quiet import quiet_libraries

        with errors.status("Starting") as status, quiet_libraries():
            from focusdoc.engine import FocusEngine
            from focusdoc.modeling.catalogue import DEFAULT_MODEL, known_model
            from focusdoc.modeling.installed import model_path

            if (known := known_model(self.model or DEFAULT_MODEL)) is not None:
                model_path(known, _teller(status.update))
            status.update(f"Loading {_markup_free(self.model or DEFAULT_MODEL)}")
            engine = FocusEngine.from_pretrained(
                self.model,
                adapter=None if self.adapter == "none" else self.adapter,
                config=FocusConfig.paper(**self._settings()) if self.paper else None,
                device=self.device,
                dtype=self.dtype,
                store=None if self.no_store else "auto",
                reader=self._reader(),
                reader_model=self.reader_model,
            )
            # Only now is it known which mode the adapter was trained for; the settings must not change that.
            config = replace(engine.config, **self._settings())
            if config != engine.config:
                engine = FocusEngine(engine.base, engine.adapter, config, store=engine.store, reader=engine.reader)
        return engine

    def _reader(self) -> str | None:
        """What writes the answers; if it is not the catalogue's reader, the terminal is told why."""
        if self.reader != "auto":
            return None if self.reader == "none" else self.reader
        if self.model is not None or self.paper:
            return None
        from focusdoc.readers.opening import default_reader

        name, lack = default_reader(self.device)
        if lack:
            errors.print(
                f"The small model that finds the passages writes the answer too, poorly: {lack}.", markup=False
            )
        return name

    def _settings(self) -> dict[str, Any]:
        """The fields of `FocusConfig` that were given."""
        given: dict[str, Any] = {"chunk_size": self.chunk_size, "quote_tokens": self.quote_tokens}
        return {"memory_dtype": self.memory_dtype} | {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """The options of an answer; wrong ones are refused before anything is loaded. See `GenerationConfig`."""

    max_new_tokens: options.MaxNewTokens = GenerationConfig.max_new_tokens
    stop: options.Stop = None
    overview: options.Overview = None
    temperature: options.Temperature = GenerationConfig.temperature
    top_p: options.TopP = GenerationConfig.top_p
    top_k: options.TopK = GenerationConfig.top_k
    repetition_penalty: options.RepetitionPenalty = GenerationConfig.repetition_penalty
    seed: options.Seed = None

    def __post_init__(self) -> None:
        generation = dict(self.given)
        generation.pop("overview")
        GenerationConfig(**generation)

    @property
    def given(self) -> dict[str, Any]:
        """As the engine takes them."""
        return {**asdict(self), "stop": tuple(self.stop or ())}


def _teller(update: Callable[[str], None]) -> Callable[[str, int, int], None]:
    """Says how far a step is beside the spinner, or that it began, in a line, where there is no terminal."""

    def tell(step: str, done: int, total: int) -> None:
        if errors.is_terminal:
            update(_markup_free(f"{step}: {done / total:.0%}"))
        elif not done:
            errors.print(f"{step}.", markup=False, soft_wrap=True)

    return tell


def _markup_free(text: str) -> str:
    """A text for rich's status, which reads markup."""
    from rich.markup import escape

    return escape(plain(text))


def open_documents(files: Sequence[Path], password: str | None) -> list[Document]:
    """Load documents, asking for the password if it is "-"; says on standard error what was left out.

    Args:
        files: "-" is standard input; those of one name are called by their paths.

    Raises:
        DocumentError: one cannot be loaded. ConfigError: a password is to be asked for, but there is no terminal.
    """
    if password == "-":
        if not sys.stdin.isatty():
            raise ConfigError("--password - asks on the terminal, and there is none; set FOCUSDOC_PASSWORD instead.")
        password = getpass.getpass("Password: ", stream=sys.stderr)
    names = Counter(file.name for file in files)
    documents = []
    for file in files:
        name = file.name if names[file.name] == 1 else str(file)
        with errors.status(f"Opening {_markup_free(name)}"):
            if str(file) == "-":
                # One byte more than allowed tells that there is more.
                data = sys.stdin.buffer.read(LoadLimits.max_bytes + 1)
                documents.append(load(data, password=password, name="standard input"))
            else:
                documents.append(load(file, password=password, name=name))
        for sentence in documents[-1].left_out:
            note = f"Note: {plain(f'{documents[-1].name}: {sentence}')}."
            errors.print(note, style="yellow", markup=False, soft_wrap=True)
    return documents


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


def read(engine: FocusEngine, documents: Sequence[Document]) -> tuple[list[DocumentMemory], float]:
    """Read documents, unless they are known, after telling the plan of each; the memories and the seconds it took."""

    def tell(document: Document, plan: MemoryPlan) -> None:
        if plan.rung != "store":
            errors.print(f"{plain(document.name)}: {plan}.", markup=False, soft_wrap=True)

    begun = time.perf_counter()
    memories = [engine.read(document, on_plan=partial(tell, document)) for document in documents]
    return memories, time.perf_counter() - begun
