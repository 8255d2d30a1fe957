"""Sums of products of bytes: a block of points with a few centroids, in registers.

Points are SIMD lanes, four dimensions of a point to a lane. Written in LLVM's language, as its
vectorizer knows no products of bytes.
"""

from llvmlite import ir

from .ir import INT8, INTS, NUMBER, VECTORS, WIDTH, pointer, splat
from .jit import cgutils
from .lanes import POINTS, ROWS


def multiply(builder, total, points, centroids):
    """Return total plus the products of four bytes each, by int32."""
    module = builder.module
    if not INT8:  # never called, but kernels that could call it are compiled
        return total
    if INT8 == "vnni":
        kind = ir.FunctionType(INTS, [INTS, INTS, INTS])
        name = f"llvm.x86.avx512.vpdpbusd.{32 * WIDTH}"
        return builder.call(
            cgutils.get_or_insert_function(module, kind, name), [total, points, centroids]
        )
    bytes_ = ir.VectorType(ir.IntType(8), 4 * WIDTH)
    points, centroids = builder.bitcast(points, bytes_), builder.bitcast(centroids, bytes_)
    if INT8 == "sdot":
        kind = ir.FunctionType(INTS, [INTS, bytes_, bytes_])
        name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
        return builder.call(
            cgutils.get_or_insert_function(module, kind, name), [total, points, centroids]
        )
    shorts = ir.VectorType(ir.IntType(16), 2 * WIDTH)
    kind = ir.FunctionType(shorts, [bytes_, bytes_])
    pairs = cgutils.get_or_insert_function(module, kind, "llvm.x86.avx2.pmadd.ub.sw")
    kind = ir.FunctionType(INTS, [shorts, shorts])
    quads = cgutils.get_or_insert_function(module, kind, "llvm.x86.avx2.pmadd.wd")
    products = builder.call(pairs, [points, centroids])
    ones = shorts([1] * shorts.count)
    return builder.add(total, builder.call(quads, [products, ones]))


def _rows(builder, n_quads, words, k, n_clusters):
    """Return indices and addresses of centroids k:k+ROWS, the last one again past the end."""
    last = builder.sub(n_clusters, NUMBER(1))
    index, rows = [], []
    for r in range(ROWS):
        i = builder.add(k, NUMBER(r))
        index.append(builder.select(builder.icmp_signed("<", i, last), i, last))
        rows.append(builder.add(words, builder.mul(builder.mul(index[r], n_quads), NUMBER(4))))
    return index, rows


def sums_of_products(builder, lanes, n_quads, words, start, k, n_clusters):
    """Return indices of centroids k:k+ROWS, and sums of products [ROWS][VECTORS] int32."""
    index, rows = _rows(builder, n_quads, words, k, n_clusters)
    sums = [[cgutils.alloca_once(builder, INTS) for _ in range(VECTORS)] for _ in range(ROWS)]
    for r in range(ROWS):
        at = pointer(builder, start, builder.mul(index[r], NUMBER(4)), ir.IntType(32))
        for v in range(VECTORS):
            builder.store(splat(builder, builder.load(at), INTS), sums[r][v])
    with cgutils.for_range(builder, n_quads) as loop:
        at = builder.add(lanes, builder.mul(loop.index, NUMBER(4 * POINTS)))
        points = [
            builder.load(pointer(builder, at, 4 * WIDTH * v, INTS), align=4) for v in range(VECTORS)
        ]
        offset = builder.mul(loop.index, NUMBER(4))
        for r in range(ROWS):
            word = builder.load(pointer(builder, rows[r], offset, ir.IntType(32)))
            factor = splat(builder, word, INTS)
            for v in range(VECTORS):
                total = multiply(builder, builder.load(sums[r][v]), points[v], factor)
                builder.store(total, sums[r][v])
    return index, [[builder.load(s) for s in row] for row in sums]


def sums_by_pairs(builder, lanes, n_quads, words, _start, k, n_clusters):
    """Return the same sums by SMMLA: two points, two centroids and eight dimensions at a time."""
    index, rows = _rows(builder, n_quads, words, k, n_clusters)
    bytes_, pair = ir.VectorType(ir.IntType(8), 16), ir.VectorType(NUMBER, 2)
    kind = ir.FunctionType(INTS, [INTS, bytes_, bytes_])
    name = "llvm.aarch64.neon.smmla.v4i32.v16i8"
    multiply = cgutils.get_or_insert_function(builder.module, kind, name)
    zero = INTS([0] * WIDTH)  # what sums start from, as ZERO is 0
    sums = [
        [cgutils.alloca_once_value(builder, zero) for _ in range(2 * VECTORS)]
        for _ in range(ROWS // 2)
    ]
    with cgutils.for_range(builder, builder.sdiv(n_quads, NUMBER(2))) as loop:
        at = builder.add(lanes, builder.mul(loop.index, NUMBER(8 * POINTS)))
        offset = builder.mul(loop.index, NUMBER(8))
        for r in range(ROWS // 2):
            both = pair(ir.Undefined)
            for j in range(2):
                eight = builder.load(pointer(builder, rows[2 * r + j], offset, NUMBER), align=4)
                both = builder.insert_element(both, eight, ir.IntType(32)(j))
            factor = builder.bitcast(both, bytes_)
            for v in range(2 * VECTORS):
                points = builder.load(pointer(builder, at, 16 * v, bytes_), align=4)
                total = builder.call(multiply, [builder.load(sums[r][v]), points, factor])
                builder.store(total, sums[r][v])
    found = []
    for r in range(ROWS):  # of one centroid, each other value
        taken = ir.VectorType(ir.IntType(32), WIDTH)([2 * i + r % 2 for i in range(WIDTH)])
        totals = [builder.load(total) for total in sums[r // 2]]
        found.append(
            [builder.shuffle_vector(*totals[2 * v : 2 * v + 2], taken) for v in range(VECTORS)]
        )
    return index, found
