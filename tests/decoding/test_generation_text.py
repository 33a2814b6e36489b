"""Streaming text: whatever the tokens are, the pieces joined are the text, and stop strings never show."""

from __future__ import annotations

from itertools import pairwise

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import decoders, models
from transformers import PreTrainedTokenizerFast

from focusdoc.decoding.generation import TextStream


class ByteTokens:
    """A tokenizer whose token i is the i-th of some byte strings, cut anywhere, in the middle of a character too."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def decode(self, token_ids: list[int], **_: object) -> str:
        return b"".join(self._pieces[token] for token in token_ids).decode(errors="replace")


def cut(text: str, places: list[int]) -> list[bytes]:
    """The UTF-8 bytes of `text`, cut at `places`."""
    data = text.encode()
    edges = [0, *sorted({place for place in places if 0 < place < len(data)}), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def stream(pieces: list[bytes], stop: list[str] | None = None) -> tuple[TextStream, list[str]]:
    """What a stream of these tokens gives, piece by piece, up to its stop or its end."""
    text = TextStream(ByteTokens(pieces), stop or [])
    given_out = []
    for token in range(len(pieces)):
        given_out.append(text.add(token))
        if text.stopped:
            return text, given_out
    return text, [*given_out, text.finish()]


def byte_fallback() -> PreTrainedTokenizerFast:
    """Letters and single bytes as tokens, as in the tokenizers of Llama 2 and Gemma."""
    tokens = ["<unk>", "a", "b", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[], byte_fallback=True, unk_token="<unk>")
    )
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


texts = st.text(st.sampled_from("ab né\n€😀.\ufffd"), max_size=20)
places = st.lists(st.integers(0, 80), max_size=40)


class TestPieces:
    @given(texts, places)
    def test_joined_are_the_text(self, text: str, at: list[int]) -> None:
        streamed, pieces = stream(cut(text, at))
        assert "".join(pieces) == streamed.text == text

    @given(st.lists(st.binary(max_size=4), max_size=12))
    def test_joined_are_the_text_of_any_bytes(self, tokens: list[bytes]) -> None:
        streamed, pieces = stream(tokens)
        assert "".join(pieces) == streamed.text == b"".join(tokens).decode(errors="replace")

    @given(texts.filter(lambda text: "\ufffd" not in text), places)
    def test_never_hold_half_a_character(self, text: str, at: list[int]) -> None:
        _, pieces = stream(cut(text, at))
        assert not any("\ufffd" in piece for piece in pieces)

    def test_come_as_soon_as_they_are_certain(self) -> None:
        euro = "€".encode()
        _, pieces = stream([b"a", b"b " + euro[:1], euro[1:], b"c"], ["c!"])
        assert pieces == ["a", "b ", "€", "", "c"]

    def test_an_unfinished_last_character_is_given_out_at_the_end(self) -> None:
        streamed, pieces = stream([b"a", "€".encode()[:2]])
        assert pieces == ["a", "", "\ufffd"]
        assert streamed.text == "a\ufffd"

    def test_no_token_gives_no_text(self) -> None:
        streamed, pieces = stream([])
        assert (streamed.text, pieces, streamed.stopped) == ("", [""], False)

    def test_finishing_twice_gives_nothing_twice(self) -> None:
        text = TextStream(ByteTokens([b"a<"]), ["<end>"])
        assert (text.add(0), text.finish(), text.finish()) == ("a", "<", "")

    def test_special_tokens_are_left_out(self) -> None:
        tokenizer = byte_fallback()
        tokenizer.add_special_tokens({"eos_token": "<end>"})
        text = TextStream(tokenizer)
        assert [text.add(1), text.add(tokenizer.eos_token_id), text.add(2)] == ["a", "", "b"]

    def test_spaces_before_punctuation_stay_whatever_the_tokenizer_would_tidy_up(self) -> None:
        words = {"<unk>": 0, "yes": 1, " ": 2, ".": 3}
        backend = tokenizers.Tokenizer(models.WordLevel(words, unk_token="<unk>"))
        backend.decoder = decoders.Fuse()
        text = TextStream(PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=True))
        assert "".join([*(text.add(token) for token in (1, 2, 3)), text.finish()]) == text.text == "yes ."

    @given(st.lists(st.sampled_from([1, 2, *(3 + byte for byte in (0x0A, 0x41, *"é€".encode()))]), max_size=10))
    @example([3 + 0x0A, 3 + 0xC3])  # the line feed was certain, and then becomes part of a broken run of bytes
    def test_joined_are_the_text_where_a_byte_changes_the_bytes_before_it(self, token_ids: list[int]) -> None:
        text = TextStream(_BYTE_FALLBACK)
        pieces = [*(text.add(token) for token in token_ids), text.finish()]
        assert "".join(pieces) == text.text

    def test_whole_characters_come_out_of_single_bytes(self) -> None:
        text = TextStream(_BYTE_FALLBACK)
        pieces = [text.add(token) for token in (1, *(3 + byte for byte in "\n😀".encode()), 2)]
        assert pieces == ["a", "\n", "", "", "", "😀", "b"]


_BYTE_FALLBACK = byte_fallback()


class TestStopStrings:
    @given(
        texts, places, st.lists(st.text(st.sampled_from("ab né€\n"), min_size=1, max_size=4), min_size=1, max_size=3)
    )
    def test_cut_the_text_where_they_first_come(self, text: str, at: list[int], stops: list[str]) -> None:
        tokens = cut(text, at)
        streamed, pieces = stream(tokens, stops)
        # As soon as the tokens so far hold a stop string, the text ends before the first one in it.
        expected, stopped = text, False
        for count in range(1, len(tokens) + 1):
            so_far = b"".join(tokens[:count]).decode(errors="replace")
            if found := [so_far.index(stop) for stop in stops if stop in so_far]:
                expected, stopped = so_far[: min(found)], True
                break
        assert ("".join(pieces), streamed.text, streamed.stopped) == (expected, expected, stopped)

    @pytest.mark.parametrize(
        ("tokens", "stops", "text"),
        [
            pytest.param([b"yes", b"\n", b"no"], ["\n"], "yes", id="a token of its own"),
            pytest.param([b"yes. So", b" what"], [". "], "yes", id="inside a token"),
            pytest.param([b"a<", b"en", b"d>b"], ["<end>"], "a", id="over several tokens"),
            pytest.param([b"aab"], ["ab"], "a", id="begun twice"),
            pytest.param([b"xa", b"b", b"c"], ["abc", "b"], "xa", id="one inside another, the inner one ends first"),
            pytest.param([b"xabc"], ["abc", "b"], "x", id="one inside another, both in one token"),
            pytest.param([b"x12", b"123"], ["123"], "x12", id="a false start"),
            pytest.param([b"n", "né".encode()[1:2], "né".encode()[2:]], ["né"], "", id="ends in a cut character"),
            pytest.param([b"stop"], ["stop"], "", id="nothing before it"),
        ],
    )
    def test_cases(self, tokens: list[bytes], stops: list[str], text: str) -> None:
        streamed, pieces = stream(tokens, stops)
        assert ("".join(pieces), streamed.text, streamed.stopped) == (text, text, True)

    def test_a_beginning_that_comes_to_nothing_is_given_out(self) -> None:
        streamed, pieces = stream([b"a<e", b"x", b"<en"], ["<end>"])
        assert pieces == ["a", "<ex", "", "<en"]
        assert not streamed.stopped
