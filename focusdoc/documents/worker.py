"""The child process that parses an untrusted file: the file on stdin, JSON on stdout.

Run as ``python -m focusdoc.documents.worker``. It starts in 0.1 s, since it imports no model libraries.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import asdict
from importlib import import_module
from typing import Any

from focusdoc.documents.child import limit_process
from focusdoc.documents.joining import as_typed
from focusdoc.documents.limits import LoadLimits
from focusdoc.documents.parsed import Parsed, Refused, Request
from focusdoc.errors import DocumentError

#: The modules whose function `read` parses each kind of file; imported on demand.
_READERS = {"pdf": "pdf", "html": "web", "zip": "packed", "email": "mail"}
_MAX_MESSAGE = 1000


def main() -> None:
    """Answer one request on stdin: a line of JSON with the settings, then the file's bytes."""
    answer_file = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries that print must not corrupt the answer
    given = json.loads(sys.stdin.buffer.readline())
    given["limits"] = LoadLimits(**given["limits"])
    request = Request(**given)
    # Of CPU time a little more than the parent waits, in case it has died.
    limit_process(request.limits.max_memory, int(request.limits.max_seconds) + 5)
    answer = _answer(request, sys.stdin.buffer.read())
    answer_file.write(json.dumps(answer).encode("ascii"))
    answer_file.close()


def _answer(request: Request, data: bytes) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    try:
        parsed: Parsed = import_module(f"focusdoc.documents.{_READERS[request.kind]}").read(data, request)
        parsed.pages = list(map(as_typed, parsed.pages))
        _check_size(parsed, request.limits)
        return asdict(parsed)
    except Refused as error:
        return {"error": error.kind, "message": str(error)}
    except DocumentError as error:
        return {"error": "refused", "message": str(error)}
    except ModuleNotFoundError as error:
        return {"error": "missing", "message": str(error.name)}
    except MemoryError:
        return {"error": "memory", "message": ""}
    except RecursionError:
        return {"error": "limit", "message": "it is nested too deeply"}
    except Exception as error:
        return {"error": _kind(error), "message": f"{type(error).__name__}: {error}"[:_MAX_MESSAGE].rstrip(".")}


def _check_size(parsed: Parsed, limits: LoadLimits) -> None:
    if len(parsed.pages) > limits.max_pages:
        raise Refused("pages", f"{len(parsed.pages):,} {parsed.unit}s")
    characters = sum(map(len, parsed.pages))
    if characters > limits.max_characters:
        raise Refused("characters", f"{characters:,} in all")


def _kind(error: Exception) -> str:
    """The error kind of a parser's exception."""
    names = {base.__name__ for base in type(error).__mro__}
    if "DependencyError" in names:
        return "dependency"
    # Cycles are reported inconsistently, as limit or as damage.
    return "limit" if "LimitReachedError" in names or "cyclic" in str(error) else "damaged"


if __name__ == "__main__":
    main()
