// order: the labels of an E-step, and a stable counting sort of rows by label, without atomics:
// counts of each chunk of rows, their scan, and the rows in their places. Needs common.
//
// Labels are sorted by one digit, (label >> shift) & mask, which is the whole label up to 8192
// clusters. With more clusters they are sorted by the low digit, then by the high one: a least
// significant digit radix sort, exact because each pass is stable. Rows whose label is not below K
// or whose weight is not positive are left out: they are neither counted nor placed.
//
//   IN  found   (parts, B, N)            uint   the best centroid of each part of K
//       score   (parts, B, N)            float  its score, read only if there are several parts
//       old     (B, N)                   uint   labels of the iteration before
//       weight  (B, N)                   float  read only if WEIGHTED
//       running (B,)                     uint   0: this batch element keeps its labels
//       order   (B, N)                   uint   INDEXED: the rows in the order of the digits before
//       before  (B, buckets + 1)         uint   INDEXED: `starts` of the digit before
//       base    (B, chunks, buckets)     uint   where the rows of each chunk and bucket go
//       sizes   {K, buckets, shift, mask, rows of a chunk}
//   OUT labels  (B, N)                   uint
//       changed (B, chunks)              uint   whether a label of the chunk changed
//       counts  (B, chunks, buckets)     uint   rows of each chunk and bucket
//       starts  (B, buckets + 1)         uint   where each bucket begins; the last is the number
//                                               of rows
//       out     (B, N)                   uint   the rows in order
//   Outputs of a batch element that isn't running are undefined, but for labels and changed.
//   Grid: one simdgroup per chunk, (chunks, B), but for scan_counts. `table`: as many as buckets.

// The label of a row: of the best part, the first of equals, or the old one.
template <typename PF, typename PS, typename PO>
METAL_FUNC uint new_label(
    PF found, PS score, PO old, uint parts, ulong points, ulong at, bool running) {
  if (!running) return old[at];
  uint label = found[at];
  if (parts == 1) return label;
  float best = score[at];
  for (uint part = 1; part < parts; part++) {
    const float other = score[part * points + at];
    if (other > best) {
      best = other;
      label = found[part * points + at];
    }
  }
  return label;
}

// Adds the digits of 32 rows to the table, and returns where the lane's row goes. Lanes with equal
// digits rank themselves; only the first of them writes. Digits that don't count are `buckets`.
METAL_FUNC uint add_digits(uint digit, uint buckets, threadgroup uint* table, uint lane) {
  uint earlier = 0, same = 0;
  UNROLL for (ushort l = 0; l < 32; l++) {
    const bool equal = simd_shuffle(digit, l) == digit;
    earlier += equal && l < lane;
    same += equal;
  }
  const bool counts = digit < buckets;
  uint at = 0;
  if (counts) at = table[digit];
  simdgroup_barrier(mem_flags::mem_threadgroup);
  if (counts && earlier == 0) table[digit] = at + same;
  simdgroup_barrier(mem_flags::mem_threadgroup);
  return at + earlier;
}

// Takes the labels of an E-step and counts their first digit.
template <bool WEIGHTED, typename PF, typename PS, typename PO, typename PW, typename PR,
          typename PZ>
METAL_FUNC void count_labels(
    PF found, PS score, PO old, PW weight, PR running, PZ sizes, device uint* labels,
    device uint* changed, device uint* counts, uint parts, uint batches, uint N,
    threadgroup uint* table, uint chunk, uint chunks, uint batch, uint lane) {
  const uint K = sizes[0], buckets = sizes[1], shift = sizes[2], mask = sizes[3];
  const uint chunk_rows = sizes[4];
  const ulong points = ulong(batches) * N, rows = ulong(batch) * N;
  const ulong cells = (ulong(batch) * chunks + chunk) * buckets;
  const uint first = chunk * chunk_rows, end = min(first + chunk_rows, N);
  const bool runs = running[batch] != 0;
  if (runs)
    for (uint k = lane; k < buckets; k += 32) table[k] = 0;
  simdgroup_barrier(mem_flags::mem_threadgroup);
  bool differs = false;
  for (uint i = first; i < end; i += 32) {
    uint digit = buckets;
    if (i + lane < end) {
      const ulong at = rows + i + lane;
      const uint label = new_label(found, score, old, parts, points, at, runs);
      labels[at] = label;
      differs |= label != old[at];
      bool counts = label < K;
      if (WEIGHTED) counts = counts && weight[at] > 0;
      if (counts) digit = (label >> shift) & mask;
    }
    if (runs) add_digits(digit, buckets, table, lane);
  }
  differs = simd_any(differs);
  if (lane == 0) changed[ulong(batch) * chunks + chunk] = differs;
  if (runs)
    for (uint k = lane; k < buckets; k += 32) counts[cells + k] = table[k];
}

// Takes the labels of an E-step where they are not sorted. Grid: threads (N rounded up to
// simdgroups, B), and changed (B, simdgroups of a batch element).
template <typename PF, typename PS, typename PO, typename PR>
METAL_FUNC void take_labels(
    PF found, PS score, PO old, PR running, device uint* labels, device uint* changed, uint parts,
    uint batches, uint N, uint row, uint batch, uint lane) {
  const ulong at = ulong(batch) * N + row;
  bool differs = false;
  if (row < N) {
    const uint label =
        new_label(found, score, old, parts, ulong(batches) * N, at, running[batch] != 0);
    labels[at] = label;
    differs = label != old[at];
  }
  differs = simd_any(differs);
  if (lane == 0) changed[ulong(batch) * ((N + 31) / 32) + row / 32] = differs;
}

// PLACE: puts the rows into their places. Else counts a later digit.
template <bool PLACE, bool INDEXED, bool WEIGHTED, typename PL, typename PW, typename PO,
          typename PM, typename PB, typename PZ>
METAL_FUNC void sort_chunk(
    PL labels, PW weight, PO order, PM before, PB base, PZ sizes, device uint* out, uint N,
    uint buckets_before, threadgroup uint* table, uint chunk, uint chunks, uint batch, uint lane) {
  const uint K = sizes[0], buckets = sizes[1], shift = sizes[2], mask = sizes[3];
  const uint chunk_rows = sizes[4];
  const ulong rows = ulong(batch) * N, cells = (ulong(batch) * chunks + chunk) * buckets;
  for (uint k = lane; k < buckets; k += 32) table[k] = PLACE ? uint(base[cells + k]) : 0;
  simdgroup_barrier(mem_flags::mem_threadgroup);
  uint limit = N;
  if (INDEXED) limit = before[ulong(batch) * (buckets_before + 1) + buckets_before];
  const uint first = chunk * chunk_rows, end = min(first + chunk_rows, limit);
  for (uint i = first; i < end; i += 32) {
    uint row = 0, digit = buckets;
    if (i + lane < end) {
      row = i + lane;
      if (INDEXED) row = order[rows + row];
      const uint label = labels[rows + row];
      bool counts = label < K;
      if (WEIGHTED && !INDEXED) counts = counts && weight[rows + row] > 0;
      if (counts) digit = (label >> shift) & mask;
    }
    const uint at = add_digits(digit, buckets, table, lane);
    if (PLACE && digit < buckets) out[rows + at] = row;
  }
  if (!PLACE)
    for (uint k = lane; k < buckets; k += 32) out[cells + k] = table[k];
}

// Where the rows of each chunk and bucket go: after those of lower buckets, and of the same bucket
// in earlier chunks.
//   Grid: a threadgroup of NSG simdgroups per batch element. `totals`: NSG.
template <int NSG, typename PC>
METAL_FUNC void scan_counts(
    PC counts, device uint* base, device uint* starts, threadgroup uint* totals, uint chunks,
    uint buckets, uint batch, uint simdgroup, uint lane) {
  const ulong cells = ulong(batch) * chunks * buckets, bounds = ulong(batch) * (buckets + 1);
  uint done = 0;
  for (uint k0 = 0; k0 < buckets; k0 += NSG * 32) {
    const uint k = k0 + simdgroup * 32 + lane;
    uint total = 0;
    if (k < buckets)
      for (uint i = 0; i < chunks; i++) total += counts[cells + ulong(i) * buckets + k];
    uint at = simd_prefix_exclusive_sum(total);
    if (lane == 31) totals[simdgroup] = at + total;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    at += done;
    UNROLL for (uint s = 0; s < NSG; s++) {
      if (s < simdgroup) at += totals[s];
      done += totals[s];
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (k < buckets) {
      starts[bounds + k] = at;
      for (uint i = 0; i < chunks; i++) {
        const ulong cell = cells + ulong(i) * buckets + k;
        base[cell] = at;
        at += counts[cell];
      }
    }
  }
  if (simdgroup == 0 && lane == 0) starts[bounds + buckets] = done;
}

// Where each cluster begins in an order by several digits.
//
//   IN  labels, order, before, sizes  as above
//   OUT offsets (B, K + 1) uint       the last is the number of rows in the order
//   Grid: threads (N + 1, B). The thread of position i writes the clusters that begin there.
template <typename PL, typename PO, typename PM, typename PZ>
METAL_FUNC void find_offsets(
    PL labels, PO order, PM before, PZ sizes, device uint* offsets, uint N, uint buckets_before,
    uint i, uint batch) {
  const uint K = sizes[0];
  const uint limit = before[ulong(batch) * (buckets_before + 1) + buckets_before];
  const ulong rows = ulong(batch) * N;
  if (i > limit) return;
  const uint from = i == 0 ? 0 : labels[rows + order[rows + i - 1]] + 1;
  const uint to = i == limit ? K : labels[rows + order[rows + i]];
  for (uint k = from; k <= to; k++) offsets[ulong(batch) * (K + 1) + k] = i;
}
