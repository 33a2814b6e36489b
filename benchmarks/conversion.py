"""Time and peak memory of converting a GGUF file, for docs/models.md.

python benchmarks/conversion.py FILE.gguf [--transformers]

The files of installed models are in the folder ``models`` of the cache.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path


def by_transformers(file: Path, folder: Path) -> None:
    """The same as `convert` with transformers, without the tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)


def main() -> None:
    """Convert to a temporary folder and print time and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--transformers", action="store_true")
    args = parser.parse_args()
    file: Path = args.file.resolve()

    from focusdoc.modeling.conversion import convert

    with tempfile.TemporaryDirectory() as folder:
        started, worked = time.perf_counter(), time.process_time()
        if args.transformers:
            by_transformers(file, Path(folder))
        else:
            convert(file, Path(folder), file.stem, lambda done, total: None)
        seconds, worked = time.perf_counter() - started, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{seconds:.1f} s ({worked:.1f} s of CPU time), peak {peak:.2f} GB, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
