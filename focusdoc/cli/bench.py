"""``focusdoc bench``: speed and memory by length, ours beside full attention, the paper's decoding and llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from focusdoc.cli import options
from focusdoc.cli.display import errors, output
from focusdoc.cli.eval_options import check_lengths, lengths_in, names_in

_WHAT, _RUN = "What is measured", "The run"


def bench(
    output_folder: Annotated[
        Path,
        typer.Option(
            "--output", metavar="DIR", help="Where bench.json, bench.md and the figures go.", rich_help_panel=_RUN
        ),
    ] = Path("runs/bench"),
    lengths: Annotated[
        str | None,
        typer.Option(metavar="N,...", help="Lengths of the document in tokens; K is 1,024.", rich_help_panel=_WHAT),
    ] = None,
    contenders: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Of focus (ours), int8, look, full, paper, llama.cpp, far.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    chunk_sizes: Annotated[
        str | None,
        typer.Option(metavar="N,...", help="Of ours; without it, the adapter's own and 2,048.", rich_help_panel=_WHAT),
    ] = None,
    full_limit: Annotated[
        str, typer.Option(metavar="N", help="Full attention goes no further.", rich_help_panel=_WHAT)
    ] = "16K",
    paper_limit: Annotated[
        str, typer.Option(metavar="N", help="The paper's decoding goes no further.", rich_help_panel=_WHAT)
    ] = "16K",
    llama_limit: Annotated[
        str, typer.Option(metavar="N", help="llama.cpp goes no further.", rich_help_panel=_WHAT)
    ] = "8K",
    far_length: Annotated[
        str, typer.Option(metavar="N", help="How far goes, where --contenders names it.", rich_help_panel=_WHAT)
    ] = "400K",
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", help="Tokens that are timed behind each first one (16).", rich_help_panel=_WHAT),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What is read; without it, the Python reference.", rich_help_panel=_WHAT),
    ] = None,
    gguf: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="What llama.cpp runs; without it, the model's of the catalogue.", rich_help_panel=_WHAT
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A short look: 2K and 4K tokens, few steps.", rich_help_panel=_WHAT)
    ] = False,
    model: options.Model = None,
    adapter: options.Adapter = "auto",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
) -> None:
    """Measure reading, first tokens, further tokens and memory by length, each in a process of its own.

    What the output folder holds already is not measured again. Nothing else should run meanwhile.
    """
    # Options are checked before anything is loaded.
    wanted = lengths_in(lengths or ("2K,4K" if quick else "8K,16K,32K,64K,128K"))
    limits = {"full": full_limit, "paper": paper_limit, "llama.cpp": llama_limit}
    furthest = lengths_in(far_length)[0]
    steps = (4 if quick else 16) if steps is None else steps
    check_lengths(steps, "steps")
    from focusdoc.benchmark.cases import Options, Settings
    from focusdoc.benchmark.child import in_child
    from focusdoc.benchmark.report import markdown, write_report
    from focusdoc.benchmark.runner import busy_machine, run
    from focusdoc.evaluation.needed import needed

    chosen = Options(
        lengths=wanted,
        contenders=names_in(contenders) or Options.contenders,
        chunk_sizes=lengths_in(chunk_sizes) if chunk_sizes else (),
        beside_own=() if quick else Options.beside_own,
        limits={name: lengths_in(limit)[0] for name, limit in limits.items()},
        far_length=furthest,
    )
    settings = Settings(
        model=model,
        adapter=None if adapter == "none" else adapter,
        device=device,
        dtype=dtype,
        text=str(text) if text else None,
        steps=steps,
        gguf=str(gguf) if gguf else None,
    )
    needed("matplotlib", "bench")  # missed now, not after hours
    if warning := busy_machine():
        errors.print(f"Warning: {warning}", style="yellow", markup=False, soft_wrap=True)
    results = run(chosen, settings, output_folder, start=in_child, tell=_tell)
    output.print(markdown(results), markup=False, soft_wrap=True)
    for path in write_report(output_folder):
        _tell(str(path))


def _tell(sentence: str) -> None:
    errors.print(sentence, markup=False, soft_wrap=True)
