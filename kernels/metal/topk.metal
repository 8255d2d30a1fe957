// topk: the k <= 32 best of each row, best first. Needs common; the fused form needs scores too.
//
// A list is spread over a simdgroup, one entry a lane. A batch of 32 candidates is sorted by a
// bitonic network (Batcher, 1968) and merged in only if one of them beats the k-th entry. The order
// is total, so ties are exact however the candidates are cut into parts. NaN counts as -inf. More
// than 32 are found in several passes: with AFTER, a pass only looks at candidates that the last
// entry of the pass before beats.

constant constexpr uint NONE = 0xFFFFFFFFu;

struct Entry {
  float score;
  uint index;
};

METAL_FUNC bool beats(Entry a, Entry b) { return beats(a.score, a.index, b.score, b.index); }

METAL_FUNC Entry at_lane(Entry e, ushort lane) {
  return Entry{simd_shuffle(e.score, lane), simd_shuffle(e.index, lane)};
}

METAL_FUNC Entry exchange(Entry e, ushort mask, bool keep_better) {
  const Entry other{simd_shuffle_xor(e.score, mask), simd_shuffle_xor(e.index, mask)};
  return beats(e, other) == keep_better ? e : other;
}

// The best 32 of a sorted list and of 32 candidates in any order, sorted.
METAL_FUNC Entry merge(Entry list, Entry e, uint lane) {
  for (ushort size = 2; size <= 32; size *= 2)
    for (ushort o = size / 2; o > 0; o /= 2)
      e = exchange(e, o, ((lane & size) == 0) == ((lane & o) == 0));
  e = at_lane(e, ushort(31 - lane));
  if (beats(list, e)) e = list;
  for (ushort o = 16; o > 0; o /= 2) e = exchange(e, o, (lane & o) == 0);
  return e;
}

METAL_FUNC Entry candidate(float score, uint index, bool valid) {
  return Entry{valid && score == score ? score : -INFINITY, valid ? index : NONE};
}

template <bool AFTER>
METAL_FUNC Entry later(Entry e, Entry previous) {
  return !AFTER || beats(previous, e) ? e : Entry{-INFINITY, NONE};
}

// From scores in memory.
//
//   IN  scores (R, M) T
//       index  (R, M) uint                INDEXED: names of the candidates, to merge the lists of
//                                         several parts
//       after_score (R,) float, after_index (R,) uint     AFTER: the last entry of the pass before
//   OUT label (R, k) uint
//       score (R, k) float
//   Grid: a simdgroup per row.
template <typename T, int W, bool INDEXED, bool AFTER, typename P, typename PI, typename PS,
          typename PN>
METAL_FUNC void top_of_row(
    P scores, PI index, PS after_score, PN after_index, device uint* label, device float* score,
    uint R, uint M, uint k, uint row, uint lane) {
  if (row >= R) return;
  const ulong base = ulong(row) * M;
  Entry list{-INFINITY, NONE}, worst = list, previous = list;
  if (AFTER) previous = Entry{float(after_score[row]), uint(after_index[row])};
  for (uint m0 = 0; m0 < M; m0 += 32 * W) {
    const uint m = m0 + lane * W;
    T v[W];
    load_span<W, true>(v, scores, base + m, int(M) - int(m));
    UNROLL for (int w = 0; w < W; w++) {
      const bool valid = m + w < M;
      const uint name = INDEXED && valid ? uint(index[base + m + w]) : m + w;
      const Entry e = later<AFTER>(candidate(float(v[w]), name, valid), previous);
      if (simd_any(beats(e, worst))) {
        list = merge(list, e, lane);
        worst = at_lane(list, ushort(k - 1));
      }
    }
  }
  if (lane < k) {
    label[ulong(row) * k + lane] = list.index;
    score[ulong(row) * k + lane] = list.score;
  }
}

// Fused: takes the tiles of Scores::sweep. Rows without a candidate leave their scores in
// registers; the others go through `scratch`, eight rows at a time, to lists in threadgroup memory.
template <typename S, bool AFTER>
struct KeepTop {
  threadgroup float* scratch;     // 8 * BN, of this simdgroup
  threadgroup float* list_score;  // ROWS * 32, of this simdgroup
  threadgroup uint* list_index;
  uint K, k, lane;
  Entry worst[S::ROW_BLOCKS];
  Entry previous[S::ROW_BLOCKS];

  METAL_FUNC void operator()(
      uint k0, thread typename S::Matrix (&acc)[S::ROW_BLOCKS][S::COLUMN_BLOCKS],
      bool busy) thread {
    if (!busy) return;
    const uint r = fragment_row(lane), col = fragment_col(lane);
    UNROLL for (int i = 0; i < S::ROW_BLOCKS; i++) {
      bool any = false;
      UNROLL for (int j = 0; j < S::COLUMN_BLOCKS; j++) {
        UNROLL for (int e = 0; e < 2; e++) {
          const uint index = k0 + j * 8 + col + e;
          const Entry c = candidate(acc[i][j].thread_elements()[e], index, index < K);
          any |= beats(later<AFTER>(c, previous[i]), worst[i]);
        }
      }
      if (!simd_any(any)) continue;
      UNROLL for (int j = 0; j < S::COLUMN_BLOCKS; j++) {
        UNROLL for (int e = 0; e < 2; e++)
          scratch[r * S::BN + j * 8 + col + e] = acc[i][j].thread_elements()[e];
      }
      simdgroup_barrier(mem_flags::mem_threadgroup);
      for (uint q = 0; q < 8; q++)
        update(i * 8 + q, scratch + q * S::BN, k0, at_lane(previous[i], lane_of_row(q)));
      simdgroup_barrier(mem_flags::mem_threadgroup);
      const uint at = (i * 8 + r) * 32 + k - 1;
      worst[i] = Entry{list_score[at], list_index[at]};
      simdgroup_barrier(mem_flags::mem_threadgroup);
    }
  }

  METAL_FUNC void update(uint row, threadgroup const float* scores, uint k0, Entry before) thread {
    const uint at = row * 32 + lane;
    Entry list{list_score[at], list_index[at]};
    Entry last = at_lane(list, ushort(k - 1));
    bool changed = false;
    for (uint b = 0; b < uint(S::BN); b += 32) {
      const uint index = k0 + b + lane;
      const Entry c = later<AFTER>(candidate(scores[b + lane], index, index < K), before);
      if (simd_any(beats(c, last))) {
        list = merge(list, c, lane);
        last = at_lane(list, ushort(k - 1));
        changed = true;
      }
    }
    if (changed) {
      list_score[at] = list.score;
      list_index[at] = list.index;
    }
  }
};

//   IN  x, c, bias, shift, factor     as in scores.metal
//       after_score, after_index (B, N)   AFTER: the last entry of the pass before
//   OUT label (parts, B, N, k) uint
//       score (parts, B, N, k) float
//   Grid: threadgroups (row tiles, B, parts). Part z takes its share of K; where that has fewer
//   than k centroids, the list is filled up with -inf.
//   `tile`: TILE floats, `bias_tile`: BN, `scratch`: NSG * 8 * BN, `list_score` and `list_index`:
//   BM * 32.
template <typename S, bool AFTER, typename P, typename PS, typename PN>
METAL_FUNC void top_rows(
    P p, PS after_score, PN after_index, device uint* label, device float* score, uint k,
    threadgroup float2* tile, threadgroup float2* bias_tile, threadgroup float* scratch,
    threadgroup float* list_score, threadgroup uint* list_index, uint3 group, uint3 groups,
    uint simdgroup, uint lane) {
  const uint row0 = group.x * S::BM + simdgroup * S::ROWS, tiles = (p.K + S::BN - 1) / S::BN;
  const uint first = ulong(tiles) * group.z / groups.z;
  const uint last = ulong(tiles) * (group.z + 1) / groups.z;
  KeepTop<S, AFTER> keep;
  keep.scratch = scratch + simdgroup * 8 * S::BN;
  keep.list_score = list_score + simdgroup * S::ROWS * 32;
  keep.list_index = list_index + simdgroup * S::ROWS * 32;
  keep.K = p.K;
  keep.k = k;
  keep.lane = lane;
  UNROLL for (int i = 0; i < S::ROW_BLOCKS; i++) {
    const uint row = row0 + i * 8 + fragment_row(lane);
    const ulong at = ulong(group.y) * p.N + row;
    keep.worst[i] = Entry{-INFINITY, NONE};
    keep.previous[i] = Entry{-INFINITY, NONE};
    if (AFTER && row < p.N)
      keep.previous[i] = Entry{float(after_score[at]), uint(after_index[at])};
  }
  for (int q = 0; q < S::ROWS; q++) {
    keep.list_score[q * 32 + lane] = -INFINITY;
    keep.list_index[q * 32 + lane] = NONE;
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);
  S::sweep(p, group.y, row0, first, last, tile, bias_tile, simdgroup * 32 + lane, lane, keep);
  simdgroup_barrier(mem_flags::mem_threadgroup);
  for (uint q = 0; q < uint(S::ROWS) && row0 + q < p.N; q++)
    if (lane < k) {
      const ulong at = ((ulong(group.z) * groups.y + group.y) * p.N + row0 + q) * k + lane;
      label[at] = keep.list_index[q * 32 + lane];
      score[at] = keep.list_score[q * 32 + lane];
    }
}
