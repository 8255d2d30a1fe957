// stop: the stop rules of Lloyd's loop, for each batch element by itself. Needs common.
//
//   IN  running   (B,) uint
//       remaining (B,) int      E-steps to the limit
//       status    (B,) int
//       changed   (B, cuts)     uint   whether labels of these rows changed
//   STABLE, SETTLED: values of `status`.

// After the E-step and its sums. A batch element that runs is STABLE if no label changed; it stops
// there, at its limit, and unless `keep_empty` where a cluster has no rows.
//
//   IN  rows    OFFSETS: (B, K + 1) uint, where each cluster begins in the order of rows; else
//               (B, K) uint, the rows of each cluster
//   OUT active  (B,) uint   whether its centroids move
//       left    (B,) int    E-steps to the limit
//       result  (B,) int    the new status
//   Called by one whole simdgroup.
template <bool OFFSETS, int STABLE, typename PR, typename PM, typename PT,
          typename PC, typename PZ>
METAL_FUNC void check_labels(
    PR running, PM remaining, PT status, PC changed, PZ rows, bool keep_empty, device uint* active,
    device int* left, device int* result, uint cuts, uint K, uint batch, uint lane) {
  const bool runs = running[batch] != 0;
  bool moved = false, empty = false;
  if (runs) {
    for (uint i = lane; i < cuts; i += 32) moved |= changed[ulong(batch) * cuts + i] != 0;
    if (!keep_empty) {
      const ulong at = ulong(batch) * (OFFSETS ? K + 1 : K);
      for (uint k = lane; k < K; k += 32)
        empty |= OFFSETS ? rows[at + k] == rows[at + k + 1] : rows[at + k] == 0;
    }
  }
  moved = simd_any(moved);
  empty = simd_any(empty);
  if (lane != 0) return;
  const int steps = remaining[batch] - (runs ? 1 : 0);
  left[batch] = steps;
  result[batch] = runs && !moved ? STABLE : int(status[batch]);
  active[batch] = runs && moved && !empty && steps > 0;
}

// After the M-step. A batch element whose centroids moved is SETTLED if none moved by more than
// `tol`, or if all are where they were: squares of tiny moves are zero.
//
//   IN  active  (B,)   uint
//       squares (B, K) float   squared moves of centroids, in units of scale^2
//       still   (B, K) uint    whether a centroid is where it was
//       moved   (B,)   float   how far centroids moved in the last M-step
//       scale   (B,)   float   read only if FRAMED
//       tol            float   0: only if all are where they were
//   OUT goes_on (B,) uint    whether it runs on
//       result  (B,) int     the new status
//       move    (B,) float   the largest move; if SUMMED, the norm of all moves together
//   Grid: a simdgroup per batch element.
template <bool SUMMED, bool FRAMED, int SETTLED, typename PA, typename PQ, typename PE,
          typename PT, typename PM, typename PF>
METAL_FUNC void check_moves(
    PA active, PQ squares, PE still, PT status, PM moved, PF scale, float tol,
    device uint* goes_on, device int* result, device float* move, uint K, uint batch, uint lane) {
  const bool moves = active[batch] != 0;
  float square = 0.0f;
  bool rests = true;
  if (moves)
    for (uint k = lane; k < K; k += 32) {
      const ulong at = ulong(batch) * K + k;
      square = SUMMED ? square + squares[at] : max(square, float(squares[at]));
      rests = rests && still[at] != 0;
    }
  const float distance =
      sqrt(SUMMED ? simd_sum(square) : simd_max(square)) * (FRAMED ? float(scale[batch]) : 1.0f);
  rests = simd_all(rests);
  if (lane != 0) return;
  const bool settled = moves && (rests || (tol > 0 && distance <= tol));
  goes_on[batch] = moves && !settled;
  result[batch] = settled ? SETTLED : int(status[batch]);
  move[batch] = moves ? distance : float(moved[batch]);
}
