"""Products of scalar-quantized codes with queries: blocks of 16 rows, as SIMD lanes.

Written in LLVM's language, as its vectorizer knows no products of bytes.
"""

from llvmlite import ir

from .int8_products import multiply
from .ir import FLOATS, FUSED, HALVES, INT8, INTS, NUMBER, WIDTH, pointer, splat
from .jit import cgutils, intrinsic, types
from .lists import BLOCK

QUAD = 4  # dimensions of a lane
QUERIES = 4 if WIDTH == 16 else 2  # whose sums fit in registers
VECTORS = BLOCK // WIDTH
ZERO = 128  # what is taken off a code
# Whether codes are multiplied as they are, or less ZERO.
UNSIGNED = INT8 not in ("sdot", "smmla")
# A weight is BASE times a number of at most HIGH, plus one of at most BASE / 2. AVX2 adds pairs of
# products in 16 bits, where 2 * 255 * 64 has room.
BASE, HIGH = 128, 64 if INT8 == "avx2" else 127
HALF = ir.VectorType(ir.HalfType(), WIDTH)
SHORTS = ir.VectorType(ir.IntType(16), WIDTH)
BYTES = ir.VectorType(ir.IntType(8), QUAD * BLOCK)


def _multiply(builder, total, codes, weights):
    """Return total plus the products of four bytes each, by int32, on any CPU."""
    if INT8:
        return multiply(builder, total, codes, weights)
    bytes_ = ir.VectorType(ir.IntType(8), QUAD * WIDTH)
    wide = ir.VectorType(ir.IntType(32), QUAD * WIDTH)
    codes = builder.zext(builder.bitcast(codes, bytes_), wide)
    weights = builder.sext(builder.bitcast(weights, bytes_), wide)
    products = builder.mul(codes, weights)
    for i in range(QUAD):
        taken = INTS([QUAD * lane + i for lane in range(WIDTH)])
        total = builder.add(total, builder.shuffle_vector(products, wide(ir.Undefined), taken))
    return total


def _byte_scorer(n_queries):
    """Return an intrinsic that multiplies a block of bytes with some queries.

    Addresses: codes (QUAD * n_quads, BLOCK) uint8; rest (QUAD, BLOCK) uint8, the codes of
    dimensions beyond these, 0 for none; words (n_queries,), of addresses of weights, int8, higher
    parts first and lower ones `stride` bytes on; start (n_queries,), of addresses of what both sums
    start from, int32; out (n_queries, BLOCK) float32.
    """

    def generate(context, builder, _signature, args):
        codes, n_quads, rest, words, stride, start, out = args
        int32 = ir.IntType(32)
        at = [builder.load(pointer(builder, words, 8 * q, NUMBER)) for q in range(n_queries)]
        sums = []
        for q in range(n_queries):
            begin = builder.load(pointer(builder, start, 8 * q, NUMBER))
            values = [builder.load(pointer(builder, begin, 4 * p, int32)) for p in range(2)]
            sums.append(
                [
                    [
                        cgutils.alloca_once_value(builder, splat(builder, value, INTS))
                        for _ in range(VECTORS)
                    ]
                    for value in values
                ]
            )

        def add(planes_at, offset):
            planes = builder.load(pointer(builder, planes_at, 0, BYTES), align=1)
            if not UNSIGNED:
                planes = builder.xor(planes, BYTES([ZERO] * BYTES.count))
            rows = []
            for v in range(VECTORS):  # the four bytes of a row become neighbours
                lanes = range(WIDTH * v, WIDTH * (v + 1))
                order = [BLOCK * p + lane for lane in lanes for p in range(QUAD)]
                taken = ir.VectorType(int32, len(order))(order)
                row = builder.shuffle_vector(planes, BYTES(ir.Undefined), taken)
                rows.append(builder.bitcast(row, INTS))
            for q in range(n_queries):
                for p in range(2):
                    place = builder.add(offset, builder.mul(stride, NUMBER(p)))
                    word = builder.load(pointer(builder, at[q], place, int32), align=1)
                    factor = splat(builder, word, INTS)
                    for v in range(VECTORS):
                        total = sums[q][p][v]
                        more = _multiply(builder, builder.load(total), rows[v], factor)
                        builder.store(more, total)

        with cgutils.for_range(builder, n_quads) as loop:
            line = builder.add(codes, builder.mul(loop.index, NUMBER(QUAD * BLOCK)))
            add(line, builder.mul(loop.index, NUMBER(QUAD)))
        with builder.if_then(builder.icmp_signed("!=", rest, NUMBER(0))):
            add(rest, builder.mul(n_quads, NUMBER(QUAD)))
        base = FLOATS([float(BASE)] * WIDTH)
        for q in range(n_queries):
            for v in range(VECTORS):
                high, low = (builder.sitofp(builder.load(sums[q][p][v]), FLOATS) for p in range(2))
                total = builder.fadd(builder.fmul(high, base, flags=FUSED), low, flags=FUSED)
                place = pointer(builder, out, 4 * (BLOCK * q + WIDTH * v), FLOATS)
                builder.store(total, place, align=4)
        return context.get_dummy_value()

    @intrinsic
    def scorer(_typing, codes, n_quads, rest, words, stride, start, out):
        return types.void(*[types.int64] * 7), generate

    return scorer


def _widen(builder, shorts):
    """Return the float32 values of float16 bits, finite ones."""
    if HALVES:
        return builder.fpext(builder.bitcast(shorts, HALF), FLOATS)
    wide = builder.zext(shorts, INTS)
    bits = builder.shl(builder.and_(wide, INTS([0x7FFF] * WIDTH)), INTS([13] * WIDTH))
    scaled = builder.fmul(builder.bitcast(bits, FLOATS), FLOATS([2.0**112] * WIDTH))
    sign = builder.shl(builder.and_(wide, INTS([0x8000] * WIDTH)), INTS([16] * WIDTH))
    return builder.bitcast(builder.or_(builder.bitcast(scaled, INTS), sign), FLOATS)


def _half_scorer(n_queries):
    """Return an intrinsic that multiplies a block of float16 with some queries.

    Addresses: codes (n_dims, 2, BLOCK) uint8, the lower bytes of a dimension first; words
    (n_queries,), of addresses of weights (n_dims,) float32; out (n_queries, BLOCK) float32.
    """

    def generate(context, builder, _signature, args):
        codes, n_dims, words, out = args
        single = ir.FloatType()
        planes = ir.VectorType(ir.IntType(8), BLOCK)
        at = [builder.load(pointer(builder, words, 8 * q, NUMBER)) for q in range(n_queries)]
        zero = FLOATS([0.0] * WIDTH)
        sums = [
            [cgutils.alloca_once_value(builder, zero) for _ in range(VECTORS)]
            for _ in range(n_queries)
        ]
        with cgutils.for_range(builder, n_dims) as loop:
            line = builder.add(codes, builder.mul(loop.index, NUMBER(2 * BLOCK)))
            low, high = (
                builder.load(pointer(builder, line, BLOCK * p, planes), align=1) for p in range(2)
            )
            offset = builder.mul(loop.index, NUMBER(4))
            weights = [
                splat(builder, builder.load(pointer(builder, a, offset, single)), FLOATS)
                for a in at
            ]
            for v in range(VECTORS):
                lanes = range(WIDTH * v, WIDTH * (v + 1))
                order = [BLOCK * p + lane for lane in lanes for p in range(2)]
                taken = ir.VectorType(ir.IntType(32), len(order))(order)
                shorts = builder.bitcast(builder.shuffle_vector(low, high, taken), SHORTS)
                values = _widen(builder, shorts)
                for q in range(n_queries):
                    product = builder.fmul(values, weights[q], flags=FUSED)
                    total = builder.fadd(builder.load(sums[q][v]), product, flags=FUSED)
                    builder.store(total, sums[q][v])
        for q in range(n_queries):
            for v in range(VECTORS):
                place = pointer(builder, out, 4 * (BLOCK * q + WIDTH * v), FLOATS)
                builder.store(builder.load(sums[q][v]), place, align=4)
        return context.get_dummy_value()

    @intrinsic
    def scorer(_typing, codes, n_dims, words, out):
        return types.void(*[types.int64] * 4), generate

    return scorer


one_by_bytes, some_by_bytes = _byte_scorer(1), _byte_scorer(QUERIES)
one_by_halves, some_by_halves = _half_scorer(1), _half_scorer(QUERIES)
