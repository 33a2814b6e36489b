"""One measurement in a process of its own, so that its peak memory is its own and nothing is warm from another one.

The request goes to the child as a file of JSON, and its result comes back as one; the child is this module run as a
program.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from focusdoc.benchmark.cases import Case, Settings
from focusdoc.errors import FocusdocError

#: What a child can be asked besides the contenders of `cases`: about the machine and the model, and, where another one
#: stored a memory, to reopen it, or to find the pass key in it.
MACHINE, REOPEN, RECALL = "machine", "reopen", "recall"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What one child does.

    Attributes:
        work: a contender, `MACHINE`, `REOPEN` or `RECALL`.
        case: None for `MACHINE`.
        store: the folder in which memories are kept; None for none.
    """

    work: str
    settings: Settings
    case: Case | None = None
    store: str | None = None

    @classmethod
    def from_json(cls, text: str) -> Request:
        """The request in `text`."""
        values = json.loads(text)
        case = Case(**values["case"]) if values["case"] else None
        return cls(work=values["work"], settings=Settings(**values["settings"]), case=case, store=values["store"])


def in_child(request: Request) -> dict[str, Any]:
    """Do `request` in a new process; the result, or ``{"error": "..."}`` if it came to nothing."""
    with tempfile.TemporaryDirectory(prefix="focusdoc-bench-") as folder:
        asked, answered = Path(folder) / "request.json", Path(folder) / "result.json"
        asked.write_text(json.dumps(asdict(request)), encoding="utf-8")
        # The store of this measurement is on, whatever the user's setting for the one of their own.
        child = subprocess.run(
            [sys.executable, "-m", "focusdoc.benchmark.child", str(asked), str(answered)],
            env={**os.environ, "FOCUSDOC_STORE": "on"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        if answered.exists():
            result: dict[str, Any] = json.loads(answered.read_text(encoding="utf-8"))
            return result
        last = child.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        if child.returncode < 0:
            return {"error": f"the process was ended by signal {-child.returncode}; out of memory, perhaps"}
        return {"error": last or f"the process ended with {child.returncode}"}


def do(request: Request) -> dict[str, Any]:
    """Do `request` in this process."""
    from focusdoc.benchmark import far, machine, others, ours
    from focusdoc.benchmark.passage import source_text

    if request.case is None:
        engine = ours.load_engine(request.settings)
        return {
            "facts": machine.facts(engine, source_text(request.settings.text)),
            "rates": machine.rates(engine),
        }
    work = {
        "focus": ours.measure_memory_mode,
        "int8": ours.measure_memory_mode,
        "look": ours.measure_memory_mode,
        "paper": ours.measure_paper_mode,
        "full": others.measure_full_attention,
        "llama.cpp": others.measure_llama_cpp,
        "far": far.measure_reading,
        REOPEN: ours.measure_reopening,
        RECALL: far.measure_recall,
    }[request.work]
    return work(request.case, request.settings, request.store)


def main(asked: str, answered: str) -> None:
    """The child's side: read the request, do it, write the result."""
    from focusdoc.modeling.quiet import quiet_libraries

    try:
        with quiet_libraries():
            result = do(Request.from_json(Path(asked).read_text(encoding="utf-8")))
    except FocusdocError as error:
        result = {"error": str(error)}
    Path(answered).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
