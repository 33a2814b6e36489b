"""Cutting a prompt that is too long, by tokens: in the middle, as LongBench does, or to its tail."""

from __future__ import annotations

from typing import Any

from focusdoc.decoding.prompt import encode_text


def decode_text(tokenizer: Any, ids: list[int]) -> str:
    """The text of token ids."""
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def cut_middle(tokenizer: Any, text: str, limit: int) -> tuple[str, str, int]:
    """The two ends of a text that together take `limit` tokens, half each, and how many tokens were dropped.

    A text that is short enough comes back whole, as the first end.
    """
    ids = encode_text(tokenizer, text)
    if len(ids) <= limit:
        return text, "", 0
    half = limit // 2
    first, last = ids[:half], ids[len(ids) - half :]
    return decode_text(tokenizer, first), decode_text(tokenizer, last), len(ids) - 2 * half


def cut_tail(tokenizer: Any, text: str, limit: int) -> tuple[str, int]:
    """The last `limit` tokens of a text, and how many tokens were dropped in front of them."""
    ids = encode_text(tokenizer, text)
    if len(ids) <= limit:
        return text, 0
    return decode_text(tokenizer, ids[-limit:]), len(ids) - limit


def split_prompt(tokenizer: Any, document: str, question: str, limit: int | None) -> tuple[str, str, int]:
    """Document and question, cut in the middle so that together they take at most `limit` tokens.

    Returns:
        Document, question, and how many tokens were dropped. The cut goes through the document unless the question
        takes more than half of the tokens.
    """
    if limit is None:
        return document, question, 0
    first, last, dropped = cut_middle(tokenizer, document + question, limit)
    if dropped == 0:
        return document, question, 0
    if last.endswith(question):
        return first + last.removesuffix(question), question, dropped
    return first, last, dropped


def keep_local(tokenizer: Any, document: str, question: str, limit: int) -> tuple[str, str]:
    """Document and question, with the beginning of a question of more than `limit` tokens moved to the document.

    So the last `limit` tokens of a prompt are its local context, as in the paper (section 3.1).
    """
    local, dropped = cut_tail(tokenizer, question, limit)
    if dropped == 0 or not question.endswith(local):
        return document, question
    return document + question.removesuffix(local), local
