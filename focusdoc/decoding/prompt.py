"""The local context of a question: a prompt around it, in the format the model knows.

The same code builds prompts for asking and for training, so the two never drift apart. Whatever a user or a
document wrote is encoded as plain text: a chat template's special tokens come from the template alone.
"""

from __future__ import annotations

import operator
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from torch import Tensor

from focusdoc.config import FocusConfig, GenerationConfig, Grammar, at_least
from focusdoc.errors import ConfigError, PromptTooLongError
from focusdoc.memory.chunk_memory import DocumentMemory, MemoryBlock
from focusdoc.modeling.base import BaseModel
from focusdoc.texts import check_text

PromptStyle = Literal["auto", "chat", "plain"]
#: Token ids of a local context with a text of passages in it.
RenderQuoted = Callable[[str], Sequence[int]]


#: Said to chat models; short, because every chunk reads it again with every question.
SYSTEM_PROMPT = "Answer from the document."


#: Between the parts of one message, and between merged messages.
GAP = "\n\n"


class Options(TypedDict, total=False):
    """What may be said with every question; those without a line here are `focusdoc.config.GenerationConfig`'s.

    Attributes:
        style: the prompt format, see `question_prompt`.
        overview: whether the question asks about the whole document, so that a reader gets passages of all chunks;
            None to tell it by English words, such as "summarize".
        max_sources: at most this many sources, 0 or more (3); each takes a pass over one chunk.
        cancel: set it from another thread to end the answer after the current token.
    """

    style: PromptStyle
    overview: bool | None
    max_sources: int
    cancel: threading.Event | None
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    stop: str | Sequence[str]
    seed: int | None
    ignore_eos: bool
    grammar: Grammar | None


@dataclass(frozen=True, slots=True)
class Asked:
    """What an answer is asked for, and how.

    Attributes:
        memories: of the documents; none where there are no documents, or they are not read yet.
        has_documents: whether there are documents, read or not.
        local_ids, prompt_ids: see `focusdoc.decoding.generation.AnswerDecoder.start`.
        tokenizer: of the base model.
        said: the conversation that the prompt renders, as (role, content), which ends with the question; empty where
            the prompt is no conversation.
        quoted: renders the prompt again with a text of passages in it, and ends as that does; None to quote none.
        overview: whether it asks about the whole of the documents; None to tell it by its words.
        max_sources: at most this many sources, 0 or more.
        cancel: set it to end the answer after the current token.
    """

    memories: Sequence[DocumentMemory]
    local_ids: Sequence[int]
    prompt_ids: Sequence[int]
    settings: GenerationConfig
    tokenizer: Any
    said: Sequence[tuple[str, str]] = ()
    quoted: RenderQuoted | None = None
    overview: bool | None = None
    max_sources: int = 3
    cancel: threading.Event | None = None
    has_documents: bool = True

    def __post_init__(self) -> None:
        at_least("max_sources", self.max_sources, 0)

    @property
    def blocks(self) -> list[MemoryBlock]:
        """The chunks of all memories, in their order."""
        return [block for memory in self.memories for block in memory.blocks]

    @classmethod
    def words(
        cls, base: BaseModel, config: FocusConfig, memories: Sequence[DocumentMemory], question: str, options: Options
    ) -> Asked:
        """A question in words.

        Args:
            config: with its open settings filled in.

        Raises:
            ConfigError, PromptTooLongError: as `rendered`.
        """
        style = options.get("style", "auto")

        def render(quoted: str = "") -> list[int]:
            with base.tokenizer_lock:
                return question_prompt(tokenizer_of(base), question, style, quoted)

        return cls.rendered(base, config, memories, render(), options, said=[("user", question)], quoted=render)

    @classmethod
    def rendered(
        cls,
        base: BaseModel,
        config: FocusConfig,
        memories: Sequence[DocumentMemory],
        ids: list[int],
        options: Options,
        **more: Any,
    ) -> Asked:
        """A local context that the caller rendered, with `more` of the attributes.

        Raises:
            ConfigError: there is no tokenizer, or an option is out of range. PromptTooLongError: it does not fit into
                the local window.
        """
        if len(ids) > config.local_window and more.get("has_documents", True):
            raise PromptTooLongError(
                f"The question takes {len(ids)} tokens with its template, more than the local window of "
                f"{config.local_window}; shorten it, or raise local_window."
            )
        generation: dict[str, Any] = dict(options)
        generation.pop("style", None)
        more |= {name: generation.pop(name) for name in ("overview", "max_sources", "cancel") if name in generation}
        settings = GenerationConfig(**generation)
        local_ids, prompt_ids = local_and_prompt(base, config, ids) if more.get("has_documents", True) else (ids, ids)
        return cls(memories, local_ids, prompt_ids, settings, tokenizer_of(base), **more)


def tokenizer_of(base: BaseModel) -> Any:
    """The tokenizer of a model.

    Raises:
        ConfigError: it came without one.
    """
    if base.tokenizer is None:
        raise ConfigError(
            f"{base.name} came without a tokenizer, so it can neither read text nor be asked in words; "
            "pass tokenizer=, put tokenizer.json beside the weights, or use generate(input_ids)."
        )
    return base.tokenizer


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Token ids of `text` as plain text: no special tokens added, none recognised in it.

    Raises:
        ConfigError: it holds half of a surrogate pair.
    """
    check_text(text, "The text")
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return ids


def encode_messages(tokenizer: Any, messages: Sequence[tuple[str, str]]) -> list[int]:
    """Token ids of a conversation, given as (role, content), up to where the assistant's answer begins.

    Messages of one role in a row become one, and a template that knows no system role gets the system's words in
    front of the user's. The template is rendered around placeholders, and contents are encoded apart from it, so that
    no content can speak as template.

    Raises:
        ConfigError: the template drops, repeats or reorders messages.
    """
    turns = merged(messages)
    try:
        return _encode_turns(tokenizer, turns)
    except Exception as error:
        # A template that knows no system role raises jinja2's TemplateError, or drops the message without a word.
        if type(error).__name__ != "TemplateError" and not isinstance(error, ConfigError):
            raise
        return _encode_turns(tokenizer, merged(("user" if role == "system" else role, text) for role, text in turns))


def merged(turns: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Messages as (role, content), those of one role in a row as one: many templates want roles that take turns."""
    found: list[tuple[str, str]] = []
    for role, text in turns:
        if found and found[-1][0] == role:
            found[-1] = (role, GAP.join((found[-1][1], text)))
        else:
            found.append((role, text))
    return found


def _encode_turns(tokenizer: Any, messages: Sequence[tuple[str, str]]) -> list[int]:
    marks = [f"\ue000{secrets.token_hex(8)}\ue001" for _ in messages]
    rendered = _render(tokenizer, [(role, mark) for (role, _), mark in zip(messages, marks, strict=True)])
    any_mark = "|".join(marks)
    if re.findall(any_mark, rendered) != marks:
        raise ConfigError("The model's chat template drops, repeats or reorders messages; use the plain prompt style.")
    *before, after = re.split(any_mark, rendered)
    ids: list[int] = []
    for part, (_, content) in zip(before, messages, strict=True):
        ids += _template_part(tokenizer, part, first=not ids) + _without_prefix(tokenizer, content, encode_text)
    return ids + _template_part(tokenizer, after, first=False)


def _template_part(tokenizer: Any, text: str, *, first: bool) -> list[int]:
    """Token ids of the template's own text, special tokens and all."""

    def encode(tokenizer: Any, text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    return encode(tokenizer, text) if first else _without_prefix(tokenizer, text, encode)


def _without_prefix(tokenizer: Any, text: str, encode: Callable[[Any, str], list[int]]) -> list[int]:
    """Token ids of a text that continues another one.

    Some tokenizers (Llama 2) put a space in front of every text they get; encoded behind a line break, and that
    line break taken off again, a text has none.
    """
    if encode(tokenizer, "a") == encode(tokenizer, " a") or not text:
        guard = encode(tokenizer, "\n")
        guarded = encode(tokenizer, "\n" + text)
        if guarded[: len(guard)] == guard:
            return guarded[len(guard) :]
    return encode(tokenizer, text)


def question_prompt(tokenizer: Any, question: str, style: PromptStyle = "auto", quoted: str = "") -> list[int]:
    """Token ids of the local context of `question`, up to where the answer begins.

    Args:
        style: ``"chat"`` uses the tokenizer's chat template, ``"plain"`` a question-and-answer continuation,
            ``"auto"`` the chat template where there is one.
        quoted: passages of the document that stand in front of the question.

    Raises:
        ConfigError: the question is empty or no text; ``"chat"`` for a tokenizer that has no chat template, or a
            template that cannot hold a question.
    """
    if not isinstance(question, str) or not question.strip():
        raise ConfigError(f"The question {question!r} is empty or no text; ask something.")
    if style not in ("auto", "chat", "plain"):
        raise ConfigError(f"style is {style!r}; choose 'auto', 'chat' or 'plain'.")
    check_text(question, "The question")
    asked = quoted_before(question, quoted)
    has_template = bool(getattr(tokenizer, "chat_template", None))
    if style == "chat" and not has_template:
        raise ConfigError("This model's tokenizer has no chat template; use the prompt style 'plain' or 'auto'.")
    if style == "plain" or not has_template:
        text = quoted_before(f"Question: {question}\nAnswer:", quoted)
        return begin_of_text(tokenizer) + encode_text(tokenizer, text)
    return encode_messages(tokenizer, [("system", SYSTEM_PROMPT), ("user", asked)])


def quoted_before(text: str, quoted: str) -> str:
    """`text` with passages of the document in front of it, if there are any."""
    return f"{quoted}\n\n{text}" if quoted else text


def _render(tokenizer: Any, messages: Sequence[tuple[str, str]]) -> str:
    turns = [{"role": role, "content": content} for role, content in messages]
    text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    return text


def begin_of_text(tokenizer: Any) -> list[int]:
    """The BOS token, if this tokenizer puts one in front of a text by itself."""
    ids = tokenizer("a")["input_ids"]
    return [ids[0]] if len(ids) > 1 and ids[0] == tokenizer.bos_token_id else []


def local_and_prompt(base: BaseModel, config: FocusConfig, ids: list[int]) -> tuple[list[int], list[int]]:
    """The local context and the dynamic prompt cut from its tail.

    In refresh mode the prompt is at most a chunk long (paper_mode section 1.3: p = min(512, S, local size)). Where
    the BOS rule holds, each has the BOS token in front unless it begins with it.

    Args:
        config: with ``chunk_size`` filled in.
        ids: the local context, at least one token.
    """
    window = config.prompt_window
    if config.local_attention == "refresh":
        window = min(window, config.chunk_size or window)
    prompt_ids = ids[-window:]
    if not config.uses_bos:
        return ids, prompt_ids
    bos = bos_token(base, config)
    return (
        ids if ids[0] == bos else [bos, *ids],
        prompt_ids if prompt_ids[0] == bos else [bos, *prompt_ids],
    )


def bos_token(base: BaseModel, config: FocusConfig) -> int:
    """The BOS token of the configuration, else the model's.

    Raises:
        ConfigError: neither names one.
    """
    bos = config.bos_token_id
    if bos is None:
        bos = getattr(base.config, "bos_token_id", None)
    if not isinstance(bos, int):
        raise ConfigError(f"{base.name} names no BOS token; set FocusConfig.bos_token_id, or prompt_bos=False.")
    return bos


def flat_ids(input_ids: Sequence[int] | Tensor, vocab_size: int) -> list[int]:
    """Token ids as a list; a tensor may be [n] or [1, n].

    Raises:
        ConfigError: they are not one sequence of at least one token of the vocabulary.
    """
    if isinstance(input_ids, Tensor):
        if input_ids.dim() == 2 and input_ids.shape[0] == 1:
            input_ids = input_ids[0]
        if input_ids.dim() != 1:
            raise ConfigError(f"input_ids has the shape {tuple(input_ids.shape)}; pass one sequence, [n] or [1, n].")
        input_ids = input_ids.tolist()
    try:
        ids = [operator.index(token) for token in input_ids]
    except TypeError as error:
        raise ConfigError(f"input_ids must be one sequence of whole numbers ({error}).") from error
    if not ids:
        raise ConfigError("input_ids is empty; pass at least one token.")
    wrong = next((token for token in ids if not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise ConfigError(f"input_ids holds {wrong}; the model's tokens are 0 to {vocab_size - 1}.")
    return ids
