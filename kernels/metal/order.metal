// order: a stable counting sort of labels, without atomics: two launches with MLX's scan between
// them. Needs common.
//
// Labels are sorted by one digit, (label >> shift) & mask, which is the whole label up to 8192
// clusters. With more clusters they are sorted by the low digit, then by the high one: a least
// significant digit radix sort, exact because each pass is stable. Rows whose label is not below K
// are left out: they are neither counted nor placed.
//
//   IN  labels (B, N)               uint
//       order  (B, N)               uint  INDEXED: the rows in the order of the digits before
//       limits (B,)                 uint  INDEXED: how many rows that order has
//       base   (B, chunks, buckets) uint  PLACE: where the rows of each chunk and bucket go
//       sizes  {K, buckets, shift, mask, rows of a chunk}
//   OUT out    counts (B, chunks, buckets), or if PLACE the order (B, N)
//   Grid: one simdgroup per chunk, (chunks, B). `table`: as many as buckets.

// 32 rows at a time. Lanes with equal digits rank themselves; only the first of them writes to the
// table.
template <bool PLACE, bool INDEXED, typename PL, typename PO, typename PM, typename PB, typename PZ>
METAL_FUNC void sort_chunk(
    PL labels, PO order, PM limits, PB base, PZ sizes, device uint* out, uint N,
    threadgroup uint* table, uint chunk, uint chunks, uint batch, uint lane) {
  const uint K = sizes[0], buckets = sizes[1], shift = sizes[2], mask = sizes[3];
  const uint chunk_rows = sizes[4];
  const ulong rows = ulong(batch) * N, cells = (ulong(batch) * chunks + chunk) * buckets;
  for (uint k = lane; k < buckets; k += 32) table[k] = PLACE ? uint(base[cells + k]) : 0;
  simdgroup_barrier(mem_flags::mem_threadgroup);
  const uint limit = INDEXED ? uint(limits[batch]) : N;
  const uint first = chunk * chunk_rows, end = min(first + chunk_rows, limit);
  for (uint i = first; i < end; i += 32) {
    uint row = 0, digit = buckets;
    if (i + lane < end) {
      row = INDEXED ? uint(order[rows + i + lane]) : i + lane;
      const uint label = labels[rows + row];
      if (label < K) digit = (label >> shift) & mask;
    }
    uint before = 0, same = 0;
    for (ushort l = 0; l < 32; l++) {
      const bool equal = simd_shuffle(digit, l) == digit;
      before += equal && l < lane;
      same += equal;
    }
    const bool counts = digit < buckets;
    uint at = 0;
    if (counts) at = table[digit];
    simdgroup_barrier(mem_flags::mem_threadgroup);
    if (counts && before == 0) table[digit] = at + same;
    if (PLACE && counts) out[rows + at + before] = row;
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
  if (!PLACE)
    for (uint k = lane; k < buckets; k += 32) out[cells + k] = table[k];
}

// Where each cluster begins in an order by several digits.
//
//   IN  labels, order, limits, sizes  as above
//   OUT offsets (B, K + 1) uint       the last is the number of rows in the order
//   Grid: threads (N + 1, B). The thread of position i writes the clusters that begin there.
template <typename PL, typename PO, typename PM, typename PZ>
METAL_FUNC void find_offsets(
    PL labels, PO order, PM limits, PZ sizes, device uint* offsets, uint N, uint i, uint batch) {
  const uint K = sizes[0], limit = limits[batch];
  const ulong rows = ulong(batch) * N;
  if (i > limit) return;
  const uint from = i == 0 ? 0 : labels[rows + order[rows + i - 1]] + 1;
  const uint to = i == limit ? K : labels[rows + order[rows + i]];
  for (uint k = from; k <= to; k++) offsets[ulong(batch) * (K + 1) + k] = i;
}
