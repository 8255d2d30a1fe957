"""Exceptions and warnings of the package."""

__all__ = ["BackendUnavailableError", "EmptyClusterWarning", "NotFittedError", "VectorFileError"]


class BackendUnavailableError(RuntimeError):
    """A named backend can't run here or can't take the problem; the message says why."""


class NotFittedError(ValueError, AttributeError):
    """A result was asked for before `fit` or `load`."""


class VectorFileError(ValueError):
    """A file of vectors can't be read or written; the message names it and says why."""


class EmptyClusterWarning(UserWarning):
    """Fewer distinct points than clusters: the extra clusters stay empty."""
