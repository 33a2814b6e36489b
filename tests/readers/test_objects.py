"""Readers that are other libraries' model objects: their pieces, stop strings, errors, and what they refuse."""

from __future__ import annotations

import copy
import threading
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from focusdoc.config import GenerationConfig
from focusdoc.errors import ConfigError, FocusdocError, ReaderError
from focusdoc.readers import Reader, open_reader
from focusdoc.readers.objects import Ended, ObjectReader
from focusdoc.readers.reader import Messages, Written
from focusdoc.readers.stops import Stops

MESSAGES = [("user", "Who?")]


class Sample(ObjectReader):
    """Says `parts`; an exception among them is raised."""

    def __init__(self, *parts: str | Exception, ended: Ended | None = None, window: int | None = None) -> None:
        super().__init__(SimpleNamespace(model="sample", window=window))
        self.parts = parts
        self.ended = ended or Ended()
        self.closed = False
        self.stop: tuple[str, ...] = ()

    def context_window(self) -> int | None:
        window: int | None = self.model.window
        return window

    def pieces(self, messages: Messages, stop: tuple[str, ...]) -> Generator[str, None, Ended]:
        self.stop = stop
        try:
            for part in self.parts:
                if isinstance(part, Exception):
                    raise part
                yield part
        finally:
            self.closed = True
        return self.ended


def written(reader: ObjectReader, cancel: threading.Event | None = None, **settings: Any) -> tuple[list[str], Written]:
    stream, pieces = reader.write(MESSAGES, GenerationConfig(**settings), cancel), []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


def test_is_a_reader_of_as_large_a_window_as_it_says() -> None:
    reader = Sample(window=100)
    assert isinstance(reader, Reader)
    assert open_reader(reader) is reader
    assert (reader.window, Sample().window) == (100, 8192)


def test_its_name_is_the_models_or_its_classs_and_copies_share_it() -> None:
    reader = Sample()
    assert (reader.name, repr(reader)) == ("sample", "Sample(SimpleNamespace, 'sample')")
    reader.model = None
    assert copy.deepcopy([reader])[0] is reader
    ObjectReader.__init__(reader, object())
    assert reader.name == "object"


def test_a_window_that_cannot_be_asked_for_is_a_readers_error() -> None:
    reader = Sample()
    del reader.model.window
    with pytest.raises(ReaderError, match=r"reader sample failed: .*window"):
        reader.window  # noqa: B018  # it is asked for when it is needed


def test_pieces_come_as_they_are_and_the_rest_is_told() -> None:
    pieces, ended = written(Sample("One", " two", ended=Ended("length", 5, 7)))
    assert pieces == ["One", " two"]
    assert (ended.finish_reason, ended.prompt_tokens, ended.completion_tokens) == ("length", 5, 7)
    assert ended.first_token >= 0


def test_what_it_does_not_tell_is_estimated() -> None:
    _, ended = written(Sample("One", " two"))
    assert (ended.finish_reason, ended.prompt_tokens, ended.completion_tokens) == ("stop", 2, 2)


def test_a_stop_string_ends_it_wherever_its_pieces_are_cut() -> None:
    reader = Sample("One E", "N", "D two", "three")
    pieces, ended = written(reader, stop="END")
    assert pieces == ["One "]
    assert (ended.finish_reason, reader.stop, reader.closed) == ("stop", ("END",), True)
    assert "".join(written(Sample("One E", "N"), stop="END")[0]) == "One EN"


def test_cancelling_closes_it() -> None:
    reader, cancel = Sample("One", "two", "three"), threading.Event()
    cancel.set()
    pieces, ended = written(reader, cancel)
    assert (pieces, ended.finish_reason, reader.closed) == (["One"], "cancelled", True)


def test_what_it_raises_is_a_readers_error_in_few_words() -> None:
    with pytest.raises(ReaderError, match=r"reader sample failed: no route x+$") as failed:
        written(Sample("One", OSError("no route " + "x" * 5000)))
    assert len(str(failed.value)) < 400
    assert isinstance(failed.value.__cause__, OSError)
    with pytest.raises(ReaderError, match="failed: KeyError"):
        written(Sample(KeyError()))
    with pytest.raises(FocusdocError, match=r"^as it is$"):
        written(Sample(FocusdocError("as it is")))


@pytest.mark.parametrize(
    "setting", [{"temperature": 0.5}, {"top_p": 0.5}, {"top_k": 3}, {"repetition_penalty": 1.2}, {"seed": 1}]
)
def test_sampling_is_its_own(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(setting))} is .*reader sample keeps its own sampling"):
        Sample().check(GenerationConfig(**setting))
    Sample().check(GenerationConfig(max_new_tokens=5, stop="x"))


@given(st.text("abc", max_size=12), st.lists(st.text("abc", min_size=1, max_size=3), max_size=3), st.randoms())
def test_pieces_of_any_length_join_to_the_text_before_the_first_stop_string(
    text: str, stops: list[str], random: Any
) -> None:
    cut, pieces = Stops(stops), []
    place = 0
    while place < len(text) and not cut.stopped:
        length = random.randint(1, 4)
        pieces.append(cut.add(text[place : place + length]))
        place += length
    found = "".join(pieces) + cut.finish()
    ends = [text.index(stop) for stop in stops if stop in text]
    # Of stop strings that begin at different places the one that is whole first ends the text.
    assert text.startswith(found)
    assert cut.stopped == bool(ends)
    assert not any(stop in found for stop in stops)
    if not ends:
        assert found == text
