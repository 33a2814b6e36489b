"""The caller's model stays as it is, during a pass as well; twins share its weights and nothing else."""

from __future__ import annotations

import copy
import threading
from types import MethodType
from typing import Any

import pytest
import torch
from torch import nn

from focusdoc.errors import UnsupportedModelError
from focusdoc.modeling.base import BaseModel, load_base
from focusdoc.modeling.twin import twin
from tiny_models import CLASSES, random_weights, tiny_model

TOKENS = torch.arange(3, 15)[None]


class Causal:
    """A causal layout that calls `meanwhile` in every layer."""

    def __init__(self, meanwhile: Any = lambda: None) -> None:
        self.meanwhile = meanwhile

    def attend(self, layer: int, query: Any, key: Any, value: Any, scaling: float, window: Any) -> torch.Tensor:
        self.meanwhile()
        groups = query.shape[1] // key.shape[1]
        keys, values = (states.repeat_interleave(groups, dim=1) for states in (key, value))
        return nn.functional.scaled_dot_product_attention(query, keys, values, is_causal=True, scale=scaling).transpose(
            1, 2
        )


def run(base: BaseModel, layout: Causal, **candidates: Any) -> torch.Tensor:
    with torch.no_grad():
        return base.run(TOKENS, torch.arange(12)[None], layout, **candidates)


@pytest.mark.parametrize("packs", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("family", CLASSES)
def test_the_callers_model_answers_as_before_while_a_pass_runs(family: str, packs: bool) -> None:
    model = tiny_model(family)
    config, modules = model.config.to_dict(), dict(model.named_modules())
    with torch.no_grad():
        before = model(TOKENS).logits
        found: list[torch.Tensor] = []
        base = BaseModel(model)
        weights: Any = base.packed(random_weights(model)) if packs else random_weights(model)
        run(base, Causal(lambda: found.append(model(TOKENS).logits)), weights=weights, num_candidates=3)
    assert len(found) == base.num_layers
    assert all(torch.equal(each, before) for each in found)
    assert model.config.to_dict() == config
    assert model.config._attn_implementation == "eager"
    assert dict(model.named_modules()) == modules


def test_a_model_in_training_stays_in_training() -> None:
    model = tiny_model("llama", attention_dropout=0.5).train()
    base = BaseModel(model)
    assert model.training
    assert all(module.training for module in model.modules())
    assert not base.model.training
    assert not base.decoder.training


def test_two_wrappers_of_one_model_and_of_one_config_never_mix() -> None:
    """Passes of one run between the layers of the other's, in threads that begin together."""
    model = tiny_model()
    other = type(model)(model.config)
    other.load_state_dict(model.state_dict())
    weights = [random_weights(model, seed) for seed in range(4)]
    wanted = [run(BaseModel(tiny_model()), Causal(), weights=each, num_candidates=4) for each in weights]
    bases = [BaseModel(model), BaseModel(model), BaseModel(other.eval()), BaseModel(model)]
    gate = threading.Barrier(4)
    found: dict[int, list[torch.Tensor]] = {index: [] for index in range(4)}

    def work(index: int) -> None:
        gate.wait()
        packed = bases[index].packed(weights[index])
        for _ in range(10):
            found[index].append(run(bases[index], Causal(), weights=packed, num_candidates=4))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(4):
        assert len(found[index]) == 10
        for each in found[index]:
            torch.testing.assert_close(each, wanted[index], atol=1e-5, rtol=1e-4)
    assert model.config._attn_implementation == "eager"


def test_a_twin_shares_weights_and_buffers_wherever_they_go() -> None:
    model = tiny_model()
    base = BaseModel(model)
    model.to(torch.bfloat16)
    assert base.dtype == torch.bfloat16
    own = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    assert {name: parameter.data_ptr() for name, parameter in base.model.named_parameters()} == own


def test_another_dtype_makes_a_copy_and_the_same_one_makes_none() -> None:
    model = tiny_model()
    assert load_base(model, dtype="float32").model.lm_head.weight is model.lm_head.weight
    converted = load_base(model, dtype="bfloat16")
    assert converted.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_tied_and_shared_modules_stay_shared() -> None:
    inner = nn.Linear(3, 3)
    tree = nn.ModuleDict({"a": inner, "b": nn.Sequential(inner), "c": nn.Linear(3, 3)})
    copied = twin(tree)
    assert copied["a"] is copied["b"][0]
    assert copied["a"] is not inner
    assert copied["a"].weight is inner.weight


def test_a_forward_of_an_instance_runs_on_the_twin() -> None:
    model = tiny_model()
    layer = model.model.layers[0]
    ran: list[nn.Module] = []
    plain = type(layer).forward

    def watched(self: nn.Module, *args: Any, **settings: Any) -> Any:
        ran.append(self)
        return plain(self, *args, **settings)

    layer.forward = MethodType(watched, layer)
    base = BaseModel(model)
    run(base, Causal())
    assert len(ran) == 1
    assert ran[0] is not layer


def test_the_hooks_of_accelerate_are_left_to_the_callers_model() -> None:
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    model = tiny_model()
    wanted = run(BaseModel(tiny_model()), Causal())
    for module in model.model.layers.modules():
        add_hook_to_module(module, AlignDevicesHook("cpu", io_same_device=True))
    asked: list[int] = []
    found = run(BaseModel(model), Causal(lambda: asked.append(1)))
    assert len(asked) == 2  # ours attends, not the model's own attention
    torch.testing.assert_close(found, wanted)
    with torch.no_grad():
        model(TOKENS)


def test_a_forward_that_cannot_be_copied_is_refused() -> None:
    model = tiny_model()
    model.model.norm.forward = lambda hidden: hidden
    with pytest.raises(UnsupportedModelError, match=r"LlamaRMSNorm was replaced"):
        BaseModel(model)


def test_the_callers_tokenizer_is_not_used(tiny_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)  # other tests may have left theirs splitting
    tokenizer.backend_tokenizer.encode_special_tokens = False
    base = BaseModel(tiny_model("llama", vocab_size=len(tokenizer)), tokenizer)
    base.tokenizer("<|end|>", split_special_tokens=True)
    assert base.tokenizer.backend_tokenizer.encode_special_tokens
    assert not tokenizer.backend_tokenizer.encode_special_tokens
