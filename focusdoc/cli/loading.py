"""Loading documents, engines and memories for the command line, with progress on standard error."""

from __future__ import annotations

import getpass
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from focusdoc.cli import options
from focusdoc.cli.display import errors, markup_free, note, show_left_out
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
    """The options of the model and of reading, as for `FocusEngine.from_pretrained` and `FocusConfig`, checked at once.

    Adapter and reader may also be "none"; the reader "auto" is the catalogue's, if it is installed and fits, and
    there is no --model.
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
    cluster: options.Cluster = None

    def __post_init__(self) -> None:
        FocusConfig(**self._settings())

    def load(self) -> FocusEngine:
        """Load the engine, with progress on the terminal."""
        from focusdoc.modeling.quiet import quiet_libraries

        with errors.status("Starting") as status, quiet_libraries():
            from focusdoc.engine import FocusEngine
            from focusdoc.modeling.catalogue import DEFAULT_MODEL, known_model
            from focusdoc.modeling.installed import model_path

            def show(step: str, done: int, total: int) -> None:
                if errors.is_terminal:
                    status.update(markup_free(f"{step}: {done / total:.0%}"))
                elif not done:
                    note(f"{step}.")

            if (known := known_model(self.model or DEFAULT_MODEL)) is not None:
                model_path(known, show)
            status.update(f"Loading {markup_free(self.model or DEFAULT_MODEL)}")
            engine = FocusEngine.from_pretrained(
                self.model,
                adapter=None if self.adapter == "none" else self.adapter,
                config=FocusConfig.paper(**self._settings()) if self.paper else None,
                device=self.device,
                dtype=self.dtype,
                store=None if self.no_store else "auto",
                reader=self._reader(),
                reader_model=self.reader_model,
                cluster=self.cluster,
            )
            # The decode mode comes from the adapter, so the other settings are applied after loading.
            config = replace(engine.config, **self._settings())
            if config != engine.config:
                engine = FocusEngine(
                    engine.base,
                    engine.adapter,
                    config,
                    store=engine.store,
                    reader=engine.reader,
                    cluster=engine.cluster,
                )
        return engine

    def _reader(self) -> str | None:
        """The reader to load; prints a note if the default reader is not available."""
        if self.reader != "auto":
            return None if self.reader == "none" else self.reader
        if self.model is not None or self.paper:
            return None
        from focusdoc.readers.opening import default_reader

        name, lack = default_reader(self.device)
        if lack:
            note(f"The small model that finds the passages also writes the answer, which is worse: {lack}.")
        return name

    def _settings(self) -> dict[str, Any]:
        """The fields of `FocusConfig` that are set."""
        given: dict[str, Any] = {"chunk_size": self.chunk_size, "quote_tokens": self.quote_tokens}
        return {"memory_dtype": self.memory_dtype} | {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """The options of an answer, see `GenerationConfig`; validated before anything is loaded."""

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
        """The options as keyword arguments of `FocusEngine.ask`."""
        return {**asdict(self), "stop": tuple(self.stop or ())}


def open_documents(files: Sequence[Path], password: str | None) -> list[Document]:
    """Load documents, and print on standard error what was skipped in them.

    Args:
        files: "-" is standard input; files with the same name are named by their paths.
        password: "-" asks for it; ConfigError without a terminal.
    """
    if password == "-":
        if not sys.stdin.isatty():
            raise ConfigError("--password - needs a terminal; set FOCUSDOC_PASSWORD instead.")
        password = getpass.getpass("Password: ", stream=sys.stderr)
    names = Counter(file.name for file in files)
    documents = []
    for file in files:
        name = file.name if names[file.name] == 1 else str(file)
        with errors.status(f"Opening {markup_free(name)}"):
            if str(file) == "-":
                # One byte above the limit, so that `load` refuses longer input.
                data = sys.stdin.buffer.read(LoadLimits.max_bytes + 1)
                documents.append(load(data, password=password, name="standard input"))
            else:
                documents.append(load(file, password=password, name=name))
        show_left_out(documents[-1].name, documents[-1].left_out)
    return documents


def check_question(question: str) -> str:
    """The question without surrounding white space; ConfigError if it is empty, or not valid UTF-8."""
    question = question.strip()
    if not question:
        raise ConfigError("The question is empty; ask something.")
    try:
        question.encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigError("The question has bytes that are not valid UTF-8; type it in a UTF-8 terminal.") from None
    return question


def read(engine: FocusEngine, documents: Sequence[Document]) -> tuple[list[DocumentMemory], float]:
    """Read documents, or load them from the store, printing the plan of each; returns the memories and the seconds."""

    def show_plan(document: Document, plan: MemoryPlan) -> None:
        if plan.rung != "store":
            note(f"{plain(document.name)}: {plan}.")

    start = time.perf_counter()
    memories = [engine.read(document, on_plan=partial(show_plan, document)) for document in documents]
    return memories, time.perf_counter() - start
