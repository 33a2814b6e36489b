"""focusdoc for LangChain: questions over documents far longer than a model's context, each document read once."""

from langchain_focusdoc.chat_models import ChatFocusLLM
from langchain_focusdoc.document_loaders import FocusDocumentLoader
from langchain_focusdoc.errors import FocusContextOverflowError, FocusIncompleteAnswerError, FocusRequestError
from langchain_focusdoc.retrievers import FocusRetriever

__all__ = [
    "ChatFocusLLM",
    "FocusContextOverflowError",
    "FocusDocumentLoader",
    "FocusIncompleteAnswerError",
    "FocusRequestError",
    "FocusRetriever",
]
