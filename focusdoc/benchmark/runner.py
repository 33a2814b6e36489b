"""Measuring case after case, with everything on disk as it comes: a run that was stopped goes on where it was."""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from focusdoc.benchmark.cases import CHUNKED, Case, Options, Settings, plan
from focusdoc.benchmark.child import MACHINE, RECALL, REOPEN, Request
from focusdoc.errors import EvaluationError
from focusdoc.evaluation.results import check_same
from focusdoc.modeling.catalogue import DEFAULT_MODEL, known_model
from focusdoc.storage import atomic_write, file_lock

#: Where the measurements stand in the output folder.
RESULTS = "bench.json"
_LOCK = ".lock"
#: A machine that is busier than this, per core, is not measured but disturbed.
_BUSY = 0.25

Start = Callable[[Request], dict[str, Any]]
Tell = Callable[[str], None]


def run(options: Options, settings: Settings, output: Path, *, start: Start, tell: Tell) -> dict[str, Any]:
    """Measure what `options` says that `output` does not hold yet.

    Args:
        start: does one request, in a process of its own: `focusdoc.benchmark.child.in_child`.
        tell: is told in a sentence what is being measured.

    Returns:
        What ``bench.json`` holds: configuration, rates of the machine, omitted cases, rows by their case.

    Raises:
        EvaluationError: `output` holds results of another configuration or machine, or the model cannot be loaded.
    """
    output.mkdir(parents=True, exist_ok=True)
    with file_lock(output / _LOCK, timeout=1):
        tell("Looking at the machine and the model.")
        found = start(Request(work=MACHINE, settings=settings))
        if "error" in found:
            raise EvaluationError(found["error"])
        results = _opened(output, {**found["facts"], "steps": settings.steps}, found["rates"])
        cases, results["omitted"] = plan(options, found["facts"], missing_contenders(settings))
        # A case that failed is tried again; one that was measured stays as it is.
        left = [case for case in cases if "error" in results["rows"].get(case.key, {"error": ""})]
        for number, case in enumerate(left, start=1):
            tell(f"{number} of {len(left)}: {case}.")
            row = _measure(case, settings, output, start)
            if "error" in row:
                tell(f"{case} failed: {row['error']}")
            results["rows"][case.key] = {
                "contender": case.contender,
                "length": case.length,
                "chunk_size": case.chunk_size,
                **row,
            }
            _write(output, results)
        _write(output, results)
    return results


def load_results(output: Path) -> dict[str, Any]:
    """What ``bench.json`` in `output` holds.

    Raises:
        EvaluationError: there is none, or it is damaged.
    """
    path = output / RESULTS
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not results.keys() >= {"configuration", "rates", "omitted", "rows"}:
            raise ValueError("parts are missing")
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} holds no results of focusdoc bench ({error}); name another folder.") from error
    return results


def missing_contenders(settings: Settings) -> dict[str, str]:
    """Why contenders cannot run here at all."""
    if importlib.util.find_spec("xllamacpp") is None:
        return {"llama.cpp": "the package xllamacpp is not installed (pip install 'focusdoc[bench]')"}
    if settings.gguf is None and known_model(settings.model or DEFAULT_MODEL) is None:
        return {"llama.cpp": "the model has no GGUF file of its own here (--gguf names one)"}
    return {}


def busy_machine() -> str | None:
    """A warning if other work keeps the machine busy, which makes everything measured look slow."""
    if not hasattr(os, "getloadavg"):
        return None
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load <= _BUSY * cores:
        return None
    return (
        f"The load of this machine is {load:.1f} on {cores} cores: other work is running, and what is measured beside "
        "it is too slow. Run this again when nothing else runs."
    )


def _measure(case: Case, settings: Settings, output: Path, start: Start) -> dict[str, Any]:
    """The measurements of one case. What a memory mode stored is reopened by another process, and then removed."""
    if case.contender not in CHUNKED:
        return start(Request(work=case.contender, settings=settings, case=case))
    with tempfile.TemporaryDirectory(prefix=".store-", dir=output) as store:
        row = start(Request(work=case.contender, settings=settings, case=case, store=store))
        if "error" in row:
            return row
        work = RECALL if case.contender == "far" else REOPEN
        reopened = start(Request(work=work, settings=settings, case=case, store=store))
    if "error" in reopened:
        return {**row, "reopen_note": reopened["error"]}
    return {**row, **reopened}


def _opened(output: Path, configuration: Mapping[str, Any], rates: Mapping[str, float]) -> dict[str, Any]:
    """The results so far, or none."""
    if not (output / RESULTS).exists():
        return {"configuration": dict(configuration), "rates": dict(rates), "omitted": [], "rows": {}}
    results = load_results(output)
    check_same(output, results["configuration"], configuration)
    return results


def _write(output: Path, results: Mapping[str, Any]) -> None:
    atomic_write(output / RESULTS, (json.dumps(results, indent=1) + "\n").encode())
