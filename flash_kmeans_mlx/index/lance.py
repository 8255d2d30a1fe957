"""train_lance: vector indexes of Lance trained by our k-means. lance is imported when needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from .. import validation
from ..kmeans.assign import assign
from ..kmeans.fit import fit
from ..metrics import METRICS, unit_rows
from .quantizer import ProductQuantizer
from .training import sample

__all__ = ["lance_centroids", "train_lance"]

# The metric of our k-means for each of Lance's. Lance compares unit vectors by l2 for cosine.
FITTED = {"l2": "euclidean", "euclidean": "euclidean", "cosine": "euclidean", "dot": "dot"}
CODEWORDS = 256  # of a codebook: codes of Lance are bytes


def train_lance(
    dataset: Any,
    column: str,
    num_partitions: int,
    num_sub_vectors: int | None = None,
    metric: str = "l2",
    *,
    name: str | None = None,
    replace: bool = False,
    seed: int = 0,
    max_points_per_centroid: int = 256,
    **fit_options: Any,
) -> Any:
    """Create a vector index of a Lance dataset, trained by our k-means.

    Its partitions and codebooks come from `lance_centroids`; Lance assigns the vectors to them,
    encodes and stores them. The index is of type IVF_PQ, and IVF_FLAT without `num_sub_vectors`.

    Args:
        dataset: A `lance.LanceDataset` of N rows.
        column: Name of the column of vectors, as in `lance_centroids`.
        num_partitions: Number of lists, one for each centroid.
        num_sub_vectors: Bytes of a code, as in `lance_centroids`; None for an index without codes.
        metric: "l2" (or "euclidean"), "cosine" or "dot", in any case.
        name: Name of the index; None for the column's name and "_idx".
        replace: Whether it replaces an index of this name.
        seed: As in `lance_centroids`.
        max_points_per_centroid: As in `lance_centroids`.
        fit_options: As in `lance_centroids`.

    Returns:
        The dataset, with the index.

    Raises:
        ImportError, TypeError, ValueError: As `lance_centroids`.
        OSError, RuntimeError: Lance can't read the dataset or write the index.

    Warns:
        UserWarning: As `lance_centroids`.
    """
    replace = validation.check_flag("replace", replace)
    ivf_centroids, pq_codebook = lance_centroids(
        dataset,
        column,
        num_partitions,
        num_sub_vectors,
        metric,
        seed=seed,
        max_points_per_centroid=max_points_per_centroid,
        **fit_options,
    )
    return dataset.create_index(
        column,
        "IVF_FLAT" if pq_codebook is None else "IVF_PQ",
        name=name,
        metric=metric,
        replace=replace,
        num_partitions=len(ivf_centroids),
        ivf_centroids=ivf_centroids,
        num_sub_vectors=None if pq_codebook is None else len(pq_codebook),
        pq_codebook=pq_codebook,
    )


def lance_centroids(
    dataset: Any,
    column: str,
    num_partitions: int,
    num_sub_vectors: int | None = None,
    metric: str = "l2",
    *,
    seed: int = 0,
    max_points_per_centroid: int = 256,
    **fit_options: Any,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return centroids and codebooks for a vector index of a Lance dataset, without an index.

    They are what Lance's `create_index` takes as `ivf_centroids` and `pq_codebook`. Only the rows
    of one sample are read. Codebooks are those of residuals, of unit vectors for "cosine"; for
    "dot" they are those of the vectors themselves, because Lance has no residuals there.

    Args:
        dataset: A `lance.LanceDataset` of N rows.
        column: Name of the column of vectors: fixed-size lists of D floats of 16, 32 or 64 bits.
        num_partitions: Number of lists, one for each centroid.
        num_sub_vectors: Parts of a vector, of one byte each; must divide D. None for no codes.
        metric: "l2" (or "euclidean"), "cosine" or "dot", in any case.
        seed: Of the sample and the fits; the same seed gives the same arrays on the same backend.
        max_points_per_centroid: The sample has at most so many rows for each centroid and for
            each of the 256 codewords.
        fit_options: As in `batch_kmeans_Euclid`, for both fits: max_iters, n_init, backend and so
            on.

    Returns:
        (num_partitions, D) centroids, unit vectors for "dot"; and (num_sub_vectors, 256,
        D / num_sub_vectors) codebooks, None without `num_sub_vectors`. Their dtype is the column's.

    Raises:
        ImportError: lance is not installed.
        TypeError, ValueError: The message names the argument, its value and its bound; or a row of
            the sample is null or not finite.
        OSError: Lance can't read the dataset.

    Warns:
        UserWarning: There are fewer than 39 rows per centroid, or per codeword.
        EmptyClusterWarning: There are fewer distinct rows than centroids.
    """
    known = metric.lower() if isinstance(metric, str) else metric
    metric = validation.check_choice("metric", known, tuple(FITTED))
    seed = validation.check_count("seed", seed, 0)
    per_centroid = validation.check_count("max_points_per_centroid", max_points_per_centroid, 1)
    d, dtype = _vector_type(dataset, column)
    n = dataset.count_rows()
    k = validation.check_count("num_partitions", num_partitions, 1, n, "rows of the dataset")
    if num_sub_vectors is not None:
        num_sub_vectors = _sub_vectors(num_sub_vectors, d, n, column)

    n_centroids = max(k, 0 if num_sub_vectors is None else CODEWORDS)
    rows = _sampled_rows(dataset, column, d, per_centroid * n_centroids, seed)
    if metric == "cosine":
        rows = unit_rows(rows).astype(np.float32)
    options: dict[str, Any] = {"max_iters": 25, "seed": seed, "stage": "lists"} | fit_options
    fitted = METRICS[FITTED[metric]]
    centroids = np.array(fit(fitted, sample(rows, k, per_centroid, seed), k, **options).centroids)
    if num_sub_vectors is None:
        return centroids.astype(dtype, copy=False), None

    points = sample(rows, CODEWORDS, per_centroid, seed)
    if metric != "dot":
        labels = np.asarray(assign(points, centroids, backend=fit_options.get("backend")))
        points = points - centroids[labels]
    quantizer = ProductQuantizer(d, num_sub_vectors, seed=seed)
    quantizer.learn(points, **fit_options)
    codebooks = quantizer.trained("lance_centroids")
    return centroids.astype(dtype, copy=False), codebooks.astype(dtype, copy=False)


def _lance_module() -> Any:
    try:
        return import_module("lance")
    except ImportError as error:
        raise ImportError("lance is not installed: pip install pylance") from error


def _vector_type(dataset: Any, column: str) -> tuple[int, type]:
    """Return D and the dtype of a column of vectors.

    Raises:
        ImportError: lance is not installed.
        TypeError, ValueError: The arguments name no such column.
    """
    lance = _lance_module()
    if not isinstance(dataset, lance.LanceDataset):
        raise TypeError(
            f"dataset must be a lance.LanceDataset, got {type(dataset).__name__}:"
            " lance.dataset(path) opens one"
        )
    column = validation.check_choice("column", column, dataset.schema.names)
    kind = dataset.schema.field(column).type
    types = import_module("pyarrow").types
    if not types.is_fixed_size_list(kind) or not types.is_floating(kind.value_type):
        raise TypeError(f"column={column!r} must hold fixed-size lists of floats, got {kind}")
    return kind.list_size, kind.value_type.to_pandas_dtype()


def _sub_vectors(value: Any, d: int, n: int, column: str) -> int:
    """Return `num_sub_vectors` for N vectors of D dimensions.

    Raises:
        TypeError, ValueError: It does not fit, or there are fewer rows than codewords.
    """
    m = validation.check_count("num_sub_vectors", value, 1, d, "dimensions")
    if d % m:
        raise ValueError(f"num_sub_vectors={m} must divide the {d} dimensions of column={column!r}")
    if n < CODEWORDS:
        raise ValueError(
            f"dataset must have N >= {CODEWORDS} rows for num_sub_vectors={m}, got N={n}:"
            " without num_sub_vectors there are no codes"
        )
    return m


def _sampled_rows(dataset: Any, column: str, d: int, limit: int, seed: int) -> np.ndarray:
    """Return (n, D) float32 rows of a column, all or `limit` of them, drawn by the seed, in order.

    Raises:
        ValueError: A row is null, or not finite.
    """
    n = dataset.count_rows()
    index = np.arange(n)
    if n > limit:
        index = np.sort(np.random.default_rng(seed).choice(n, limit, replace=False))
    vectors = dataset.take(index.tolist(), columns=[column])[column].combine_chunks()
    is_null = np.asarray(vectors.is_null())
    if not is_null.any():
        is_null = np.asarray(vectors.flatten().is_null()).reshape(-1, d).any(axis=1)
    if is_null.any():
        raise ValueError(
            f"column={column!r} must have no nulls, got one in row {index[is_null.argmax()]}"
        )
    rows = vectors.flatten().to_numpy().reshape(-1, d)
    largest = np.maximum(rows.max(1), -rows.min(1)).astype(np.float64)
    wrong = int((largest <= np.finfo(np.float32).max).argmin())
    place = f"row {index[wrong]} of {column!r}"
    validation.check_magnitude(largest[wrong : wrong + 1], (n, d), "column", place)
    return rows.astype(np.float32, copy=False)
