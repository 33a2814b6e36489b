"""Text widened to whole sentences, lines or words, in any script."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from focusdoc.documents.sentences import whole_sentences


def test_a_passage_is_widened_to_whole_sentences() -> None:
    text = "First one. The code is 42, said he, and left. Another one follows here."
    begin = text.index("code")
    start, end = whole_sentences(text, begin, begin + 6)
    assert text[start:end] == "The code is 42, said he, and left."


@pytest.mark.parametrize(
    "sentences",
    [
        ["门上的密码是四二。", "他说：“走吧！”", "后来大家都走了。"],
        ["合言葉は『四二』である。", "「どこへ行くのか？」", "誰も知らない。"],
        ["رمز الدخول هو ٤٢؟ ", "ذهب الجميع بعد ذلك. ", "لا أحد يعرف؟"],
        ["یہ پہلا جملہ ہے۔ ", "شہر کا کوڈ بیالیس ہے۔ ", "سب چلے گئے۔"],
        ["यह पहला वाक्य है। ", "शहर का कोड बयालीस है। ", "सब चले गए।"],
        ["Սա առաջին նախադասությունն է։ ", "Քաղաքի ծածկագիրը քառասուներկու է։ ", "Բոլորը գնացին։"],
        ["ይህ የመጀመሪያው ዓረፍተ ነገር ነው። ", "የከተማው ቁጥር አርባ ሁለት ነው። ", "ሁሉም ሄዱ።"],
        ["នេះជាប្រយោគទីមួយ។ ", "លេខកូដគឺសែសិបពីរ។ ", "ពួកគេបានទៅ។"],
        ["นี่คือประโยคแรก ", "รหัสของเมืองคือสี่สิบสอง ", "ทุกคนกลับบ้านแล้ว"],
        ["He asked “Which code?” ", "“It is 42.5 (not 43).” ", "»Then they left.«"],
    ],
    ids=["Chinese", "Japanese", "Arabic", "Urdu", "Hindi", "Armenian", "Amharic", "Khmer", "Thai", "quotes"],
)
def test_sentences_end_as_their_own_script_ends_them(sentences: list[str]) -> None:
    text = "".join(sentences)
    begin = len(sentences[0])
    middle = begin + len(sentences[1]) // 2
    start, end = whole_sentences(text, middle - 1, middle + 1)
    assert text[start:end] == sentences[1].strip()


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_lines_and_paragraphs_end_in_any_way(line_end: str) -> None:
    text = line_end.join(["one thing", "first line", "second line", "", "third line"])
    begin = text.index("st l")
    start, end = whole_sentences(text, begin, begin + 4)
    assert text[start:end] == line_end.join(["first line", "second line"])
    text = text[: text.index("second") + 6]  # no paragraph's end is near
    start, end = whole_sentences(text, begin, begin + 4)
    assert text[start:end] == "first line"


def test_where_there_are_no_sentences_it_is_widened_to_whole_lines() -> None:
    text = '{\n"first-key": "first-value",\n"second-key": "second-value",\n"third-key": "third-value"\n}'
    begin = text.index("nd-key")
    start, end = whole_sentences(text, begin, text.index("nd-value"))
    assert text[start:end] == '"second-key": "second-value",'


def test_where_there_are_no_lines_either_it_is_widened_to_whole_words() -> None:
    text = " ".join(f"word{number}" for number in range(100))
    begin = text.index("d50")
    start, end = whole_sentences(text, begin, begin + 9)
    assert text[start:end] == "word50 word51"


@given(st.text(max_size=300), st.data())
def test_widening_never_loses_what_was_looked_at(text: str, data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(begin, len(text)))
    start, end = whole_sentences(text, begin, stop)
    assert 0 <= start <= end <= len(text)
    assert text[begin:stop].strip() in text[start:end]
