"""Running the cases, each in its own process, so that peak memory is separate and nothing is warm.

Every row is written at once (`focusdoc.evaluation.results`), so that a stopped run can resume.
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
from focusdoc.evaluation import results
from focusdoc.modeling.catalogue import DEFAULT_MODEL, known_model

#: Load per core above which measurements are not reliable.
_BUSY = 0.25

#: Runs a piece of work (a contender, `MACHINE` or `REOPEN`) for a case, with a folder for the store.
Start = Callable[[str, Case, Settings, str | None], dict[str, Any]]
Notify = Callable[[str], None]


def run(options: Options, settings: Settings, output: Path, *, start: Start, notify: Notify) -> list[str]:
    """Measure the cases of `options` that `output` does not have yet; failed ones are repeated.

    Args:
        start: `in_child`.
        notify: called with a sentence before each measurement.

    Returns:
        A sentence for each omitted case.

    Raises:
        EvaluationError: `output` has results of another configuration or machine, or the model cannot be loaded.
    """
    notify("Measuring the machine and the model.")
    found = start(MACHINE, Case(MACHINE), settings, None)
    if "error" in found:
        raise EvaluationError(found["error"])
    folder = results.ResultFolder(output, {"benchmark": "speed", **found["facts"], "steps": settings.steps})
    cases, omitted = plan(options, found["facts"], missing_contenders(settings))

    def work(case: Case) -> dict[str, Any]:
        if case.task == MACHINE:
            rates: dict[str, Any] = found["rates"]
            return rates
        notify(f"{case}.")
        row = _measured(case, settings, output, start)
        if "error" in row:
            notify(f"{case} failed: {row['error']}")
        return row

    results.run([Case(MACHINE), *cases], work, folder, resume=True, retry=True)
    return omitted


def in_child(work: str, case: Case, settings: Settings, store: str | None) -> dict[str, Any]:
    """Run a piece of work in a new process; returns the result, or ``{"error": "..."}``."""
    return isolated(_do, work, case, settings, store)


def isolated(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Call `function` in a new process; returns ``{"error": "..."}`` if it raises or the process dies."""
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
    except Exception as error:  # one failing measurement must not end the run; its row has the error
        kind = "" if isinstance(error, FocusdocError) else f"{type(error).__name__}: "
        sender.send({"error": f"{kind}{error}"})


def _do(work: str, case: Case, settings: Settings, store: str | None) -> dict[str, Any]:
    # The measurement's store is on, even if the user turned theirs off.
    os.environ["FOCUSDOC_STORE"] = "on"
    from benchmarks.speed.measurements import do
    from focusdoc.modeling.quiet import quiet_libraries

    with quiet_libraries():
        return do(work, case, settings, store)


def missing_contenders(settings: Settings) -> dict[str, str]:
    """The contenders that cannot run here, with the reason."""
    if importlib.util.find_spec("xllamacpp") is None:
        return {"llama.cpp": "the package xllamacpp is not installed (pip install 'focusdoc[bench]')"}
    if settings.gguf is None and known_model(settings.model or DEFAULT_MODEL) is None:
        return {"llama.cpp": "the model has no GGUF file in the catalogue (give --gguf)"}
    return {}


def busy_machine() -> str | None:
    """A warning if other processes keep the machine busy, which slows all measurements."""
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    if load <= _BUSY * cores:
        return None
    return (
        f"The load of this machine is {load:.1f} on {cores} cores: other processes are running and slow the "
        "measurements. Run this again when nothing else runs."
    )


def _measured(case: Case, settings: Settings, output: Path, start: Start) -> dict[str, Any]:
    """The measurements of one case. A stored memory is opened by another process and then removed."""
    if case.task not in CHUNKED:
        return start(case.task, case, settings, None)
    with tempfile.TemporaryDirectory(prefix=".store-", dir=output) as store:
        row = start(case.task, case, settings, store)
        if "error" in row:
            return row
        reopened = start(REOPEN, case, settings, store)
    return {**row, **({"reopen_note": reopened["error"]} if "error" in reopened else reopened)}
