"""The engine: read a document once, ask it many questions."""

from focusdoc.engine.engine import FocusEngine

__all__ = ["FocusEngine"]
