"""Every error this library raises on purpose; one base class, so one ``except`` catches them all.

Each message names the value that was wrong and what to do about it.
"""

from __future__ import annotations


class FocusdocError(Exception):
    """Base class of all errors raised on purpose by focusdoc."""


class ConfigError(FocusdocError, ValueError):
    """A setting is out of range or contradicts another one."""


class DocumentError(FocusdocError):
    """A document cannot be loaded: missing, unreadable, binary, damaged."""


class EmptyDocumentError(DocumentError):
    """A document holds no text (an empty file, a scanned PDF without a text layer)."""


class EncryptedDocumentError(DocumentError):
    """A PDF is encrypted and no password, or a wrong one, was given."""


class DocumentLimitError(DocumentError):
    """A document exceeds the limits under which untrusted files are parsed (bytes, pages, seconds, memory)."""


class UnsupportedModelError(FocusdocError):
    """The model's architecture has no q/k/v/o projections this library knows how to wrap."""


class ModelNotFoundError(FocusdocError):
    """The base model cannot be found or loaded."""


class CalibrationError(FocusdocError):
    """The retrieval heads of a model cannot be looked for."""


class AdapterError(FocusdocError):
    """An adapter is missing, damaged, incomplete, or made for another base model."""


class PromptTooLongError(FocusdocError, ValueError):
    """A question (with its template) or its answer does not fit into the local window."""


class IncompleteAnswerError(FocusdocError, ValueError):
    """A structured answer ended before its JSON did, most often because `max_new_tokens` was too few."""


class ReaderError(FocusdocError):
    """A reader cannot be reached, refuses, or breaks off.

    Attributes:
        sources: the passages that it was given, as sources (`focusdoc.Source`); they are found all the same.
    """

    sources: tuple[object, ...] = ()


class MemoryMismatchError(FocusdocError):
    """A document memory was made by another model, or with other settings, than the engine that got it."""


class MemoryShortageError(FocusdocError, MemoryError):
    """A document's memory is larger than what is free; told before any of it is read."""


class ClusterError(FocusdocError):
    """A cluster cannot be used: Ray is missing, nobody answers, or there is no place for its processes."""


class WorkerLostError(ClusterError):
    """A process that kept chunks of a document is gone, and there is no place to start it again."""


class TrainingError(FocusdocError):
    """Training cannot start or go on (no data, a NaN loss, an output folder of another run)."""


class EvaluationError(FocusdocError):
    """An evaluation cannot run (an unknown task, a data folder without it, a row without a field, other results)."""
