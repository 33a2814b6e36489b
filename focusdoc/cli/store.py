"""``focusdoc store``: list, verify and remove stored documents."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from focusdoc.cli import options
from focusdoc.cli.display import count_of, errors, markup_free, say, show_table
from focusdoc.terminal import in_bytes, plain

if TYPE_CHECKING:
    from focusdoc.memory.entries import Entry

store = typer.Typer(no_args_is_help=True, help="List, verify and remove stored documents.")

#: Exit code if a memory is damaged.
DAMAGED = 1


@store.command(name="list", epilog="For example: focusdoc store list --json")
def list_(json_output: options.Json = False) -> None:
    """List the stored documents, which need not be read again, last used first."""
    from focusdoc.memory.entries import list_entries, size_limit, store_folder, used_bytes

    folder, limit = store_folder(), size_limit()
    found = list_entries(folder)
    used = used_bytes(folder)
    if json_output:
        values = [_as_json(entry) for entry in found]
        print(json.dumps({"folder": str(folder), "bytes": used, "limit_bytes": limit, "documents": values}, indent=2))
        return
    if not found:
        say(f"No document is stored in {folder}.")
        return
    show_table(("document", "model", "tokens", "size", "last used"), [*map(_row, found)], right=("tokens", "size"))
    say(f"{count_of(len(found))}, {in_bytes(used)} of at most {in_bytes(limit)}, in {folder}.")


@store.command(epilog="For example: focusdoc store verify")
def verify(json_output: options.Json = False) -> None:
    """Verify the checksums of all stored memories and remove damaged ones; exit code 1 if there are any."""
    from focusdoc.memory.entries import store_folder, verify_entries

    with errors.status("Checking") as status:
        found = verify_entries(store_folder(), lambda name: status.update(f"Checking {markup_free(name)}"))
    damaged = [entry for entry in found if entry.damaged]
    if json_output:
        print(json.dumps({"checked": len(found), "documents": [_as_json(entry) for entry in found]}, indent=2))
    else:
        for entry in found:
            if entry.problem is not None:
                action = "removed; it will be read again" if entry.damaged else "kept"
                say(f"{_name(entry)}: {entry.problem}; {action}.")
        say(f"{count_of(len(found))} checked, {len(damaged)} damaged.")
    if damaged:
        raise typer.Exit(DAMAGED)


@store.command(epilog="For example: focusdoc store clear --yes")
def clear(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False, json_output: options.Json = False
) -> None:
    """Remove all stored documents; they will be read again."""
    from focusdoc.memory.entries import clear_entries, entry_folders, store_folder

    folder = store_folder()
    count = len(entry_folders(folder))
    if count and not yes and not json_output and sys.stdin.isatty():
        typer.confirm(f"Remove {count_of(count)} from {folder}?", abort=True, err=True)
    removed, num_bytes = clear_entries(folder)
    if json_output:
        print(json.dumps({"removed": removed, "bytes": num_bytes}))
    else:
        say(f"{count_of(removed)} removed, {in_bytes(num_bytes)}.")


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
