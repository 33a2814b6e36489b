"""``focusdoc calibrate``: find the retrieval heads of a model."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from focusdoc.cli import options
from focusdoc.cli.dataclass_options import option
from focusdoc.cli.display import errors, say


def calibrate(
    model: options.Model = None,
    text: Annotated[
        Path | None, option("Plant the facts in this text; by default in a text of other facts.", None, "FILE")
    ] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json_output: options.Json = False,
) -> None:
    """Find a model's retrieval heads, which find passages without an adapter, and show their hit rates.

    An engine without an adapter does this when it first reads a document. The result is cached under the model's
    fingerprint.
    """
    from focusdoc.modeling.quiet import quiet_libraries

    with errors.status("Starting") as status, quiet_libraries():
        from focusdoc.attention import attention_kernel
        from focusdoc.documents import load
        from focusdoc.modeling.base import load_base
        from focusdoc.training.calibration import calibrate, save_calibration

        contents = None if text is None else load(text).text
        base = load_base(model, device=device, dtype=dtype)

        def show_progress(done: int, steps: int) -> None:
            if errors.is_terminal:
                status.update(f"Looking for heads: {done / steps:.0%}")

        found = calibrate(base, attention_kernel("auto", base.device), text=contents, progress=show_progress)
    save_calibration(base, found)
    if json_output:
        print(json.dumps({"model": base.name, "layers": base.num_layers, **asdict(found)}, indent=2))
    else:
        say(f"{base.name}: {found}.")
