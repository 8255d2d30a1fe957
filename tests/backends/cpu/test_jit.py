"""How Python calls kernels: arguments and results of all kinds, and threads that load one."""

from __future__ import annotations

import sys
import threading
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import pytest

jit: Any = import_module("flash_kmeans_mlx.kernels.cpu.jit")
object_cache: Any = import_module("flash_kmeans_mlx.kernels.cpu.object_cache")


@pytest.fixture(autouse=True)
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep none of these kernels."""
    monkeypatch.setattr(object_cache, "folders", lambda: ())
    monkeypatch.setattr(object_cache, "_said", [True])
    # Symbols must differ: no two kernels of a process have the same.
    monkeypatch.setattr(object_cache, "key", lambda: f"test{next(NUMBERS)}")


NUMBERS = iter(range(sys.maxsize))


class Pair(NamedTuple):
    array: np.ndarray
    place: int


class Twin(NamedTuple):
    array: np.ndarray
    place: int


@jit.njit
def echo(value: Any) -> Any:
    return value


@jit.njit
def of_array(a: np.ndarray) -> Any:
    return a.shape, a.strides, a.sum()


@jit.njit
def of_pair(pair: Any) -> Any:
    return pair.array[pair.place]


@jit.njit
def is_none(value: Any) -> bool:
    return value is None


@pytest.mark.parametrize(
    "value",
    [0, -1, 2**63 - 1, -(2**63), True, False, 0.5, float("inf"), (1, 2.5, True), ()],
)
def test_values_come_back(value: Any) -> None:
    result = echo(value)
    assert (result, type(result)) == (value, type(value))


@pytest.mark.parametrize(
    "dtype",
    [
        *(np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
        *(np.float32, np.float64, np.bool_),
    ],
)
def test_scalars_and_arrays_of_every_dtype(dtype: type) -> None:
    assert echo(dtype(1)) == 1
    a = np.ones((2, 3), dtype)
    assert of_array(a) == ((2, 3), a.strides, 6)
    assert of_array(a[:, ::2]) == ((2, 2), a[:, ::2].strides, 4)
    assert of_array(a.T) == ((3, 2), a.T.strides, 6)


def test_numbers_that_no_int64_holds_are_refused() -> None:
    assert echo(5) == 5
    with pytest.raises(OverflowError):
        echo(2**63)


def test_arrays_of_any_size_and_memory() -> None:
    assert of_array(np.zeros((0, 3), np.float32))[2] == 0
    read_only = np.arange(4.0)
    read_only.flags.writeable = False
    assert of_array(read_only)[2] == 6
    assert of_array(np.frombuffer(bytes(range(8)), np.uint8)) == ((8,), (1,), 28)
    named = np.ones(3, np.dtype("f4").newbyteorder(sys.byteorder))  # "<f4", not "=f4"
    assert of_array(named)[2] == 3
    longlong = np.ones(3, np.longlong)  # two numbers of NumPy's for one type
    assert of_array(longlong)[2] == of_array(longlong.astype(np.int64))[2] == 3


def test_arrays_in_foreign_order_are_refused() -> None:
    of_array(np.ones(3, np.float32))
    with pytest.raises(TypeError, match="arrays in native order"):
        of_array(np.ones(3, ">f4"))


def test_arrays_that_are_not_aligned() -> None:
    """As of buffers that came by a network."""
    for a in (np.arange(20, dtype=np.float32), np.ones((4, 5))):
        shifted = np.frombuffer(b"1" + a.tobytes(), a.dtype, a.size, 1).reshape(a.shape)
        assert not shifted.flags.aligned
        assert of_array(shifted)[2] == of_array(shifted.T)[2] == a.sum()


def test_tuples_are_told_apart_by_class() -> None:
    a = np.array([3.0, 5.0])
    assert of_pair(Pair(a, 1)) == of_pair(Twin(a, 1)) == 5.0
    assert len(of_pair.signatures) == 2
    with pytest.raises(Exception, match="attribute"):
        of_pair((a, 1))


def test_none() -> None:
    assert (is_none(None), is_none(1), is_none(0.5), is_none(None)) == (True, False, False, True)
    assert echo(None) is None


def test_what_kernels_cannot_take_is_refused() -> None:
    for value in ("text", [1], {}, 1j, object()):
        with pytest.raises(TypeError, match="kernels take no"):
            echo(value)
    with pytest.raises(Exception, match="argument"):
        echo(1, 2)


def test_references_are_counted() -> None:
    a, big = np.arange(1000), 12345678901
    of_pair(Pair(a, 0))
    is_none(None)
    before = sys.getrefcount(a), sys.getrefcount(None), sys.getrefcount(NotImplemented)
    for _ in range(1000):
        of_pair(Pair(a, 0))
        is_none(None)
        is_none(1)
        of_array(a)
        echo(big)
        echo(None)
    after = sys.getrefcount(a), sys.getrefcount(None), sys.getrefcount(NotImplemented)
    assert all(abs(b - a) < 50 for a, b in zip(before, after, strict=True))


def test_memory_that_a_kernel_allocates() -> None:
    @jit.njit
    def total(n: int) -> float:
        a = np.empty(n)
        b = np.zeros((n, 3), np.float32)
        for i in range(n):
            a[i] = i
        return a.sum() + b.sum()

    for n in (0, 1, 1000, 100_000):
        assert total(n) == n * (n - 1) / 2
    with pytest.raises(MemoryError):
        total(1 << 58)


def test_threads_that_load_one_kernel() -> None:
    @jit.njit
    def double(x: Any) -> Any:
        return 2 * x

    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(double(21))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [42] * 8
    assert len(double.signatures) == 1


def test_kernels_run_without_the_gil() -> None:
    @jit.njit
    def wait(flag: np.ndarray) -> int:
        spins = 0
        while flag[0] == 0 and spins < 4_000_000_000:
            spins += 1
        return spins

    flag = np.ones(1, np.int64)
    wait(flag)
    flag[0] = 0
    thread = threading.Thread(target=wait, args=(flag,))
    thread.start()
    thread.join(0.05)  # returns only if this thread gets the GIL
    flag[0] = 1
    thread.join(60)
    assert not thread.is_alive()


def test_what_calls_functions_of_numba_is_refused() -> None:
    @jit.njit
    def reshaped(a: np.ndarray) -> float:
        return a.reshape((2, 4))[1, 1]

    with pytest.raises(RuntimeError, match=r"reshaped calls .*numba_attempt_nocopy_reshape"):
        reshaped(np.arange(8.0))


def test_ctrl_c_while_a_kernel_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    @jit.njit
    def triple(x: Any) -> Any:
        return 3 * x

    from numba.core.codegen import CodeLibrary

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CodeLibrary, "create_ir_module", interrupted)
        with pytest.raises(KeyboardInterrupt):
            triple(3)
    assert triple(3) == 9
