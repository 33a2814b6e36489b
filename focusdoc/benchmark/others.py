"""What full attention takes over the same tokens: in transformers, and in llama.cpp."""

from __future__ import annotations

import os
import time
from typing import Any

import torch

from focusdoc.benchmark.cases import Case, Settings
from focusdoc.benchmark.clocks import median
from focusdoc.benchmark.memory_use import PeakMemory
from focusdoc.benchmark.passage import passage, source_text
from focusdoc.evaluation.needed import needed
from focusdoc.modeling.base import load_base
from focusdoc.modeling.catalogue import DEFAULT_MODEL, known_model
from focusdoc.modeling.installed import find_gguf

#: Positions that llama.cpp wants free behind prompt and answer.
_ROOM = 8
_WARM_UP_TOKENS = 64


@torch.no_grad()
def measure_full_attention(case: Case, settings: Settings, store: str | None) -> dict[str, Any]:
    """Transformers' own prefill of the whole text and greedy steps behind it, with its own cache and sdpa."""
    base = load_base(settings.model, device=settings.device, dtype=settings.dtype)
    model = base.model
    model.set_attn_implementation("sdpa")
    _, ids = passage(base.tokenizer, source_text(settings.text), case.length)
    tokens = torch.tensor([ids], device=base.device)
    model(input_ids=tokens[:, :_WARM_UP_TOKENS], use_cache=True, logits_to_keep=1)
    peak = PeakMemory(base.device)
    begun = time.perf_counter()
    output = model(input_ids=tokens, use_cache=True, logits_to_keep=1)
    token = int(output.logits[0, -1].argmax())
    read = time.perf_counter() - begun
    steps: list[float] = []
    for _ in range(settings.steps):
        begun = time.perf_counter()
        fed = torch.tensor([[token]], device=base.device)
        output = model(input_ids=fed, past_key_values=output.past_key_values, use_cache=True, logits_to_keep=1)
        token = int(output.logits[0, -1].argmax())
        steps.append(time.perf_counter() - begun)
    return {
        "tokens": len(ids),
        "read_seconds": read,
        "first_seconds": read,
        "token_seconds": median(steps),
        "kv_bytes": len(ids) * base.kv_bytes_per_token,
        "peak_bytes": peak.growth(),
    }


def measure_llama_cpp(case: Case, settings: Settings, store: str | None) -> dict[str, Any]:
    """The server that llama.cpp is, in this process, with as many threads as torch takes.

    It goes no further than the model's own context, so the prompt is cut to leave room for the answer.
    """
    base = load_base(settings.model, device="cpu")
    _, ids = passage(base.tokenizer, source_text(settings.text), case.length)
    ids = ids[: base.context_length - settings.steps - _ROOM]
    llama = needed("xllamacpp", "bench")
    known = known_model(settings.model or DEFAULT_MODEL)
    path = settings.gguf or (str(find_gguf(known)) if known is not None else "")  # the runner asks for one of the two
    params = llama.CommonParams()
    params.model.path = path
    params.n_ctx = len(ids) + settings.steps + _ROOM
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.verbosity = -1
    for threads in (params.cpuparams, params.cpuparams_batch):
        threads.n_threads = torch.get_num_threads()
    peak = PeakMemory(torch.device("cpu"))
    server = llama.Server(params)
    asked = {"prompt": ids, "n_predict": settings.steps + 1, "cache_prompt": False, "ignore_eos": True}
    timings = server.handle_completions({**asked, "temperature": 0.0})["timings"]
    weights = os.path.getsize(path)
    return {
        "tokens": timings["prompt_n"],
        "read_seconds": timings["prompt_ms"] / 1000,
        "first_seconds": timings["prompt_ms"] / 1000,
        "token_seconds": timings["predicted_per_token_ms"] / 1000,
        "peak_bytes": max(0, peak.growth() - weights),
        "version": getattr(llama, "__version__", ""),
    }
