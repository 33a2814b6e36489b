"""``focusdoc store``: list, verify and remove stored documents."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from focusdoc.cli import options
from focusdoc.cli.display import errors, output
from focusdoc.terminal import in_bytes, plain

if TYPE_CHECKING:
    from pathlib import Path

    from focusdoc.memory.entries import Entry

store = typer.Typer(no_args_is_help=True, help="List, verify and remove stored documents.")

#: Exit code if a memory is damaged.
DAMAGED = 1


@store.command(name="list", epilog="For example: focusdoc store list --json")
def list_(json_output: options.Json = False) -> None:
    """List the stored documents, which need not be read again, last used first."""
    from focusdoc.memory.entries import list_entries, size_limit, used_bytes

    folder, limit = _folder(), size_limit()
    found = list_entries(folder)
    used = used_bytes(folder)
    if json_output:
        values = [_as_json(entry) for entry in found]
        print(json.dumps({"folder": str(folder), "bytes": used, "limit_bytes": limit, "documents": values}, indent=2))
        return
    if not found:
        output.print(f"No document is stored in {folder}.", markup=False, soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False)
    for name in ("document", "model", "tokens", "size", "last used"):
        table.add_column(name, justify="right" if name in ("tokens", "size") else "left", overflow="fold")
    for entry in found:
        table.add_row(*(Text(cell) for cell in _row(entry)))
    output.print(table, soft_wrap=not output.is_terminal)
    output.print(
        f"{_count(len(found))}, {in_bytes(used)} of at most {in_bytes(limit)}, in {folder}.",
        markup=False,
        soft_wrap=True,
    )


@store.command(epilog="For example: focusdoc store verify")
def verify(json_output: options.Json = False) -> None:
    """Verify the checksums of all stored memories and remove damaged ones; exit code 1 if there are any."""
    from focusdoc.memory.entries import verify_entries

    with errors.status("Checking") as status:
        found = verify_entries(_folder(), lambda name: status.update(f"Checking {_markup_free(name)}"))
    damaged = [entry for entry in found if entry.damaged]
    if json_output:
        print(json.dumps({"checked": len(found), "documents": [_as_json(entry) for entry in found]}, indent=2))
    else:
        for entry in found:
            if entry.problem is not None:
                action = "removed; it will be read again" if entry.damaged else "kept"
                output.print(f"{_name(entry)}: {entry.problem}; {action}.", markup=False, soft_wrap=True)
        output.print(f"{_count(len(found))} checked, {len(damaged)} damaged.", markup=False)
    if damaged:
        raise typer.Exit(DAMAGED)


@store.command(epilog="For example: focusdoc store clear --yes")
def clear(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json_output: options.Json = False,
) -> None:
    """Remove all stored documents; they will be read again."""
    from focusdoc.memory.entries import clear_entries, entry_folders

    folder = _folder()
    count = len(entry_folders(folder))
    if count and not yes and not json_output and sys.stdin.isatty():
        typer.confirm(f"Remove {_count(count)} from {folder}?", abort=True, err=True)
    removed, num_bytes = clear_entries(folder)
    if json_output:
        print(json.dumps({"removed": removed, "bytes": num_bytes}))
    else:
        output.print(f"{_count(removed)} removed, {in_bytes(num_bytes)}.", markup=False)


def _folder() -> Path:
    from focusdoc.memory.entries import store_folder

    return store_folder()


def _as_json(entry: Entry) -> dict[str, Any]:
    known = entry.manifest
    return {
        "document": known.document if known else None,
        "model": known.model if known else None,
        "tokens": known.num_tokens if known else None,
        "chunk_size": known.chunk_size if known else None,
        "dtype": known.segments[0].dtype if known else None,
        "bytes": entry.num_bytes,
        "last_used": datetime.fromtimestamp(entry.last_used).astimezone().isoformat(timespec="seconds"),
        "problem": entry.problem,
        "folder": str(entry.path),
    }


def _row(entry: Entry) -> list[str]:
    known = entry.manifest
    used = f"{datetime.fromtimestamp(entry.last_used):%Y-%m-%d %H:%M}"
    if known is None:
        return [f"({entry.problem})", "", "", in_bytes(entry.num_bytes), used]
    model = f"{plain(known.model)}, {known.segments[0].dtype}, chunks of {known.chunk_size:,}"
    return [_name(entry), model, f"{known.num_tokens:,}", in_bytes(entry.num_bytes), used]


def _name(entry: Entry) -> str:
    return plain(entry.manifest.document) or "(no name)" if entry.manifest else entry.path.name


def _count(number: int) -> str:
    return "1 document" if number == 1 else f"{number:,} documents"


def _markup_free(text: str) -> str:
    from rich.markup import escape

    return escape(plain(text))
