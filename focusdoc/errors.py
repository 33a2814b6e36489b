"""The errors that focusdoc raises on purpose, with one base class, so that one ``except`` catches them all.

Each message names the wrong value and the remedy.
"""

from __future__ import annotations


class FocusdocError(Exception):
    """Base class of all errors raised on purpose by focusdoc."""


class ConfigError(FocusdocError, ValueError):
    """A setting is out of range or contradicts another one."""


class DocumentError(FocusdocError):
    """A document cannot be loaded: it is missing, unreadable, binary or damaged."""


class EmptyDocumentError(DocumentError):
    """A document has no text (an empty file, or a scanned PDF without a text layer)."""


class EncryptedDocumentError(DocumentError):
    """A PDF is encrypted, and no password or a wrong one was given."""


class DocumentLimitError(DocumentError):
    """A document exceeds the limits under which untrusted files are parsed (bytes, pages, seconds, memory)."""


class UnsupportedModelError(FocusdocError):
    """The model's architecture has no q/k/v/o projections that focusdoc can wrap."""


class ModelNotFoundError(FocusdocError):
    """The base model cannot be found or loaded."""


class CalibrationError(FocusdocError):
    """The retrieval heads of a model cannot be searched for."""


class AdapterError(FocusdocError):
    """An adapter is missing, damaged, incomplete, or made for another base model."""


class PromptTooLongError(FocusdocError, ValueError):
    """A question (with its template) or its answer does not fit into the local window."""


class IncompleteAnswerError(FocusdocError, ValueError):
    """A structured answer ended before its JSON was complete, usually because `max_new_tokens` was too low."""


class ReaderError(FocusdocError):
    """A reader cannot be reached, refuses a request, or breaks off.

    Attributes:
        sources: the passages it was given (`focusdoc.Source`); they are valid without an answer.
    """

    sources: tuple[object, ...] = ()


class MemoryMismatchError(FocusdocError):
    """A document memory was made by another model, or with other settings, than those of the engine."""


class MemoryShortageError(FocusdocError, MemoryError):
    """A document or an answer does not fit in free memory; raised before reading, where that can be known."""


class ClusterError(FocusdocError):
    """A cluster cannot be used: Ray is missing, the address does not answer, or processes cannot be placed."""


class WorkerLostError(ClusterError):
    """A process that kept chunks of a document was lost and cannot be replaced."""


class TrainingError(FocusdocError):
    """Training cannot start or continue (no data, a NaN loss, an output folder of another run)."""


class EvaluationError(FocusdocError):
    """An evaluation cannot run (an unknown task, missing data, a row without a field, conflicting results)."""


def first_line(error: BaseException) -> str:
    """What a library's error says, in one line for a message of ours."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
