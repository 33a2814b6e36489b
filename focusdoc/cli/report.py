"""``focusdoc report``: tables and figures from the results of ``focusdoc eval``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from focusdoc.cli.dataclass_options import option
from focusdoc.cli.display import errors, say


def report(
    results: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Outputs of focusdoc eval, or parent folders.")
    ],
    output_folder: Annotated[
        Path, option("The folder for report.md, report.html and the figures.", None, "DIR", "--output")
    ] = Path("report"),
    reference: Annotated[
        Path | None, option("Reference results as JSON, instead of the paper's.", None, "FILE")
    ] = None,
) -> None:
    """Write a report: the paper's tables and figures, with ours and the baselines side by side."""
    with errors.status("Scoring and drawing"):
        from focusdoc.evaluation.report import load_reference, write_report

        written = write_report(results, output_folder, load_reference(reference))
    for path in written:
        say(str(path))
