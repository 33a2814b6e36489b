"""Threads and processes that begin with a cold engine: nothing was packed, and nothing was asked before."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from focusdoc import Document, FocusConfig, FocusEngine
from focusdoc.errors import ConfigError
from focusdoc.modeling.base import BaseModel
from tiny_models import random_adapter, tiny_model

TEXT = " ".join(f"The colour of house {number} is blue." for number in range(30))
QUESTIONS = ["What colour?", "Which house?", "Is house 9 red?"]


def model_of(tokenizer: Any) -> Any:
    return tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=1024)


def engine_on(base: BaseModel) -> FocusEngine:
    return FocusEngine(base, random_adapter(base.model), FocusConfig(chunk_size=64, local_window=256))


def answers_of(engine: FocusEngine) -> list[tuple[int, ...]]:
    memory = engine.read(Document.from_text(TEXT))
    return [engine.ask(memory, question, max_new_tokens=8, ignore_eos=True).token_ids for question in QUESTIONS]


def together(*work: Callable[[], Any]) -> list[Any]:
    """What each returns, all begun at once in threads of their own."""
    gate, found = threading.Barrier(len(work)), [None] * len(work)

    def one(index: int) -> None:
        gate.wait()
        found[index] = work[index]()

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.fixture
def wanted(tiny_tokenizer: Any) -> list[tuple[int, ...]]:
    return answers_of(engine_on(BaseModel(model_of(tiny_tokenizer), tiny_tokenizer)))


@pytest.mark.parametrize("trial", range(3))
def test_engines_over_one_base_model(tiny_tokenizer: Any, wanted: list[tuple[int, ...]], trial: int) -> None:
    base = BaseModel(model_of(tiny_tokenizer), tiny_tokenizer)
    engines = [engine_on(base) for _ in range(3)]
    assert together(*(lambda engine=engine: answers_of(engine) for engine in engines)) == [wanted] * 3
    assert [answers_of(engine) for engine in engines] == [wanted] * 3  # alone afterwards as well


@pytest.mark.parametrize("trial", range(3))
def test_engines_over_one_model_object(tiny_tokenizer: Any, wanted: list[tuple[int, ...]], trial: int) -> None:
    model = model_of(tiny_tokenizer)
    adapter = random_adapter(model)
    config = FocusConfig(chunk_size=64, local_window=256)
    engines = [FocusEngine(BaseModel(model, tiny_tokenizer), adapter, config) for _ in range(3)]
    assert together(*(lambda engine=engine: answers_of(engine) for engine in engines)) == [wanted] * 3
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("trial", range(3))
def test_first_questions_to_one_engine(tiny_tokenizer: Any, wanted: list[tuple[int, ...]], trial: int) -> None:
    engine = engine_on(BaseModel(model_of(tiny_tokenizer), tiny_tokenizer))
    assert together(*(lambda: answers_of(engine) for _ in range(4))) == [wanted] * 4


def test_packing_in_the_middle_of_a_pass_is_refused(tiny_tokenizer: Any) -> None:
    """It would find stand-ins in the places of the projections, and leave out the candidates."""
    engine = engine_on(BaseModel(model_of(tiny_tokenizer), tiny_tokenizer))
    weights = engine.require_adapter()

    class Packing:
        def attend(self, *args: Any) -> torch.Tensor:
            engine.base.packed(weights)
            raise AssertionError("packed during a pass")

    packed = engine.base.packed(weights)
    with pytest.raises(RuntimeError, match="during a pass"), torch.no_grad():
        engine.base.run(torch.tensor([[5]]), torch.tensor([[0]]), Packing(), weights=packed, num_candidates=1)


def test_candidates_of_a_projection_that_is_no_plain_linear_layer_are_kept(tiny_tokenizer: Any) -> None:
    class Adapted(torch.nn.Linear):
        """A linear layer of another class, as those that LoRA puts in."""

    model = model_of(tiny_tokenizer)
    plain = engine_on(BaseModel(model, tiny_tokenizer))
    for layer in model.model.layers:
        own = layer.self_attn.k_proj
        layer.self_attn.k_proj = Adapted(own.in_features, own.out_features, bias=False)
        layer.self_attn.k_proj.weight = own.weight
    assert answers_of(engine_on(BaseModel(model, tiny_tokenizer))) == answers_of(plain)


def _in_a_fork(ask: Callable[[], Any], said: Any) -> None:
    try:
        ask()
    except Exception as error:
        said.send((type(error), str(error)))
    else:
        said.send((None, ""))


@pytest.mark.parametrize("call", ["read", "ask", "generate"])
def test_a_fork_of_the_process_that_loaded_the_model_is_told_so(tiny_tokenizer: Any, call: str) -> None:
    engine = engine_on(BaseModel(model_of(tiny_tokenizer), tiny_tokenizer))
    memory = engine.read(Document.from_text(TEXT))
    torch.set_num_threads(2)  # a pool of threads, which a fork has not
    try:
        torch.ones(1 << 20).exp_()
        work = {
            "read": lambda: engine.read(Document.from_text(TEXT)),
            "ask": lambda: engine.ask(memory, "What colour?", max_new_tokens=2),
            "generate": lambda: engine.generate([5, 6, 7], max_new_tokens=2),
        }
        heard, said = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("fork").Process(target=_in_a_fork, args=(work[call], said))
        child.start()
        arrived = heard.poll(30)
        child.kill()
        child.join()
    finally:
        torch.set_num_threads(1)
    assert arrived, "the child waits for ever"
    kind, message = heard.recv()
    assert kind is ConfigError
    assert "spawn" in message
