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
    """Measure reading, first tokens, further tokens and memory by length, each in its own process.

    Existing results in the output folder are kept. Nothing else should run at the same time.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=main.__doc__)
    listed = "; ".join(f"{name}: {what}" for name, what in CONTENDERS.items())
    parser.add_argument("--output", type=Path, default=Path("runs/bench"), help="folder for rows, report and figures")
    parser.add_argument("--lengths", help="of the document in tokens, such as 8K,16K; K is 1,024")
    parser.add_argument("--contenders", help=f"comma-separated names. {listed}")
    parser.add_argument("--chunk-sizes", help="of ours; by default the adapter's and 2,048")
    parser.add_argument("--full-limit", default="16K", help="longest document of full attention")
    parser.add_argument("--paper-limit", default="16K", help="longest document of the paper's decoding")
    parser.add_argument("--llama-limit", default="8K", help="longest document of llama.cpp")
    parser.add_argument("--far-length", default="400K", help="length of the contender far")
    parser.add_argument("--steps", type=int, help="tokens to time after each first one (16)")
    parser.add_argument("--text", help="the document; by default the Python reference")
    parser.add_argument("--gguf", help="the file for llama.cpp; by default the catalogue's")
    parser.add_argument("--quick", action="store_true", help="a short run: 2K and 4K tokens, few steps")
    parser.add_argument("--model", help="a name of the catalogue, a folder or a Hugging Face name")
    parser.add_argument("--adapter", default="auto", help="a folder, auto or none")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    try:
        _measure(parser.parse_args(arguments))
    except FocusdocError as error:
        parser.error(str(error))


def _measure(args: argparse.Namespace) -> None:
    # Everything is checked before anything is loaded.
    steps = (4 if args.quick else 16) if args.steps is None else args.steps
    if steps < 1:
        raise ConfigError(f"--steps is {steps}; it must be at least 1.")
    limits = {"full": args.full_limit, "paper": args.paper_limit, "llama.cpp": args.llama_limit}
    options = Options(
        lengths=lengths_in(args.lengths or ("2K,4K" if args.quick else "8K,16K,32K,64K,128K")),
        contenders=names_in(args.contenders) or Options.contenders,
        chunk_sizes=lengths_in(args.chunk_sizes) if args.chunk_sizes else (),
        beside_own=() if args.quick else Options.beside_own,
        limits={name: lengths_in(limit)[0] for name, limit in limits.items()},
        far_length=lengths_in(args.far_length)[0],
    )
    settings = Settings(
        model=args.model,
        adapter=None if args.adapter == "none" else args.adapter,
        device=args.device,
        dtype=args.dtype,
        text=args.text,
        steps=steps,
        gguf=args.gguf,
    )
    from benchmarks.speed.report import write_report  # fails now without pandas, not after hours

    if warning := busy_machine():
        _print_note(f"Warning: {warning}")
    omitted = run(options, settings, args.output, start=in_child, notify=_print_note)
    paths = write_report(args.output, omitted)
    print((args.output / "bench.md").read_text(encoding="utf-8"))
    for path in paths:
        _print_note(str(path))


def _print_note(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
