"""Every message about a wrong array names the argument that it was given for."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

import flash_kmeans_mlx as fk
from flash_kmeans_mlx import index

X = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
IDS = np.arange(40)
WEIGHTS = np.ones(40, np.float32)


def trained(made: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        made.train(X)
    if isinstance(made, index.Index):
        made.add(X)
    return made


def added_and_removed(make: Callable[[], index.Index]) -> Callable[..., Any]:
    def call(**arguments: Any) -> None:
        made = make()
        made.add(**arguments)
        made.remove_ids(np.arange(40, made.ntotal + 40))

    return call


@cache
def quantizer() -> index.ProductQuantizer:
    return trained(index.ProductQuantizer(4, 2, 2))


@cache
def rotation() -> index.OPQMatrix:
    return trained(index.OPQMatrix(4, 2, 2, niter=1))


def store() -> index.EmbeddingStore:
    made = index.EmbeddingStore()
    made.add(X)
    return made


INDEXES: dict[str, Callable[[], Any]] = {
    "IndexFlat": lambda: index.IndexFlat(4),
    "IndexIVFFlat": lambda: index.IndexIVFFlat(4, 3),
    "IndexPQ": lambda: index.IndexPQ(4, 2, 2),
    "IndexIVFPQ": lambda: index.IndexIVFPQ(4, 3, 2, 2),
    "IndexPreTransform": lambda: index.IndexPreTransform(
        index.OPQMatrix(4, 2, 2, niter=1), index.IndexPQ(4, 2, 2)
    ),
    "IndexRefine": lambda: index.IndexRefine(index.IndexPQ(4, 2, 2)),
}
ROWS = {"x": X}
FILTER = {"ids": IDS, "exclude": IDS[:5]}
OPTIONAL = ("sample_weight", "init_centroids", "init", "ids", "exclude")
FIT = {**ROWS, "sample_weight": WEIGHTS, "init_centroids": X[:3]}
# A function, or what makes an object and the name of its method; right values of its arrays;
# its other arguments.
Call = tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]


@cache
def mapped() -> fk.KNN:
    with tempfile.TemporaryFile() as file:
        x = np.memmap(file, np.float32, "w+", shape=X.shape)
    x[:] = X
    return fk.KNN(x)


@cache
def model() -> fk.FlashKMeans:
    return fk.FlashKMeans(4, 3).fit(X)


def method(make: Callable[[], Any], name: str) -> Callable[..., Any]:
    """Return a method of an object that is made when it is called."""

    def call(**arguments: Any) -> Any:
        return getattr(make(), name)(**arguments)

    return call


CALLS: dict[str, Call] = {
    **{
        name: (getattr(fk, name), {**FIT, "init": X[:3]}, {"n_clusters": 3, "max_iters": 2})
        for name in ("batch_kmeans_Euclid", "batch_kmeans_Cosine", "batch_kmeans_Dot")
    },
    "assign": (fk.assign, {**ROWS, "centroids": X[:3]}, {}),
    "knn": (fk.knn, {"queries": X[:9], "data": X}, {"k": 2}),
    "KNN": (fk.KNN, {"data": X}, {}),
    "KNN.query": (method(lambda: fk.KNN(X), "query"), ROWS, {"k": 2}),
    "FlashKMeans.fit": (method(lambda: fk.FlashKMeans(4, 3), "fit"), FIT, {}),
    "FlashKMeans.train": (method(lambda: fk.FlashKMeans(4, 3), "train"), FIT, {}),
    "FlashKMeans.fit_predict": (method(lambda: fk.FlashKMeans(4, 3), "fit_predict"), FIT, {}),
    **{
        f"FlashKMeans.{name}": (method(model, name), {**ROWS, "sample_weight": WEIGHTS}, {})
        for name in ("partial_fit", "update", "score")
    },
    **{f"FlashKMeans.{name}": (method(model, name), ROWS, {}) for name in ("predict", "transform")},
    "ProductQuantizer.train": (index.ProductQuantizer(4, 2, 2).train, ROWS, {}),
    "ProductQuantizer.encode": (method(quantizer, "encode"), ROWS, {}),
    "ProductQuantizer.decode": (
        method(quantizer, "decode"),
        {"codes": np.zeros((5, 1), np.uint8)},
        {},
    ),
    "OPQMatrix.train": (index.OPQMatrix(4, 2, 2, niter=1).train, ROWS, {}),
    **{
        f"OPQMatrix.{name}": (method(rotation, name), ROWS, {})
        for name in ("apply", "reverse_transform")
    },
    "KNN.query of a file": (method(mapped, "query"), ROWS, {"k": 2}),
    "EmbeddingStore.add": (method(store, "add"), {"embeddings": X, "ids": IDS + 40}, {}),
    "EmbeddingStore.search": (method(store, "search"), {"query": X[:3]}, {"k": 2}),
    "EmbeddingStore.delete": (method(store, "delete"), {"ids": IDS[:3]}, {}),
    "EmbeddingStore.get": (method(store, "get"), {"ids": IDS[:3]}, {}),
    **{
        f"EmbeddingStore.{name}": (method(store, name), {"embeddings": X}, {"ids": IDS})
        for name in ("update", "upsert")
    },
    **{
        f"EmbeddingStore.{name} of ids": (method(store, name), {"ids": IDS}, {"embeddings": X})
        for name in ("update", "upsert")
    },
}


def index_calls(kind: str) -> dict[str, Call]:
    made = cache(lambda: trained(INDEXES[kind]()))
    return {
        f"{kind}.train": (method(INDEXES[kind], "train"), ROWS, {}),
        f"{kind}.add": (added_and_removed(made), {**ROWS, "ids": IDS + 40}, {}),
        f"{kind}.search": (method(made, "search"), ROWS | FILTER, {"k": 2}),
        f"{kind}.range_search": (method(made, "range_search"), ROWS | FILTER, {"radius": 1.0}),
        f"{kind}.reconstruct_batch": (method(made, "reconstruct_batch"), {"ids": IDS}, {}),
        f"{kind}.remove_ids": (method(made, "remove_ids"), {"ids": IDS[:3]}, {}),
    }


for _kind in INDEXES:
    CALLS |= index_calls(_kind)

# What may be wrong with values of any dtype, and with floats.
WRONG: dict[str, Callable[[Any], Any]] = {
    "a number": lambda _: 3,
    "no array": lambda _: object(),
    "a dict": lambda x: {"x": x},
    "bytes": lambda _: b"1234",
    "no rows": lambda x: x[:0],
    "text": lambda x: x.astype(str),
    "complex": lambda x: x.astype(complex),
    "objects": lambda x: np.full(x.shape, None, object),
    "ragged": lambda _: [[0], [1, 2]],
    "masked": lambda x: np.ma.masked_array(x, x > 0),
    "more dimensions": lambda x: x[None, None, None],
    "fewer dimensions": lambda x: x[0],
    "other columns": lambda x: np.concatenate([x, x], -1)[..., : x.shape[-1] + 1],
}
FLOATS: dict[str, Callable[[Any], Any]] = {
    name: lambda x, value=value: np.where(np.arange(x.shape[-1]) == 1, value, np.float64(x))
    for name, value in {"nan": np.nan, "inf": np.inf, "large": 1e300}.items()
}


def is_allowed(call: str, name: str, wrong: str) -> bool:
    """Return whether it is no error after all."""
    if wrong == "no rows":
        if name == "x" and call.startswith(("Index", "OPQMatrix", "ProductQuantizer")):
            return True
        return name in ("codes", "exclude") or (name == "ids" and ".add" not in call)
    if wrong in ("a number", "fewer dimensions") and call.startswith("EmbeddingStore"):
        return name in ("ids", "query")  # one is a list of one
    if wrong == "other columns":
        return (
            name in ("ids", "exclude")
            or call == "KNN"
            or (name == "x" and call.startswith("batch_"))
        )
    return call == "KNN" and wrong in FLOATS  # a search looks for them


def fault(call: Callable[..., Any], name: str, arguments: dict[str, Any]) -> str | None:
    """Return the error of a call if it does not name the argument; "no error" if there is none."""
    try:
        call(**arguments)
    except (ValueError, TypeError) as error:
        return None if re.search(rf"\b{name}\b", str(error)) else str(error)
    return "no error"


@pytest.mark.filterwarnings("ignore:.*training vectors")
@pytest.mark.parametrize("who", CALLS)
def test_the_message_names_the_argument(who: str) -> None:
    call, arrays, others = CALLS[who]
    needed = {name: a for name, a in arrays.items() if name not in OPTIONAL} | others
    found = {}
    for name, right in arrays.items():
        assert fault(call, name, {**needed, name: right}) == "no error"
        for what, wrong in (WRONG | (FLOATS if right.dtype == np.float32 else {})).items():
            if not is_allowed(who, name, what):
                found[name, what] = fault(call, name, {**needed, name: wrong(right)})
    assert {case: message for case, message in found.items() if message} == {}


def test_vectors_too_large_for_lists() -> None:
    made = INDEXES["IndexPreTransform"]().transform, index.IndexIVFFlat(4, 3)
    for ivf in (trained(index.IndexIVFFlat(4, 3)), trained(index.IndexPreTransform(*made))):
        message = r" must be of magnitudes <= 2\*\*40, got 1e\+13 \(%s.shape=\(40, 4\)\)"
        with pytest.raises(ValueError, match="^x" + message % "x"):
            ivf.search(X * 0 + 1e13, 2)
        kept = index.EmbeddingStore(index=ivf)
        with pytest.raises(ValueError, match="^query" + message % "query"):
            kept.search(X * 0 + 1e13, 2)
        with pytest.raises(ValueError, match="^embeddings" + message % "embeddings"):
            kept.add(X * 0 + 1e13)
        assert len(kept) == 40


def test_a_wrong_name_is_seen() -> None:
    made = store().index
    assert made is not None
    assert fault(lambda query: made.search(query, 2), "query", {"query": X[0]}) not in (
        None,
        "no error",
    )
