"""IndexPreTransform: an index of transformed vectors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .base import Index, restore_index
from .opq import OPQMatrix
from .results import Found
from .sources import TrainingRows, mapped
from .transforms import NormalizationTransform, PCAMatrix
from .wrapper import Wrapper

__all__ = ["IndexPreTransform", "without_matrix"]

TRANSFORMS = {kind.__name__: kind for kind in (OPQMatrix, PCAMatrix, NormalizationTransform)}


class _TrainedSnapshot(NamedTuple):
    """Results of a training.

    Attributes:
        matrix: Of the transformation.
        inner: The snapshot of the index of transformed vectors.
    """

    matrix: np.ndarray | None
    inner: Any


def without_matrix(snapshot: Any) -> Any:
    """Return the snapshot of vectors in a snapshot that may come from a training."""
    while isinstance(snapshot, _TrainedSnapshot):
        snapshot = snapshot.inner
    return snapshot


class IndexPreTransform(Wrapper):
    """An index of rotated or otherwise transformed vectors.

    Vectors and queries are transformed before they reach it, and vectors from it are transformed
    back.

    Args:
        transform: An `OPQMatrix`, `PCAMatrix` or `NormalizationTransform`; trained with the index,
            unless it is trained already.
        index: Any index of as many dimensions as the transformation returns, for "euclidean",
            "cosine" or "dot", that is used by nothing else.

    Attributes:
        transform, index: As given.
        nprobe, ef, nlist, k_factor: Of the index.

    Example:
        >>> import numpy as np
        >>> from flash_kmeans_mlx.index import IndexPQ
        >>> x = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
        >>> index = IndexPreTransform(OPQMatrix(8, 4, nbits=4), IndexPQ(8, 4, nbits=4))
        >>> index.train(x)
        >>> index.add(x)
        >>> index.reconstruct(0).shape
        (8,)
    """

    def __init__(
        self, transform: OPQMatrix | PCAMatrix | NormalizationTransform, index: Index
    ) -> None:
        if type(transform).__name__ not in TRANSFORMS:
            raise TypeError(
                f"transform must be an {' or '.join(TRANSFORMS)}, got {type(transform).__name__}"
            )
        if not isinstance(index, Index):
            raise TypeError(f"index must be an Index, got {type(index).__name__}")
        if transform.d_out != index.d:
            raise ValueError(f"index.d={index.d} must be transform.d_out={transform.d_out}")
        super().__init__(transform.d, index.metric, backend=index.backend)
        self.transform = transform
        self.index = index
        self._limit = index._limit
        self._lock = index._lock

    @property
    def _snapshot(self) -> Any:
        """The snapshot of the index of transformed vectors."""
        return self.index._snapshot

    @_snapshot.setter
    def _snapshot(self, snapshot: Any) -> None:
        if isinstance(snapshot, _TrainedSnapshot):
            self.index._snapshot = snapshot.inner
            # The matrix last: only with it is this index trained.
            self.transform.matrix = snapshot.matrix
        else:
            self.index._snapshot = snapshot

    def _parts(self) -> tuple[Index, ...]:
        return (self.index,)

    def _reader(self) -> Any:
        reader = super()._reader()
        vars(reader).update(index=self.index._reader())
        return reader

    def _count(self, snapshot: Any) -> int:
        return self.index._count(snapshot)

    def _is_ready(self, snapshot: Any) -> bool:
        return self.transform.is_trained and self.index._is_ready(snapshot)

    def _after_train(self, snapshot: Any, rows: TrainingRows, verbose: bool) -> _TrainedSnapshot:
        transform = copy.copy(self.transform)
        if not transform.is_trained:
            transform.train(rows, verbose=verbose)
        inner = self.index._after_train(snapshot, mapped(rows, transform.apply), verbose)
        return _TrainedSnapshot(transform.matrix, inner)

    def _after_add(self, snapshot: Any, rows: np.ndarray, ids: np.ndarray) -> Any:
        return self.index._after_add(snapshot, self.transform.apply(rows), ids)

    def _search(
        self,
        snapshot: Any,
        queries: np.ndarray,
        k: int,
        places: np.ndarray | None = None,
        **options: Any,
    ) -> Found:
        return self.index._search(snapshot, self.transform.apply(queries), k, places, **options)

    def _filtered(
        self, snapshot: Any, ids: Any, exclude: Any, options: dict[str, Any]
    ) -> tuple[Callable[[np.ndarray, int], Found], int]:
        search, n = self.index._filtered(snapshot, ids, exclude, options)
        return lambda queries, k: search(self.transform.apply(queries), k), n

    def _ids(self, snapshot: Any) -> np.ndarray:
        return self.index._ids(snapshot)

    def _places(self, snapshot: Any, ids: np.ndarray) -> np.ndarray:
        return self.index._places(snapshot, ids)

    def _rows_at(self, snapshot: Any, places: np.ndarray) -> np.ndarray:
        return self.transform.reverse_transform(self.index._rows_at(snapshot, places))

    def _after_remove(self, snapshot: Any, places: np.ndarray) -> Any:
        return self.index._after_remove(snapshot, places)

    def _part(self, snapshot: Any, ids: np.ndarray) -> dict[str, np.ndarray]:
        return self.index._part(snapshot, ids)

    def _after_merge(self, snapshot: Any, part: dict[str, np.ndarray]) -> Any:
        return self.index._after_merge(snapshot, part)

    def _parameters(self, snapshot: Any) -> dict[str, Any]:
        return {
            "transform_class": type(self.transform).__name__,
            "transform": self.transform.state()[0],
            "class": type(self.index).__name__,
            "index": self.index._parameters(snapshot),
        }

    def _state(self, snapshot: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        _, matrix = self.transform.state()
        _, index_arrays = self.index._state(snapshot)
        # Without the matrix, what the index has learned is useless: training starts again.
        is_trained = self.transform.is_trained
        arrays = {f"index.{name}": array for name, array in index_arrays.items() if is_trained}
        return self._parameters(snapshot), arrays | matrix

    @classmethod
    def restore(
        cls, parameters: dict[str, Any], arrays: dict[str, np.ndarray]
    ) -> IndexPreTransform:
        matrix = {name: array for name, array in arrays.items() if name == "matrix"}
        index_arrays = {
            name.removeprefix("index."): array
            for name, array in arrays.items()
            if name.startswith("index.")
        }
        # Older files have no class.
        kind: Any = TRANSFORMS[parameters.get("transform_class", "OPQMatrix")]
        transform = kind.restore(parameters["transform"], matrix)
        index = restore_index(parameters["class"], parameters["index"], index_arrays)
        return cls(transform, index)
