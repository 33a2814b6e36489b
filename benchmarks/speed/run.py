"""Measuring case after case, each in a process of its own, so that its peak memory is its own and nothing is warm.

Every row is on disk as it comes (`focusdoc.evaluation.results`), so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.speed.cases import CHUNKED, MACHINE, REOPEN, Case, Options, Settings, plan
from focusdoc.errors import EvaluationError, FocusdocError
from focusdoc.evaluation import runner
from focusdoc.evaluation.results import ResultFolder
from focusdoc.modeling.catalogue import DEFAULT_MODEL, known_model

#: A machine that is busier than this, per core, is not measured but disturbed.
_BUSY = 0.25

#: Does a piece of work (a contender, `MACHINE` or `REOPEN`) for a case, with a folder to keep memories in.
Start = Callable[[str, Case, Settings, str | None], dict[str, Any]]
Tell = Callable[[str], None]


def run(options: Options, settings: Settings, output: Path, *, start: Start, tell: Tell) -> list[str]:
    """Measure what `options` says that `output` does not hold yet; what failed is tried again.

    Args:
        start: `in_child`.
        tell: is told in a sentence what is being measured.

    Returns:
        A sentence for everything that is left out.

    Raises:
        EvaluationError: `output` holds results of another configuration or machine, or the model cannot be loaded.
    """
    tell("Looking at the machine and the model.")
    found = start(MACHINE, Case(MACHINE), settings, None)
    if "error" in found:
        raise EvaluationError(found["error"])
    folder = ResultFolder(output, {"benchmark": "speed", **found["facts"], "steps": settings.steps})
    cases, omitted = plan(options, found["facts"], missing_contenders(settings))

    def work(case: Case) -> dict[str, Any]:
        if case.task == MACHINE:
            rates: dict[str, Any] = found["rates"]
            return rates
        tell(f"{case}.")
        row = _measured(case, settings, output, start)
        if "error" in row:
            tell(f"{case} failed: {row['error']}")
        return row

    runner.run([Case(MACHINE), *cases], work, folder, resume=True, retry=True)
    return omitted


def in_child(work: str, case: Case, settings: Settings, store: str | None) -> dict[str, Any]:
    """Do a piece of work in a new process; the result, or ``{"error": "..."}`` if it came to nothing."""
    return isolated(_do, work, case, settings, store)


def isolated(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What `function` gives in a new process; ``{"error": "..."}`` where it raises, or the process ends."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(sender, function, *arguments))
    child.start()
    sender.close()
    try:
        result: dict[str, Any] = receiver.recv()
        return result
    except EOFError:
        child.join()
        if (code := child.exitcode or 0) < 0:
            return {"error": f"the process was ended by signal {-code}; out of memory, perhaps"}
        return {"error": f"the process ended with {code}"}
    finally:
        child.join()


def _send(sender: Connection, function: Callable[..., dict[str, Any]], *arguments: Any) -> None:
    try:
        sender.send(function(*arguments))
    except Exception as error:  # whatever one measurement does must not end the run; its row says what it was
        kind = "" if isinstance(error, FocusdocError) else f"{type(error).__name__}: "
        sender.send({"error": f"{kind}{error}"})


def _do(work: str, case: Case, settings: Settings, store: str | None) -> dict[str, Any]:
    # The store of this measurement is on, whatever the user's setting for the one of their own.
    os.environ["FOCUSDOC_STORE"] = "on"
    from benchmarks.speed.measurements import do
    from focusdoc.modeling.quiet import quiet_libraries

    with quiet_libraries():
        return do(work, case, settings, store)


def missing_contenders(settings: Settings) -> dict[str, str]:
    """Why contenders cannot run here at all."""
    if importlib.util.find_spec("xllamacpp") is None:
        return {"llama.cpp": "the package xllamacpp is not installed (pip install 'focusdoc[bench]')"}
    if settings.gguf is None and known_model(settings.model or DEFAULT_MODEL) is None:
        return {"llama.cpp": "the model has no GGUF file of its own here (--gguf names one)"}
    return {}


def busy_machine() -> str | None:
    """A warning if other work keeps the machine busy, which makes everything measured look slow."""
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    if load <= _BUSY * cores:
        return None
    return (
        f"The load of this machine is {load:.1f} on {cores} cores: other work is running, and what is measured beside "
        "it is too slow. Run this again when nothing else runs."
    )


def _measured(case: Case, settings: Settings, output: Path, start: Start) -> dict[str, Any]:
    """The measurements of one case. What a memory mode stored is reopened by another process, and then removed."""
    if case.task not in CHUNKED:
        return start(case.task, case, settings, None)
    with tempfile.TemporaryDirectory(prefix=".store-", dir=output) as store:
        row = start(case.task, case, settings, store)
        if "error" in row:
            return row
        reopened = start(REOPEN, case, settings, store)
    return {**row, **({"reopen_note": reopened["error"]} if "error" in reopened else reopened)}
