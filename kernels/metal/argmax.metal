// argmax: the best of each row of a tile of scores, for the addmm strategy. Needs common.
//
//   IN  scores (R, K) T
//   OUT label  (R,)   uint                0 if every score is -inf or NaN
//       score  (R,)   float               -inf likewise
//   T: float, half or bfloat. LANES: lanes that share a row, a power of two up to 32. W: elements
//   per load, 1 if the scores may be in `constant` memory.
//   Grid: threads (R * LANES rounded up to threadgroups), at most 2^31: R < 2^26.
//   Ties: the lowest index.

template <typename T, int LANES, int W, typename P>
METAL_FUNC void best_of_rows(
    P scores, device uint* label, device float* score, uint R, uint K, uint thread_in_grid) {
  const uint row = thread_in_grid / LANES, l = thread_in_grid % LANES;
  float best = -INFINITY;
  uint index = 0;
  if (row < R) {
    const ulong base = ulong(row) * K;
    for (uint k = l * W; k < K; k += LANES * W) {
      T v[W];
      load_span<W, true>(v, scores, base + k, int(K - k));
      UNROLL for (int w = 0; w < W; w++) {
        const float s = float(v[w]);
        const bool wins = s > best && k + w < K;
        best = wins ? s : best;
        index = wins ? k + w : index;
      }
    }
  }
  for (ushort o = 1; o < LANES; o *= 2) {
    const float other = simd_shuffle_xor(best, o);
    const uint other_index = simd_shuffle_xor(index, o);
    if (beats(other, other_index, best, index)) {
      best = other;
      index = other_index;
    }
  }
  if (l == 0 && row < R) {
    label[row] = index;
    score[row] = best;
  }
}
