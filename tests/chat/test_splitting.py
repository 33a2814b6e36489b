"""What of a prompt stays local, and what goes to the memory."""

from __future__ import annotations

import pytest

from focusdoc.chat.messages import Message
from focusdoc.chat.splitting import FRAME_CHARACTERS, SplitPrompt, split_prompt, split_text

BOOK = "\n\n".join(f"Paragraph {number} tells of house {number}, which is blue." for number in range(200))
#: The templates that query engines and chains use: text in front of the context, and behind it up to the question.
FRAMES = {
    "llama_index question": (
        "Context information is below.\n---------------------\n",
        "\n---------------------\nGiven the context information and not prior knowledge, answer the query.\nQuery: ",
        "\nAnswer: ",
    ),
    "langchain stuffing": ("Use these pieces of context to answer.\n\n", "\n\nQuestion: ", "\nHelpful Answer:"),
    "tags": ("<context>\n", "\n</context>\n", ""),
    "bare": ("", "\n\n", ""),
}


def nothing_known(_: str) -> None:
    return None


def words(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize("name", FRAMES)
def test_head_body_and_tail_join_to_the_text_and_the_question_is_in_the_tail(name: str) -> None:
    before, between, after = FRAMES[name]
    question = "Which house is blue?"
    text = before + BOOK + between + question + after
    head, body, tail = split_text(text, nothing_known)
    assert head + body + tail == text
    assert head.startswith(before)
    assert question in tail
    assert len(tail) <= 2 * FRAME_CHARACTERS
    assert len(body) > 0.9 * len(BOOK)


@pytest.mark.parametrize("name", FRAMES)
def test_another_question_leaves_the_body_as_it_was(name: str) -> None:
    before, between, after = FRAMES[name]
    _, body, _ = split_text(before + BOOK + between + "Why?" + after, nothing_known)
    longer = before + BOOK + between + "And which of all these many houses is not blue but green? " * 3 + after
    _, again, tail = split_text(longer, lambda text: body if text.startswith(body) else None)
    assert again == body
    assert "green? " in tail


def test_a_question_in_front_stays_local_and_moves_no_chunk() -> None:
    frame = "\nWe have the opportunity to refine the answer with some more context below.\n------------\n"
    bodies = set()
    for question in ("Who?", "Who lives in the house by the sea, and since when?"):
        head, body, _ = split_text(f"The original query is: {question}{frame}{BOOK}", nothing_known)
        assert question in head
        bodies.add(body)
    assert len(bodies) == 1


def test_a_question_of_several_paragraphs_is_not_cut() -> None:
    question = "I have two questions.\n\nFirst: who?\n\nSecond: why?"
    _, _, tail = split_text(f"{BOOK}\n\n{question}", nothing_known)
    assert question in tail


def test_a_text_that_asks_nothing_goes_whole_but_for_its_instruction() -> None:
    head, body, tail = split_text(f"Use this context.\n\n{BOOK}", nothing_known, asks=False)
    assert (head, body, tail) == ("Use this context.\n\n", BOOK, "")


def test_a_short_conversation_stays_whole() -> None:
    messages = [Message("system", "Be brief."), Message("user", "Hello")]
    assert split_prompt(messages, window=10, count=words, known=nothing_known) == SplitPrompt(tuple(messages), ())


def test_every_long_part_is_a_document_of_its_own() -> None:
    other = BOOK.replace("house", "tree")
    messages = [Message("system", f"Answer.\n\n{BOOK}"), Message("user", [other, "Which tree?"])]
    split = split_prompt(messages, window=300, count=words, known=nothing_known)
    head = other.split("\n\n")[0]
    assert split.documents == (BOOK, other[len(head) + 2 :])
    assert [message.text for message in split.local] == ["Answer.\n\n", f"{head}\n\n\n\nWhich tree?"]


def test_old_turns_go_first_and_the_system_message_stays() -> None:
    turns = [Message(("user", "assistant")[number % 2], f"turn {number} " * 10) for number in range(21)]
    split = split_prompt([Message("system", "Be brief."), *turns], window=100, count=words, known=nothing_known)
    assert split.local[0].text == "Be brief."
    assert split.local[-1] == turns[-1]
    assert sum(words(message.text) for message in split.local) <= 50
    (transcript,) = split.documents
    assert transcript.startswith("user: turn 0 turn 0")
    told = transcript + "".join(message.text for message in split.local)
    assert all(f"turn {number} " in told for number in range(21))


def test_many_short_parts_go_one_by_one_and_the_question_stays() -> None:
    nodes = [f"Node {number} says little. " * 5 for number in range(30)]
    split = split_prompt([Message("user", [*nodes, "Which?"])], window=100, count=words, known=nothing_known)
    assert split.documents == tuple(nodes)
    assert split.local == (Message("user", "Which?"),)


@pytest.mark.parametrize("window", [40, 100, 400])
@pytest.mark.parametrize("name", FRAMES)
def test_nothing_is_lost_and_what_stays_fits(name: str, window: int) -> None:
    before, between, after = FRAMES[name]
    messages = [
        Message("system", f"Rules.\n\n{BOOK.replace('house', 'rule')}"),
        Message("user", "An older question. " * 30),
        Message("assistant", "An older answer. " * 30),
        Message("user", [BOOK.replace("house", "tree"), before + BOOK + between + "Which house is blue?" + after]),
    ]
    split = split_prompt(messages, window=window, count=words, known=nothing_known)
    local = " ".join(message.text for message in split.local)
    assert words(local) <= window
    assert "Which house is blue?" in split.local[-1].text
    told = sorted(" ".join([*split.documents, local]).split())
    # The names of two roles are all that is added, where old messages became one text.
    assert [word for word in told if word not in ("user:", "assistant:")] == sorted(
        " ".join(message.text for message in messages).split()
    )


def test_a_text_in_one_line_is_cut_at_the_end_of_a_sentence_of_its_own_script() -> None:
    """Japanese has neither spaces nor full stops of ASCII."""
    book = "".join(f"第{number}の家は青い。" for number in range(600))
    head, body, tail = split_text(book + "どの家が赤いですか？何番目の家が緑ですか？", nothing_known)
    assert head + body + tail == book + "どの家が赤いですか？何番目の家が緑ですか？"
    assert body.endswith("青い。")
    assert tail.startswith("第")


def test_blank_parts_are_neither_documents_nor_the_question() -> None:
    passages = [part for passage in BOOK.split("\n\n") for part in (passage * 4, "\n")]
    for last in (
        [Message("user", [*passages, "Which?", "\n"])],
        [Message("user", [*passages, "Which?"]), Message("user", [])],
    ):
        split = split_prompt(last, window=20, count=words, known=nothing_known)
        assert split.local[-1].parts == ("Which?",)
        assert len(split.documents) == len(passages) // 2
        assert all(text.strip() for text in split.documents)


def test_a_long_blank_between_frame_and_question_is_no_document() -> None:
    text = "Context is below.\n-----\n" + "\n" * 5000 + "\n-----\nQuery: which house is it?"
    split = split_prompt([Message("user", [BOOK, text])], window=200, count=words, known=nothing_known)
    assert all(document.strip() for document in split.documents)
    assert "Query: which house is it?" in split.local[-1].text


def test_a_blank_question_is_not_replaced_by_the_answer_before_it() -> None:
    turns = [Message("user", BOOK), Message("assistant", "House 7."), Message("user", "\n")]
    assert split_prompt(turns, window=20, count=words, known=nothing_known).local[-1].role == "user"
