// assign: the best centroid of each point, argmax over k of <x', c_k> + bias_k. Needs common and
// scores.
//
//   IN  x, c, bias, shift, factor         as in scores.metal
//   OUT label (parts, B, N) uint          0 if every score is -inf or NaN
//       score (parts, B, N) float         -inf likewise
//   Grid: threadgroups (row tiles, B, parts). Part z takes its share of K, ascending; the caller
//   keeps the best part.
//   Ties: the lowest index.
// The matrix of scores exists in registers only (as in FlashAttention, Dao et al., 2022).

// The best of a lane's rows so far. The columns that it sees ascend: a strict > keeps the lowest.
template <typename S>
struct KeepBest {
  float best[S::ROW_BLOCKS];
  uint index[S::ROW_BLOCKS];
  uint col;

  METAL_FUNC void operator()(
      uint k0, thread typename S::Matrix (&acc)[S::ROW_BLOCKS][S::COLUMN_BLOCKS], bool) thread {
    UNROLL for (int i = 0; i < S::ROW_BLOCKS; i++) {
      UNROLL for (int j = 0; j < S::COLUMN_BLOCKS; j++) {
        UNROLL for (int e = 0; e < 2; e++) {
          const float score = acc[i][j].thread_elements()[e];
          const bool wins = score > best[i];
          best[i] = wins ? score : best[i];
          index[i] = wins ? k0 + j * 8 + col + e : index[i];
        }
      }
    }
  }
};

// D > 8. `tile`: S::TILE floats, `bias_tile`: S::BN.
template <typename S, typename P>
METAL_FUNC void assign_rows(
    P p, device uint* label, device float* score, threadgroup float2* tile,
    threadgroup float2* bias_tile, uint3 group, uint3 groups, uint simdgroup, uint lane) {
  const uint row0 = group.x * S::BM + simdgroup * S::ROWS, tiles = (p.K + S::BN - 1) / S::BN;
  const uint first = ulong(tiles) * group.z / groups.z;
  const uint last = ulong(tiles) * (group.z + 1) / groups.z;
  KeepBest<S> keep;
  keep.col = fragment_col(lane);
  UNROLL for (int i = 0; i < S::ROW_BLOCKS; i++) {
    keep.best[i] = -INFINITY;
    keep.index[i] = 0;
  }
  S::sweep(p, group.y, row0, first, last, tile, bias_tile, simdgroup * 32 + lane, lane, keep);
  UNROLL for (int i = 0; i < S::ROW_BLOCKS; i++) {
    float best = keep.best[i];
    uint index = keep.index[i];
    for (ushort o = 1; o <= 8; o *= 8) {  // the four lanes of a row differ in bits 0 and 3
      const float other = simd_shuffle_xor(best, o);
      const uint other_index = simd_shuffle_xor(index, o);
      if (beats(other, other_index, best, index)) {
        best = other;
        index = other_index;
      }
    }
    const uint row = row0 + i * 8 + fragment_row(lane);
    if (fragment_col(lane) == 0 && row < p.N) {
      const ulong at = (ulong(group.z) * groups.y + group.y) * p.N + row;
      label[at] = index;
      score[at] = best;
    }
  }
}

// D <= 8: padding to the matrix unit would waste it. A thread holds PT points. Centroids, each
// followed by its bias, pass through threadgroup memory BN at a time, in units of four.
// `tile`: BN * (D / 4 + 1).
template <typename T, int D, int PT, int BN, bool FRAMED, typename P>
METAL_FUNC void assign_points(
    P p, device uint* label, device float* score, threadgroup float4* tile, uint3 group,
    uint3 groups, uint t, uint threads) {
  constexpr int QUADS = D / 4 + 1;
  threadgroup float* values = reinterpret_cast<threadgroup float*>(tile);
  const ulong rows = ulong(group.y) * p.N, centroids = ulong(group.y) * p.K;
  const uint tiles = (p.K + BN - 1) / BN;
  const uint first = ulong(tiles) * group.z / groups.z;
  const uint last = ulong(tiles) * (group.z + 1) / groups.z;
  const uint row0 = group.x * threads * PT + t;
  float x[PT][D], best[PT];
  uint index[PT];
  UNROLL for (int i = 0; i < PT; i++) {
    const uint row = row0 + i * threads;
    UNROLL for (int d = 0; d < D; d++) {
      x[i][d] = row < p.N ? float(p.x[(rows + row) * D + d]) : 0.0f;
      if (FRAMED) x[i][d] = (x[i][d] - p.shift[group.y * D + d]) * p.factor[group.y];
    }
    best[i] = -INFINITY;
    index[i] = 0;
  }
  for (uint kt = first; kt < last; kt++) {
    const uint k0 = kt * BN, n = min(uint(BN), p.K - k0);
    for (uint i = t; i < n * D; i += threads)
      values[i / D * (4 * QUADS) + i % D] = p.c[(centroids + k0) * D + i];
    for (uint i = t; i < n; i += threads) values[i * (4 * QUADS) + D] = p.bias[centroids + k0 + i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint k = 0; k < n; k++) {
      float4 c[QUADS];
      UNROLL for (int w = 0; w < QUADS; w++) c[w] = tile[k * QUADS + w];
      UNROLL for (int i = 0; i < PT; i++) {
        float sum = c[D / 4][D % 4];
        UNROLL for (int d = 0; d < D; d++) sum = fma(x[i][d], c[d / 4][d % 4], sum);
        const bool wins = sum > best[i];
        best[i] = wins ? sum : best[i];
        index[i] = wins ? k0 + k : index[i];
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  UNROLL for (int i = 0; i < PT; i++) {
    const uint row = row0 + i * threads;
    if (row < p.N) {
      const ulong at = (ulong(group.z) * groups.y + group.y) * p.N + row;
      label[at] = index[i];
      score[at] = best[i];
    }
  }
}
