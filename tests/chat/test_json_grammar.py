"""Constrained decoding: whatever a random model says, the answer is JSON of the schema."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from focusdoc import FocusConfig, FocusEngine
from focusdoc.chat.json_grammar import ANY_OBJECT, JsonGrammar, grammar_tokenizer
from focusdoc.errors import ConfigError
from focusdoc.modeling.base import BaseModel
from tiny_models import tiny_model

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "code": {"type": "string", "pattern": "^[0-9]{6}$"},
        "kind": {"enum": ["red", "green"]},
        "sure": {"type": "boolean"},
    },
    "required": ["code", "kind", "sure"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine(tiny_tokenizer: Any) -> FocusEngine:
    model = tiny_model("llama", vocab_size=len(tiny_tokenizer) + 5, max_position_embeddings=1024)  # with padding rows
    return FocusEngine(BaseModel(model, tiny_tokenizer, "tiny"), None, FocusConfig(chunk_size=64, local_window=256))


@pytest.mark.parametrize("seed", range(3))
def test_a_random_models_answer_fits_the_schema(engine: FocusEngine, seed: int) -> None:
    grammar = JsonGrammar(grammar_tokenizer(engine.base), SCHEMA)
    settings = {"max_new_tokens": 120, "temperature": 1.5, "top_k": 20, "seed": seed, "grammar": grammar}
    found = engine.generate([5, 6, 7], **settings)
    assert found.finish_reason == "stop"
    said = json.loads(engine.base.tokenizer.decode(found.token_ids, skip_special_tokens=True))
    assert said.keys() == {"code", "kind", "sure"}
    assert len(said["code"]) == 6
    assert said["code"].isdigit()
    assert said["kind"] in ("red", "green")


@pytest.mark.parametrize("seed", range(3))
def test_an_object_may_be_made_of_several(engine: FocusEngine, seed: int) -> None:
    parts = [
        {"type": "object", "properties": {name: {"type": "boolean"}}, "required": [name]} for name in ("old", "new")
    ]
    grammar = JsonGrammar(grammar_tokenizer(engine.base), {"allOf": parts})
    settings = {"max_new_tokens": 120, "temperature": 1.5, "seed": seed, "grammar": grammar}
    said = json.loads(engine.base.tokenizer.decode(engine.generate([5, 6], **settings).token_ids, True))
    assert said.keys() == {"old", "new"}


OWN = {"type": "object", "properties": {"new": {"type": "boolean"}}, "required": ["new"]}
DEFINED = {"type": "object", "properties": {"old": {"type": "boolean"}}, "required": ["old"]}


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"$ref": "#/$defs/D"}, OWN]},
        {"allOf": [{"$ref": "#/$defs/D", "description": "an old one"}, OWN]},
        {"$ref": "#/$defs/D", **OWN},
        {"allOf": [{"$ref": "#/$defs/E"}], **OWN},
    ],
    ids=["allOf", "described", "beside", "two levels"],
)
def test_an_object_may_add_to_one_defined_elsewhere(engine: FocusEngine, schema: dict[str, Any]) -> None:
    schema = schema | {"$defs": {"D": DEFINED, "E": {"allOf": [{"$ref": "#/$defs/D"}, {"properties": {"x": {}}}]}}}
    grammar = JsonGrammar(grammar_tokenizer(engine.base), schema)
    orders = ('{"old":true,"new":true', '{"new":true,"old":true')  # as the schema has them
    assert any(allows(engine, grammar, text) for text in orders)
    assert not any(allows(engine, grammar, text + "}") for text in ('{"old":true', '{"new":true'))


def allows(engine: FocusEngine, grammar: JsonGrammar, text: str) -> bool:
    state, scores = grammar.start(), torch.zeros(1, engine.base.config.vocab_size)
    for token in engine.base.tokenizer.encode(text, add_special_tokens=False):
        if not torch.isfinite(state.mask(scores)[0, token]):
            return False
        state.accept(token)
    return True


def test_an_object_may_hold_itself(engine: FocusEngine) -> None:
    node = {"type": "object", "properties": {"v": {"type": "boolean"}, "next": {"allOf": [{"$ref": "#/$defs/N"}]}}}
    JsonGrammar(grammar_tokenizer(engine.base), {"$ref": "#/$defs/N", "$defs": {"N": node}}).start()


def test_a_schema_that_grows_without_end_is_refused(engine: FocusEngine) -> None:
    many = [{"type": "object", "properties": {f"p{part}-{name}": {} for name in range(20)}} for part in range(200)]
    with pytest.raises(ConfigError, match="allOf joins 200 objects of 4000 properties"):
        JsonGrammar(grammar_tokenizer(engine.base), {"allOf": many})
    nested: dict[str, Any] = {}
    for _ in range(5000):
        nested = {"allOf": [nested]}
    with pytest.raises(ConfigError, match="This JSON schema cannot be used"):
        JsonGrammar(grammar_tokenizer(engine.base), nested)


def test_one_grammar_serves_many_answers(engine: FocusEngine) -> None:
    grammar = JsonGrammar(grammar_tokenizer(engine.base), SCHEMA)
    answers = [engine.generate([5, 6], max_new_tokens=120, grammar=grammar).token_ids for _ in range(2)]
    assert answers[0] == answers[1]


def test_an_object_holds_the_named_properties_alone(engine: FocusEngine) -> None:
    inner = {"type": "object", "properties": {"properties": {"type": "boolean"}}, "required": ["properties"]}
    schema = {
        "type": "object",
        "properties": {"inner": {"$ref": "#/$defs/I"}},
        "required": ["inner"],
        "$defs": {"I": inner},
    }
    for seed in range(4):
        grammar = JsonGrammar(grammar_tokenizer(engine.base), schema)
        found = engine.generate([5, 6], max_new_tokens=60, temperature=1.5, seed=seed, grammar=grammar)
        said = json.loads(engine.base.tokenizer.decode(found.token_ids, skip_special_tokens=True))
        assert said in ({"inner": {"properties": True}}, {"inner": {"properties": False}})


def test_an_answer_cut_by_its_budget_says_so_and_stays_as_it_was_written(engine: FocusEngine) -> None:
    schema = {"type": "object", "properties": {"setup": {"type": "string"}}, "required": ["setup"]}
    for seed in range(6):
        grammar = JsonGrammar(grammar_tokenizer(engine.base), schema)
        settings = {"temperature": 1.5, "seed": seed, "grammar": grammar}
        longer, cut = (engine.generate([5, 6], max_new_tokens=count, **settings) for count in (30, 14))
        assert cut.token_ids == longer.token_ids[:14]
        assert cut.finish_reason == "length"


def test_an_answer_that_is_whole_with_its_last_token_is_not_called_cut(engine: FocusEngine) -> None:
    grammar = JsonGrammar(grammar_tokenizer(engine.base), SCHEMA)
    whole = engine.generate([5, 6], max_new_tokens=120, grammar=grammar)
    again = engine.generate([5, 6], max_new_tokens=len(whole.token_ids), grammar=grammar)
    assert (again.token_ids, again.finish_reason) == (whole.token_ids, "stop")
    short = engine.generate([5, 6], max_new_tokens=len(whole.token_ids) - 1, grammar=grammar)
    assert short.finish_reason == "length"
    assert json.loads(engine.base.tokenizer.decode(whole.token_ids))


def test_any_object(engine: FocusEngine) -> None:
    state = JsonGrammar(grammar_tokenizer(engine.base), ANY_OBJECT).start()
    import torch

    scores = state.mask(torch.zeros(1, engine.base.config.vocab_size))[0]
    assert engine.base.tokenizer.decode(scores.isfinite().nonzero()[:, 0].tolist()) == "{"


@pytest.mark.parametrize("schema", [{"type": "no such type"}, 7])
def test_what_is_no_schema_is_refused(engine: FocusEngine, schema: Any) -> None:
    with pytest.raises(ConfigError, match="JSON schema cannot be used"):
        JsonGrammar(grammar_tokenizer(engine.base), schema)


def test_what_is_no_grammar_is_refused(engine: FocusEngine) -> None:
    with pytest.raises(ConfigError, match="grammar is 'json'"):
        engine.generate([5], grammar="json")


def test_a_model_without_a_tokenizer_has_no_grammar(engine: FocusEngine) -> None:
    with pytest.raises(ConfigError, match="no fast tokenizer"):
        grammar_tokenizer(BaseModel(engine.base.model, None, "bare"))
