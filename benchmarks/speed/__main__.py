"""``python -m benchmarks.speed``: measure, and write the report."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.speed.cases import CONTENDERS, Options, Settings
from benchmarks.speed.run import busy_machine, in_child, run
from focusdoc.cli.eval_options import lengths_in, names_in
from focusdoc.errors import ConfigError, FocusdocError


def main(arguments: list[str] | None = None) -> None:
    """Measure reading, first tokens, further tokens and memory by length, each in a process of its own.

    What the output folder holds already is not measured again. Nothing else should run meanwhile.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=main.__doc__)
    told = "; ".join(f"{name}: {what}" for name, what in CONTENDERS.items())
    parser.add_argument("--output", type=Path, default=Path("runs/bench"), help="where rows, report and figures go")
    parser.add_argument("--lengths", help="of the document in tokens, such as 8K,16K; K is 1,024")
    parser.add_argument("--contenders", help=f"names with commas between. {told}")
    parser.add_argument("--chunk-sizes", help="of ours; without it, the adapter's own and 2,048")
    parser.add_argument("--full-limit", default="16K", help="full attention goes no further")
    parser.add_argument("--paper-limit", default="16K", help="the paper's decoding goes no further")
    parser.add_argument("--llama-limit", default="8K", help="llama.cpp goes no further")
    parser.add_argument("--far-length", default="400K", help="how far goes, where --contenders names it")
    parser.add_argument("--steps", type=int, help="tokens that are timed behind each first one (16)")
    parser.add_argument("--text", help="what is read; without it, the Python reference")
    parser.add_argument("--gguf", help="what llama.cpp runs; without it, the model's of the catalogue")
    parser.add_argument("--quick", action="store_true", help="a short look: 2K and 4K tokens, few steps")
    parser.add_argument("--model", help="a name of the catalogue, a folder or a Hugging Face name")
    parser.add_argument("--adapter", default="auto", help="a folder, auto or none")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    try:
        _measure(parser.parse_args(arguments))
    except FocusdocError as error:
        parser.error(str(error))


def _measure(given: argparse.Namespace) -> None:
    # Everything is checked before anything is loaded.
    steps = (4 if given.quick else 16) if given.steps is None else given.steps
    if steps < 1:
        raise ConfigError(f"--steps is {steps}; it must be at least 1.")
    limits = {"full": given.full_limit, "paper": given.paper_limit, "llama.cpp": given.llama_limit}
    options = Options(
        lengths=lengths_in(given.lengths or ("2K,4K" if given.quick else "8K,16K,32K,64K,128K")),
        contenders=names_in(given.contenders) or Options.contenders,
        chunk_sizes=lengths_in(given.chunk_sizes) if given.chunk_sizes else (),
        beside_own=() if given.quick else Options.beside_own,
        limits={name: lengths_in(limit)[0] for name, limit in limits.items()},
        far_length=lengths_in(given.far_length)[0],
    )
    settings = Settings(
        model=given.model,
        adapter=None if given.adapter == "none" else given.adapter,
        device=given.device,
        dtype=given.dtype,
        text=given.text,
        steps=steps,
        gguf=given.gguf,
    )
    from benchmarks.speed.report import write_report  # pandas is missed now, not after hours

    if warning := busy_machine():
        _tell(f"Warning: {warning}")
    omitted = run(options, settings, given.output, start=in_child, tell=_tell)
    paths = write_report(given.output, omitted)
    print((given.output / "bench.md").read_text(encoding="utf-8"))
    for path in paths:
        _tell(str(path))


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
