"""Sums of float64 terms in one order: a distance has the same bits in every kernel.

Sums that a compiler may reorder come out by a rounding apart in kernels that it compiled apart.
Written in LLVM's language: instructions with flags of their own are left alone by `fastmath`.
"""

import numpy as np
from llvmlite import ir

from .ir import NUMBER, WIDTH, address, pointer
from .jit import cgutils, intrinsic, njit, types

IN_ORDER = ("nsz",)  # neither reordered nor fused
DOUBLE = ir.DoubleType()
LANES = 8  # sums that are kept apart, on every CPU
PARTS = max(1, 2 * LANES // WIDTH)  # vectors that hold them
DOUBLES = ir.VectorType(DOUBLE, LANES // PARTS)


def _product(builder, a, b):
    return builder.fmul(a, b, flags=IN_ORDER)


def _square(builder, a, b):
    gap = builder.fsub(a, b, flags=IN_ORDER)
    return builder.fmul(gap, gap, flags=IN_ORDER)


def _magnitude(builder, a, b):
    gap = builder.fsub(a, b, flags=IN_ORDER)
    name = "llvm.fabs.f64" if gap.type == DOUBLE else f"llvm.fabs.v{DOUBLES.count}f64"
    kind = ir.FunctionType(gap.type, [gap.type])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [gap])


def _adder(term):
    """Return an intrinsic (x, y, n): the sum of term(x[d], y[d]) for d < n; x and y are addresses.

    Dimension d goes to sum d % LANES; these are added up from the first on, then what remains.
    """

    @intrinsic
    def add_up(_typing, x, y, n):
        def generate(_context, builder, _signature, args):
            x, y, n = args
            sums = [
                cgutils.alloca_once_value(builder, DOUBLES([0.0] * DOUBLES.count))
                for _ in range(PARTS)
            ]
            whole = builder.sdiv(n, NUMBER(LANES))

            def at(base, offset, kind):
                return builder.load(pointer(builder, base, offset, kind), align=8)

            with cgutils.for_range(builder, whole) as loop:
                for part, total in enumerate(sums):
                    offset = builder.mul(loop.index, NUMBER(8 * LANES))
                    offset = builder.add(offset, NUMBER(8 * part * DOUBLES.count))
                    value = term(builder, at(x, offset, DOUBLES), at(y, offset, DOUBLES))
                    builder.store(builder.fadd(builder.load(total), value, flags=IN_ORDER), total)
            result = DOUBLE(0.0)
            for total in sums:
                vector = builder.load(total)
                for i in range(DOUBLES.count):
                    one = builder.extract_element(vector, ir.IntType(32)(i))
                    result = builder.fadd(result, one, flags=IN_ORDER)
            result = cgutils.alloca_once_value(builder, result)
            done = builder.mul(whole, NUMBER(LANES))
            with cgutils.for_range(builder, builder.sub(n, done)) as loop:
                offset = builder.mul(builder.add(done, loop.index), NUMBER(8))
                value = term(builder, at(x, offset, DOUBLE), at(y, offset, DOUBLE))
                builder.store(builder.fadd(builder.load(result), value, flags=IN_ORDER), result)
            return builder.load(result)

        return types.float64(types.int64, types.int64, types.int64), generate

    return add_up


_add_products, _add_squares, _add_magnitudes = map(_adder, (_product, _square, _magnitude))


@njit
def sum_of_products(x, y):
    """Return <x, y> of two rows (D,) float64."""
    return _add_products(address(x), address(y), np.int64(x.size))


@njit
def sum_of_squares(x, y):
    """Return the sum of squared differences."""
    return _add_squares(address(x), address(y), np.int64(x.size))


@njit
def sum_of_magnitudes(x, y):
    """Return the sum of the magnitudes of differences."""
    return _add_magnitudes(address(x), address(y), np.int64(x.size))
