"""IndexPreTransform: an index of rotated vectors."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np

from .base import Found, Index, restored
from .ivf import IVF
from .opq import OPQMatrix

__all__ = ["IndexPreTransform"]


class _Trained(NamedTuple):
    """What a training learned: the matrix of the rotation, and a content of the index of rotated vectors."""

    matrix: np.ndarray | None
    content: Any


class IndexPreTransform(Index):
    """An index of rotated vectors: they are rotated before they are given to it, and back when it gives them.

    Args:
        transform: an `OPQMatrix`; trained with the index, unless it is trained already.
        index: any index of as many dimensions, for "euclidean", "cosine" or "dot". It belongs to this one: add nothing to it.

    Attributes:
        transform, index: as given.

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

    def __init__(self, transform: OPQMatrix, index: Index) -> None:
        if not isinstance(transform, OPQMatrix):
            raise TypeError(f"transform must be an OPQMatrix, got {type(transform).__name__}")
        if not isinstance(index, Index):
            raise TypeError(f"index must be an Index, got {type(index).__name__}")
        if transform.d != index.d:
            raise ValueError(f"index.d={index.d} must be transform.d={transform.d}")
        super().__init__(index.d, index.metric, backend=index.backend)
        self.transform, self.index, self._lock = transform, index, index._lock

    @property
    def _content(self) -> Any:
        return self.index._content

    @_content.setter
    def _content(self, content: Any) -> None:
        if isinstance(content, _Trained):
            self.index._content = content.content
            self.transform.matrix = content.matrix  # last: it is what makes both trained
        else:
            self.index._content = content

    def _count(self, content: Any) -> int:
        return self.index._count(content)

    def _ready(self, content: Any) -> bool:
        return self.transform.is_trained and self.index._ready(content)

    def search(self, x: Any, k: int, *, nprobe: int | None = None) -> tuple[Any, Any]:
        """As `Index.search`; `nprobe` as in the index of rotated vectors, if it has lists."""
        return self._k_nearest(x, k, **self._how(nprobe))

    def range_search(
        self, x: Any, radius: float, *, nprobe: int | None = None
    ) -> tuple[Any, Any, Any]:
        """As `Index.range_search`; `nprobe` as in the index of rotated vectors, if it has lists."""
        return self._all_within(x, radius, **self._how(nprobe))

    def _how(self, nprobe: int | None) -> dict[str, Any]:
        if nprobe is not None and not isinstance(self.index, IVF):
            raise ValueError(
                f"nprobe={nprobe} needs an index with lists, this one is an {type(self.index).__name__}"
            )
        return {} if nprobe is None else {"nprobe": nprobe}

    def _trained(self, content: Any, rows: np.ndarray) -> _Trained:
        transform = copy.copy(self.transform)
        if not transform.is_trained:
            transform.train(rows)
        return _Trained(transform.matrix, self.index._trained(content, transform.apply(rows)))

    def _added(self, content: Any, rows: np.ndarray, ids: np.ndarray) -> Any:
        return self.index._added(content, self.transform.apply(rows), ids)

    def _search(self, content: Any, queries: np.ndarray, k: int, **how: Any) -> Found:
        return self.index._search(content, self.transform.apply(queries), k, **how)

    def _places(self, content: Any, ids: np.ndarray) -> np.ndarray:
        return self.index._places(content, ids)

    def _rows_at(self, content: Any, places: np.ndarray) -> np.ndarray:
        return self.transform.reverse_transform(self.index._rows_at(content, places))

    def _removed(self, content: Any, places: np.ndarray) -> Any:
        return self.index._removed(content, places)

    def _state(self, content: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        (own, matrix), (inner, arrays) = self.transform.state(), self.index._state(content)
        parameters = {"transform": own, "class": type(self.index).__name__, "index": inner}
        # Without the matrix, what the index has learned is of no use: training begins anew.
        arrays = {f"index.{name}": array for name, array in arrays.items()} if matrix else {}
        return parameters, arrays | matrix

    @classmethod
    def restore(
        cls, parameters: dict[str, Any], arrays: dict[str, np.ndarray]
    ) -> IndexPreTransform:
        matrix = {name: arrays[name] for name in ("matrix",) if name in arrays}
        inner = {
            name.removeprefix("index."): array
            for name, array in arrays.items()
            if name.startswith("index.")
        }
        return cls(
            OPQMatrix.restore(parameters["transform"], matrix),
            restored(parameters["class"], parameters["index"], inner),
        )
