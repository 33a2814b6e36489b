"""focusdoc for LlamaIndex: questions over documents far longer than a model's context, each document read once."""

from llama_index.llms.focusdoc.base import FocusLLM
from llama_index.llms.focusdoc.query_engine import FocusQueryEngine
from llama_index.llms.focusdoc.reader import FocusReader
from llama_index.llms.focusdoc.synthesizer import FocusSynthesizer

__all__ = ["FocusLLM", "FocusQueryEngine", "FocusReader", "FocusSynthesizer"]
