// accumulate: sums of x' = (x - shift) * factor per cluster, without atomics and with the same bits
// every time. Needs common.
//
//   IN  x       (B, N, D) T
//       labels  (B, N)     uint    rows whose label is not below K are left out, and so are rows
//                                  whose weight is not positive
//       weight  (B, N)     float   read only if WEIGHTED
//       shift   (B, D)     float   read only if FRAMED
//       factor  (B,)       float   read only if FRAMED
//
// Sorted, for any K: the rows in the order of `order` are cut into chunks. sum_chunk sums the
// clusters of more than `whole_rows` rows, chunk by chunk; sum_cluster adds up those partial sums
// in a fixed order and sums the other clusters itself. With whole_rows = NSG * chunk_rows no
// simdgroup has more than a chunk of rows to do, however unequal the clusters are, and small
// clusters leave no partial sums. LANES lanes share a row, W features each: a simdgroup reads
// 32 / LANES rows at a time.
//
// Dense, for K <= 64: sum_dense takes rows as they come, with a table of all clusters for each
// simdgroup; join_dense adds up the chunks.

template <typename PX, typename PW, typename PS, typename PF>
struct Rows {
  PX x;
  PW weight;
  PS shift;
  PF factor;
  uint N, D;
};

template <typename PX, typename PW, typename PS, typename PF>
METAL_FUNC Rows<PX, PW, PS, PF> make_rows(PX x, PW weight, PS shift, PF factor, uint N, uint D) {
  return Rows<PX, PW, PS, PF>{x, weight, shift, factor, N, D};
}

template <int W>
struct Sum {
  float v[W];
  float weight_sum;
};

// The lane's part of the sum of rows order[from..to), every stride-th from `from + start`, with
// four loads in flight.
template <typename T, int W, bool WEIGHTED, bool FRAMED, typename P, typename PO>
METAL_FUNC Sum<W> sum_rows(
    thread const P& p, PO order, uint batch, uint from, uint to, uint start, uint stride,
    uint col) {
  constexpr uint AHEAD = 4;
  const ulong rows = ulong(batch) * p.N;
  const int left = int(p.D) - int(col);
  float shift[W], factor = 1.0f;
  UNROLL for (int w = 0; w < W; w++) shift[w] = 0.0f;
  if (FRAMED) {
    UNROLL for (int w = 0; w < W; w++)
      if (w < left) shift[w] = p.shift[ulong(batch) * p.D + col + w];
    factor = p.factor[batch];
  }
  Sum<W> sum;
  UNROLL for (int w = 0; w < W; w++) sum.v[w] = 0.0f;
  sum.weight_sum = 0.0f;
  for (ulong i = ulong(from) + start; i < to; i += AHEAD * stride) {
    T v[AHEAD][W];
    float weight[AHEAD];
    UNROLL for (uint a = 0; a < AHEAD; a++) {
      const ulong at = i + a * stride;
      const bool inside = at < to;
      const ulong row = rows + (inside ? uint(order[rows + at]) : 0);
      weight[a] = inside ? 1.0f : 0.0f;
      if (WEIGHTED && inside) weight[a] = p.weight[row];
      load_span<W, true>(v[a], p.x, row * p.D + col, inside ? left : 0);
    }
    UNROLL for (uint a = 0; a < AHEAD; a++) {
      sum.weight_sum += weight[a];
      UNROLL for (int w = 0; w < W; w++) {
        const float value = FRAMED ? (float(v[a][w]) - shift[w]) * factor : float(v[a][w]);
        sum.v[w] = fma(weight[a], value, sum.v[w]);
      }
    }
  }
  return sum;
}

// Adds up the lanes that hold the same features.
template <int LANES, int W>
METAL_FUNC void add_lanes(thread Sum<W>& sum) {
  for (ushort o = LANES; o < 32; o *= 2) {
    UNROLL for (int w = 0; w < W; w++) sum.v[w] += simd_shuffle_xor(sum.v[w], o);
    sum.weight_sum += simd_shuffle_xor(sum.weight_sum, o);
  }
}

// Partial sums of clusters of more than `whole_rows` rows, which is at least `chunk_rows`.
//
//   IN  order   (B, N)               uint   rows sorted by label
//       offsets (B, K + 1)           uint   where each cluster begins in it
//   OUT partial (B, chunks, 2, S)    float  S = D, or D + 1 if WEIGHTED
//                                           slot 0 for the cluster of the chunk's first row, slot
//                                           1 for that of its last row if it is another; unwritten
//                                           for clusters that are summed whole
//   Grid: a simdgroup per (chunk, block of LANES * W features, B).
template <typename T, int LANES, int W, bool WEIGHTED, bool FRAMED, typename P, typename PL,
          typename PO, typename PG>
METAL_FUNC void sum_chunk(
    P p, PL labels, PO order, PG offsets, device float* partial, uint K, uint chunk_rows,
    uint whole_rows, uint chunk, uint block, uint batch, uint lane) {
  const uint chunks = (p.N + chunk_rows - 1) / chunk_rows, S = p.D + (WEIGHTED ? 1 : 0);
  const ulong rows = ulong(batch) * p.N, bounds = ulong(batch) * (K + 1);
  const uint sorted = offsets[bounds + K];
  const uint first = chunk * chunk_rows;
  if (chunk >= chunks || first >= sorted) return;
  const uint end = min(first + chunk_rows, sorted);
  const uint col = (block * LANES + lane % LANES) * W, r = lane / LANES;
  const uint first_label = labels[rows + order[rows + first]];
  const uint last_label = labels[rows + order[rows + end - 1]];
  for (uint slot = 0; slot < (first_label == last_label ? 1u : 2u); slot++) {
    const uint k = slot == 0 ? first_label : last_label;
    const uint begin = offsets[bounds + k], stop = offsets[bounds + k + 1];
    if (stop - begin <= whole_rows) continue;
    Sum<W> sum = sum_rows<T, W, WEIGHTED, FRAMED>(
        p, order, batch, max(begin, first), min(stop, end), r, 32 / LANES, col);
    add_lanes<LANES, W>(sum);
    const ulong at = ((ulong(batch) * chunks + chunk) * 2 + slot) * S;
    if (r == 0) {
      UNROLL for (int w = 0; w < W; w++)
        if (col + w < p.D) partial[at + col + w] = sum.v[w];
    }
    if (WEIGHTED && block == 0 && lane == 0) partial[at + p.D] = sum.weight_sum;
  }
}

// Sums of all clusters.
//
//   IN  order, offsets, partial   as above
//   OUT sums       (B, K, D) float
//       weight_sum (B, K)    float      the sum of weights, or the number of rows
//       counts     (B, K)    uint       the number of rows
//   Grid: threadgroups of NSG simdgroups, (K, blocks of LANES * W features, B).
//   `scratch`: NSG * (LANES * W + 1).
template <typename T, int LANES, int W, int NSG, bool WEIGHTED, bool FRAMED, typename P,
          typename PO, typename PG, typename PP>
METAL_FUNC void sum_cluster(
    P p, PO order, PG offsets, PP partial, device float* sums, device float* weight_sum,
    device uint* counts, uint K, uint chunk_rows, uint whole_rows, threadgroup float* scratch, uint k, uint block, uint batch,
    uint simdgroup, uint lane) {
  constexpr uint ROWS = 32 / LANES;
  const uint begin = offsets[ulong(batch) * (K + 1) + k];
  const uint end = offsets[ulong(batch) * (K + 1) + k + 1];
  const uint col = (block * LANES + lane % LANES) * W, r = lane / LANES;
  Sum<W> sum;
  if (end - begin <= whole_rows) {
    sum = sum_rows<T, W, WEIGHTED, FRAMED>(
        p, order, batch, begin, end, simdgroup * ROWS + r, NSG * ROWS, col);
  } else {
    const uint chunks = (p.N + chunk_rows - 1) / chunk_rows, S = p.D + (WEIGHTED ? 1 : 0);
    const uint first = begin / chunk_rows, last = (end - 1) / chunk_rows;
    UNROLL for (int w = 0; w < W; w++) sum.v[w] = 0.0f;
    sum.weight_sum = 0.0f;
    for (uint i = first + simdgroup * ROWS + r; i <= last; i += NSG * ROWS) {
      const uint slot = i == first && begin % chunk_rows != 0 ? 1 : 0;
      const ulong at = ((ulong(batch) * chunks + i) * 2 + slot) * S;
      float v[W];
      load_span<W, true>(v, partial, at + col, int(p.D) - int(col));
      UNROLL for (int w = 0; w < W; w++) sum.v[w] += v[w];
      if (WEIGHTED) sum.weight_sum += partial[at + p.D];
    }
  }
  add_lanes<LANES, W>(sum);
  threadgroup float* own = scratch + simdgroup * (LANES * W + 1);
  if (r == 0) {
    UNROLL for (int w = 0; w < W; w++) own[lane * W + w] = sum.v[w];
  }
  if (lane == 0) own[LANES * W] = sum.weight_sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (simdgroup != 0) return;
  const ulong cluster = ulong(batch) * K + k;
  if (r == 0)
    for (int w = 0; w < W; w++) {
      float total = 0.0f;
      for (int s = 0; s < NSG; s++) total += scratch[s * (LANES * W + 1) + lane * W + w];
      if (col + w < p.D) sums[cluster * p.D + col + w] = total;
    }
  if (block == 0 && lane == 0) {
    float total = 0.0f;
    for (int s = 0; s < NSG; s++) total += scratch[s * (LANES * W + 1) + LANES * W];
    weight_sum[cluster] = WEIGHTED ? total : float(end - begin);
    counts[cluster] = end - begin;
  }
}

// Sums of a chunk of consecutive rows, for K <= 64. Only lane l of a simdgroup touches column l of
// the table, so there is no race and no barrier. Lanes of the first slice also count the rows of a
// cluster or two each.
//
//   OUT partial    (B, chunks, K, D) float
//       weight_sum (B, chunks, K)    float   the sum of weights, or zero if not WEIGHTED
//       counts     (B, chunks, K)    uint
//   Grid: a simdgroup per (chunk, slice of LANES features, B). `table`: K * 32 or more, of this
//   simdgroup.
template <typename T, int LANES, bool WEIGHTED, bool FRAMED, typename P, typename PL>
METAL_FUNC void sum_dense(
    P p, PL labels, device float* partial, device float* weight_sum, device uint* counts, uint K,
    uint chunk_rows, threadgroup float* table, uint chunk, uint chunks, uint slice, uint batch,
    uint lane) {
  constexpr uint ROWS = 32 / LANES, AHEAD = 8;
  const uint col = slice * LANES + lane % LANES, r = lane / LANES;
  if (slice * LANES >= p.D) return;
  const ulong rows = ulong(batch) * p.N;
  const uint first = chunk * chunk_rows, end = min(first + chunk_rows, p.N);
  float shift = 0.0f, factor = 1.0f;
  if (FRAMED && col < p.D) shift = p.shift[ulong(batch) * p.D + col];
  if (FRAMED) factor = p.factor[batch];
  float own_weight[2] = {0.0f, 0.0f};
  uint own_count[2] = {0, 0};
  for (uint k = 0; k < K; k++) table[k * 32 + lane] = 0.0f;
  for (uint i = first; i < end; i += AHEAD * ROWS) {
    float v[AHEAD], weight[AHEAD];
    uint k[AHEAD];
    UNROLL for (uint a = 0; a < AHEAD; a++) {
      const uint row = i + a * ROWS + r;
      v[a] = 0.0f;
      weight[a] = 1.0f;
      k[a] = row < end ? uint(labels[rows + row]) : K;
      if (WEIGHTED && row < end) weight[a] = p.weight[rows + row];
      if (WEIGHTED && !(weight[a] > 0)) k[a] = K;
      if (k[a] < K && col < p.D) v[a] = float(p.x[(rows + row) * p.D + col]);
    }
    UNROLL for (uint a = 0; a < AHEAD; a++) {
      if (k[a] < K)
        table[k[a] * 32 + lane] += weight[a] * (FRAMED ? (v[a] - shift) * factor : v[a]);
    }
    if (slice != 0) continue;
    UNROLL for (uint a = 0; a < AHEAD; a++) {
      for (uint q = 0; q < ROWS; q++) {
        const uint label = simd_shuffle(k[a], ushort(q * LANES));
        const float w = WEIGHTED ? simd_shuffle(weight[a], ushort(q * LANES)) : 0.0f;
        UNROLL for (uint h = 0; h < 2; h++) {
          const bool mine = label < K && label == lane + h * 32;
          own_count[h] += mine;
          own_weight[h] += mine ? w : 0.0f;
        }
      }
    }
  }
  const ulong cells = (ulong(batch) * chunks + chunk) * K;
  for (uint k = 0; k < K; k++) {
    float sum = table[k * 32 + lane];
    for (ushort o = LANES; o < 32; o *= 2) sum += simd_shuffle_xor(sum, o);
    if (r == 0 && col < p.D) partial[(cells + k) * p.D + col] = sum;
  }
  if (slice != 0) return;
  UNROLL for (uint h = 0; h < 2; h++) {
    const uint k = lane + h * 32;
    if (k < K) {
      counts[cells + k] = own_count[h];
      weight_sum[cells + k] = own_weight[h];
    }
  }
}

// Adds up the chunks of sum_dense in a fixed order.
//
//   IN  partial (B, chunks, K, D) float
//       weights (B, chunks, K)    float
//       rows    (B, chunks, K)    uint
//   OUT as sum_cluster's
//   Grid: threadgroups of NSG simdgroups, (K, slices of LANES features, B).
//   `scratch`: NSG * (LANES + 1), `row_scratch`: NSG.
template <int LANES, int NSG, bool WEIGHTED, typename PP, typename PW, typename PN>
METAL_FUNC void join_dense(
    PP partial, PW weights, PN rows, device float* sums, device float* weight_sum,
    device uint* counts, uint chunks, uint K, uint D, threadgroup float* scratch,
    threadgroup uint* row_scratch, uint k, uint slice, uint batch, uint simdgroup, uint lane) {
  constexpr uint ROWS = 32 / LANES;
  const uint col = slice * LANES + lane % LANES;
  const ulong cells = ulong(batch) * chunks * K + k;
  Sum<1> sum;
  sum.v[0] = 0.0f;
  sum.weight_sum = 0.0f;
  for (uint i = simdgroup * ROWS + lane / LANES; i < chunks; i += NSG * ROWS) {
    const ulong cell = cells + ulong(i) * K;
    if (col < D) sum.v[0] += partial[cell * D + col];
    if (WEIGHTED) sum.weight_sum += weights[cell];
  }
  add_lanes<LANES, 1>(sum);
  uint count = 0;
  for (uint i = simdgroup * 32 + lane; i < chunks; i += NSG * 32)
    count += rows[cells + ulong(i) * K];
  count = simd_sum(count);
  threadgroup float* own = scratch + simdgroup * (LANES + 1);
  if (lane < LANES) own[lane] = sum.v[0];
  if (lane == 0) {
    own[LANES] = sum.weight_sum;
    row_scratch[simdgroup] = count;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (simdgroup != 0) return;
  const ulong cluster = ulong(batch) * K + k;
  if (lane < LANES && col < D) {
    float total = 0.0f;
    UNROLL for (int s = 0; s < NSG; s++) total += scratch[s * (LANES + 1) + lane];
    sums[cluster * D + col] = total;
  }
  if (slice == 0 && lane == 0) {
    float total = 0.0f;
    uint count = 0;
    UNROLL for (int s = 0; s < NSG; s++) {
      total += scratch[s * (LANES + 1) + LANES];
      count += row_scratch[s];
    }
    weight_sum[cluster] = WEIGHTED ? total : float(count);
    counts[cluster] = count;
  }
}

// Copies the sums of a batch element that isn't running.
//   Grid: as sum_cluster's, with `columns` features of a block; thread t of `threads`.
template <typename PS, typename PW, typename PN>
METAL_FUNC void keep_sums(
    PS old_sums, PW old_weight_sum, PN old_counts, device float* sums, device float* weight_sum,
    device uint* counts, uint K, uint D, uint columns, uint k, uint block, uint batch, uint t,
    uint threads) {
  const ulong cluster = ulong(batch) * K + k;
  const uint end = min((block + 1) * columns, D);
  for (uint col = block * columns + t; col < end; col += threads)
    sums[cluster * D + col] = old_sums[cluster * D + col];
  if (block == 0 && t == 0) {
    weight_sum[cluster] = old_weight_sum[cluster];
    counts[cluster] = old_counts[cluster];
  }
}
