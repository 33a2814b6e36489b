"""FocusSynthesizer: answers from any number of retrieved nodes in one call."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any

from llama_index.core.base.response.schema import PydanticResponse
from llama_index.core.response_synthesizers.base import BaseSynthesizer
from llama_index.core.schema import NodeWithScore
from llama_index.llms.focusdoc.base import FocusLLM
from llama_index.llms.focusdoc.tracing import focus_llm, stream_question

from focusdoc.chat.settings import refuse_unknown
from focusdoc.chat.structured import AnswerType
from focusdoc.chat.threads import last_answer, run_in_thread, stream_in_thread
from focusdoc.documents import Document

if TYPE_CHECKING:
    from focusdoc.decoding.answer import TextPiece


class FocusSynthesizer(BaseSynthesizer):
    """Answers from all nodes at once, without packing them into a prompt and without refining.

    Each node has its own memory, found by its text: a later question may have the same nodes in another order and among
    others, and only new nodes are read.

    Args:
        llm: by default `Settings.llm`, else the default model.
        settings: see `BaseSynthesizer`: `streaming`, `callback_manager`, `output_cls`, `empty_response`.

    Raises:
        ValueError: the LLM is not a FocusLLM, a setting is unknown, or `output_cls` has no JSON schema.
    """

    def __init__(self, llm: FocusLLM | None = None, **settings: Any) -> None:
        refuse_unknown(settings, signature(BaseSynthesizer.__init__).parameters.keys() - {"self"}, "FocusSynthesizer")
        self._focus = focus_llm(llm)
        super().__init__(llm=self._focus, **settings)
        self._kind = None if self._output_cls is None else AnswerType.of(self._output_cls)

    def get_response(self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any) -> Any:
        """The answer: text, a generator of texts if `streaming`, or an object of `output_cls`.

        Args:
            response_kwargs: settings of this call, see `FocusLLM.complete`.

        Raises:
            ValueError: the question or all chunks are empty, or they do not fit into the memory.
        """
        pieces = self._pieces(query_str, text_chunks, response_kwargs)
        return (str(piece) for piece in pieces) if self._streaming else self._result(pieces)

    async def aget_response(self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any) -> Any:
        """Like `get_response`, in a thread; cancelling the task ends the answer."""
        if self._streaming:
            return await stream_in_thread(
                lambda cancel: (
                    str(piece) for piece in self._pieces(query_str, text_chunks, {**response_kwargs, "cancel": cancel})
                ),
                response_kwargs.get("cancel"),
            )
        return await run_in_thread(
            lambda cancel: self._result(self._pieces(query_str, text_chunks, {**response_kwargs, "cancel": cancel})),
            response_kwargs.get("cancel"),
        )

    def _pieces(
        self, question: str, texts: Sequence[str], settings: dict[str, Any]
    ) -> Generator[TextPiece, None, None]:
        documents = [
            Document.from_text(text, {"name": f"node {number}"})
            for number, text in enumerate(texts, start=1)
            if text.strip()
        ]
        if not documents:
            raise ValueError("All nodes are empty; give the synthesizer at least one node with text in it.")
        if self._kind is not None:
            settings = {**settings, "grammar": self._focus.focus.get().grammar(self._kind.schema)}
        return stream_question(self._focus, self._callback_manager, documents, question, **settings)

    def _result(self, pieces: Generator[TextPiece, None, None]) -> Any:
        answer = last_answer(pieces)
        if self._kind is None:
            return answer.text
        return self._kind.parse(answer.text, answer.finish_reason, answer.usage.completion_tokens)

    def _prepare_response_output(self, response_str: Any, source_nodes: list[NodeWithScore]) -> Any:
        # The base class compares with `output_cls` by isinstance, which ``list[...]`` and Literal do not support.
        if self._kind is None or self._streaming or response_str is None or isinstance(response_str, str):
            return super()._prepare_response_output(response_str, source_nodes)
        metadata = self._get_metadata_for_response([each.node for each in source_nodes])
        return PydanticResponse(response_str, source_nodes=source_nodes, metadata=metadata)

    def _get_prompts(self) -> dict[str, Any]:
        """No prompts; only the model's chat template is used."""
        return {}

    def _update_prompts(self, prompts: dict[str, Any]) -> None:
        """No prompts to update."""
