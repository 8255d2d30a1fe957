// groups: the labels of assign, without the products that bounds rule out. Needs common and scores.
//
// Centroids are in an order that keeps alike ones together; a group of them is a tile of scores. A
// row carries an upper bound of the distance to its own centroid and, per group, a lower bound of
// the distance to the others (Yinyang k-means, Ding et al., 2015). Both loosen as centroids move.
// Rows are in the order of `key`: those of a simdgroup need the same groups, and it skips the rest.
//
// Rounding. Let s be the scores, d distances, u = 2^-24 and S = ||x||^2 + max ||c||^2. A score is
// a sum of D products and a bias in any order, so it is off by less than (D + 4) u S / (1 - D u)
// (Higham, Accuracy and Stability of Numerical Algorithms, 3.1), and if subnormals are flushed by
// 2 D 2^-126 more. `error` is (2 D + 32) u S + 4 D 2^-126: more than the error of a score, and of
// the score behind a distance, d^2 = ||x||^2 - 2 s, with the errors of ||x||^2 and of these
// operations. Where lower^2 - upper^2 > 4 error, the own centroid's score is larger by more than 2
// error: it is larger in float32 too, and no tie. Comparisons are such that NaN asks for products.
//
//   IN  x, c, bias, shift, factor  as in scores.metal, centroids by place
//       index       (B, K) uint    the centroid of a place; ascends in each group
//       position    (B, K) uint    the place of a centroid
//       drift       (B, K) float   by place, at least how far the centroid has moved
//       group_drift (B, G) float   the largest of each group
//       most        (B,)   float   at least the largest ||c||^2
//       place       (B, N) uint    of the own centroids
//       upper       (B, N) float
//       lower       (B, N, G) float
//       square      (B, N) float   ||x'||^2
//       key         (B, N) uint    OUT of flag_rows: `place`, or K if all bounds hold
//       order       (B, N) uint    rows in the order of their keys
//   OUT new_place, new_upper, new_lower, and compared (B, simdgroups) uint: tiles of a simdgroup

constant constexpr float ULP = 1.0f / 16777216.0f;  // 2^-24
constant constexpr float LOOSER = 1.0f + 16.0f * ULP;  // for rounding, also of a fast square root
constant constexpr float TIGHTER = 1.0f - 16.0f * ULP;
constant constexpr uint WORDS = 32;  // of a set of groups: one a lane
constant constexpr uint NO_PLACE = 0xffffffff;

METAL_FUNC bool is_out(float lower, float upper, float error) {
  return lower > upper && (lower - upper) * (lower + upper) > 4.0f * error;
}

// Bounds of the distance that belongs to a score. NaN gives NaN above and 0 below.
METAL_FUNC float distance_above(float score, float square, float error) {
  const float gap = square - 2.0f * (score - error);
  return gap <= 0.0f ? 0.0f : sqrt(gap) * LOOSER;
}
METAL_FUNC float distance_below(float score, float square, float error) {
  const float gap = square - 2.0f * (score + error);
  return gap > 0.0f ? sqrt(gap) * TIGHTER : 0.0f;
}

// The first group from `from` on in a set of which a lane holds 32, or the end.
METAL_FUNC uint next_bit(uint word, uint from) {
  for (uint w = from / 32; w < WORDS; w++) {
    uint bits = simd_shuffle(word, ushort(w));
    if (w == from / 32) bits &= 0xffffffffu << (from % 32);
    if (bits != 0) return w * 32 + ctz(bits);
  }
  return WORDS * 32;
}

// Whether a set of groups, of which a lane holds 32, has group g.
METAL_FUNC bool holds(uint word, uint g) {
  return (simd_shuffle(word, ushort(g / 32 % WORDS)) >> (g % 32) & 1) != 0;
}

template <
    typename PI, typename PD, typename PG, typename PM, typename PR, typename PU, typename PL>
struct Bounds {
  PI index, position;
  PD drift;
  PG group_drift;
  PM most;
  PR place;
  PU upper;
  PL lower;
  PU square;
  uint N, K, D, G;

  METAL_FUNC float above(uint batch, uint row) const thread {
    const ulong at = ulong(batch) * N + row;
    return (upper[at] + drift[ulong(batch) * K + place[at]]) * LOOSER;
  }
  METAL_FUNC float below(uint batch, uint row, uint g) const thread {
    const ulong at = ulong(batch) * N + row;
    return lower[at * G + g] * TIGHTER - group_drift[ulong(batch) * G + g];
  }
  METAL_FUNC float error(uint batch, float of) const thread {
    return float(2 * D + 32) * ULP * (of + most[batch]) + float(D) * 4.7019774e-38f;
  }
};

template <
    typename PI, typename PD, typename PG, typename PM, typename PR, typename PU, typename PL>
METAL_FUNC Bounds<PI, PD, PG, PM, PR, PU, PL> make_bounds(
    PI index, PI position, PD drift, PG group_drift, PM most, PR place, PU upper, PL lower,
    PU square, uint N, uint K, uint D, uint G) {
  return Bounds<PI, PD, PG, PM, PR, PU, PL>{
      index, position, drift, group_drift, most, place, upper, lower, square, N, K, D, G};
}

// The key of a row. Grid: threads (N, B).
template <typename B>
METAL_FUNC void flag_row(B bounds, device uint* key, uint row, uint batch) {
  if (row >= bounds.N) return;
  const ulong at = ulong(batch) * bounds.N + row;
  const float above = bounds.above(batch, row), error = bounds.error(batch, bounds.square[at]);
  bool idle = true;
  for (uint g = 0; g < bounds.G && idle; g++)
    idle = is_out(bounds.below(batch, row, g), above, error);
  key[at] = idle ? bounds.K : uint(bounds.place[at]);
}

template <typename T, int NSG, int RB, int CB, int BK, int RES, int VEC, bool FRAMED>
struct Groups {
  typedef Scores<T, NSG, RB, CB, BK, RES, VEC, FRAMED> S;
  typedef typename S::Matrix Matrix;

  struct Facts {  // of the simdgroup's rows: lane r has those of row r
    uint row, count;
    float upper, square, error;
  };
  struct Best {  // of the rows of a lane of a matrix, so far
    float score[RB];
    uint place[RB];  // or NO_PLACE
  };

  // Scores::load_rows for rows in any order. `at`: the lane's first value of each row in x.
  template <typename P>
  static METAL_FUNC void load_rows(
      thread Matrix (&x)[S::STEPS][RB], thread const P& p, thread const ulong (&at)[RB],
      uint count, uint batch, uint d0, uint lane) {
    constexpr bool wide = VEC > 1;
    const uint r = fragment_row(lane), col = fragment_col(lane);
    float factor = 1.0f;
    if (FRAMED) factor = p.factor[batch];
    UNROLL for (int f = 0; f < S::STEPS; f++) {
      const uint d = d0 + f * 8;
      const int left = int(p.D) - int(d + col);
      float shift[2] = {0.0f, 0.0f};
      if (FRAMED) load_span<2, wide>(shift, p.shift, ulong(batch) * p.D + d + col, left);
      UNROLL for (int i = 0; i < RB; i++) {
        T v[2];
        load_span<2, wide>(v, p.x, at[i] + d, r + i * 8 < count ? left : 0);
        x[f][i].thread_elements()[0] = FRAMED ? (float(v[0]) - shift[0]) * factor : float(v[0]);
        x[f][i].thread_elements()[1] = FRAMED ? (float(v[1]) - shift[1]) * factor : float(v[1]);
      }
    }
  }

  // Take the scores of group g: the best centroids, and the lower bounds of what is left.
  template <typename B>
  static METAL_FUNC void take(
      thread Best& held, thread Matrix (&acc)[RB][CB], thread const B& bounds,
      thread const Facts& facts, device float* new_lower, uint batch, uint g, uint lane) {
    const uint k0 = g * S::BN + fragment_col(lane);
    const ulong places = ulong(batch) * bounds.K;
    UNROLL for (int i = 0; i < RB; i++) {
      float first = -INFINITY, second = -INFINITY;
      uint place = k0;
      UNROLL for (int j = 0; j < CB; j++) {
        UNROLL for (int e = 0; e < 2; e++) {
          const float score = acc[i][j].thread_elements()[e];
          const bool wins = score > first;
          const float loser = wins ? first : score;
          second = loser > second ? loser : second;
          first = wins ? score : first;
          place = wins ? k0 + j * 8 + e : place;
        }
      }
      for (ushort o = 1; o <= 8; o *= 8) {  // the four lanes of a row differ in bits 0 and 3
        const float other = simd_shuffle_xor(first, o), other_second = simd_shuffle_xor(second, o);
        const uint other_place = simd_shuffle_xor(place, o);
        const bool wins = beats(other, other_place, first, place);
        const float loser = wins ? first : other;
        second = other_second > second ? other_second : second;
        second = loser > second ? loser : second;
        first = wins ? other : first;
        place = wins ? other_place : place;
      }
      const ushort r = i * 8 + fragment_row(lane);
      const uint row = simd_shuffle(facts.row, r), before = held.place[i];
      const float square = simd_shuffle(facts.square, r), error = simd_shuffle(facts.error, r);
      const float best = held.score[i];
      bool wins = first > best;
      if (first == best && before != NO_PLACE)  // the lowest index, as places have another order
        wins = bounds.index[places + place] < bounds.index[places + before];
      if (fragment_col(lane) == 0 && r < facts.count) {
        const ulong at = (ulong(batch) * bounds.N + row) * bounds.G;
        new_lower[at + g] = distance_below(wins ? second : first, square, error);
        if (wins && before != NO_PLACE)
          new_lower[at + before / S::BN] = distance_below(best, square, error);
      }
      held.score[i] = wins ? first : best;
      held.place[i] = wins ? place : before;
    }
  }

  // Write the carried lower bounds of the groups that aren't compared, and return the groups that a
  // row still needs; `done` are compared already. A lane holds 32 groups of a set.
  template <typename B>
  static METAL_FUNC uint vote(
      thread const B& bounds, thread const Facts& facts, device float* new_lower, uint batch,
      uint done, bool busy, uint lane) {
    uint needed = 0;
    for (uint w = 0; w * 32 < bounds.G; w++) {
      const uint g = w * 32 + lane;
      bool needs = false;
      const uint before = simd_shuffle(done, ushort(w));
      for (uint r = 0; r < facts.count && busy; r++) {
        const uint at = simd_shuffle(facts.row, ushort(r));
        const float most = simd_shuffle(facts.upper, ushort(r));
        const float slack = simd_shuffle(facts.error, ushort(r));
        if (g < bounds.G) needs |= !is_out(bounds.below(batch, at, g), most, slack);
      }
      const uint bits = simd_or(uint(needs) << lane) & ~before;
      if (lane == w) needed = bits;
      const bool carries = g < bounds.G && ((bits | before) >> lane & 1) == 0;
      for (uint r = 0; r < facts.count; r++) {
        const uint at = simd_shuffle(facts.row, ushort(r));
        if (carries)
          new_lower[(ulong(batch) * bounds.N + at) * bounds.G + g] = bounds.below(batch, at, g);
      }
    }
    return needed;
  }

  // The best scores and their places, from the lanes of matrices to lane r for row r.
  static METAL_FUNC void to_lanes(
      thread const Best& held, thread float& score, thread uint& place, uint lane) {
    UNROLL for (int i = 0; i < RB; i++) {
      const float best = simd_shuffle(held.score[i], lane_of_row(lane & 7));
      const uint found = simd_shuffle(held.place[i], lane_of_row(lane & 7));
      score = lane / 8 == uint(i) ? best : score;
      place = lane / 8 == uint(i) ? found : place;
    }
  }

  // `tile`: S::TILE, `bias`: S::BN, `wanted`: NSG * WORDS.
  // Grid: threadgroups (row tiles, B).
  template <typename P, typename B, typename PK>
  static METAL_FUNC void assign(
      P p, B bounds, PK key, PK order, device uint* new_place, device float* new_upper,
      device float* new_lower, device uint* compared, threadgroup float2* tile,
      threadgroup float2* bias, threadgroup uint* wanted, uint3 group, uint3 groups,
      uint simdgroup, uint lane) {
    const uint batch = group.y, first = group.x * S::BM + simdgroup * S::ROWS;
    const uint t = simdgroup * 32 + lane, col = fragment_col(lane), chunks = (p.D + BK - 1) / BK;
    const ulong base = ulong(batch) * p.N;
    Facts facts{0, first < p.N ? min(uint(S::ROWS), p.N - first) : 0, 0.0f, 0.0f, 0.0f};
    uint own = 0;
    bool active = false;
    if (lane < facts.count) {
      facts.row = order[base + first + lane];
      own = bounds.place[base + facts.row];
      facts.upper = bounds.above(batch, facts.row);
      facts.square = bounds.square[base + facts.row];
      facts.error = bounds.error(batch, facts.square);
      active = key[base + facts.row] < p.K;
    }
    const bool busy = simd_any(active);
    Best held;
    ulong x_at[RB];
    UNROLL for (int i = 0; i < RB; i++) {
      const uint row = simd_shuffle(facts.row, ushort(i * 8 + fragment_row(lane)));
      x_at[i] = (base + row) * p.D + col;
      held.score[i] = -INFINITY;
      held.place[i] = NO_PLACE;
    }
    // First the groups of the own centroids, which tighten the upper bounds.
    uint now = 0, done = 0, place = own;
    float score = 0.0f;
    for (uint r = 0; r < facts.count && busy; r++) {
      const uint g = simd_shuffle(own, ushort(r)) / S::BN;
      if (lane == g / 32) now |= 1u << (g % 32);
    }
    const ulong c_at = (ulong(batch) * p.K + t / S::LANES) * p.D + t % S::LANES * VEC;
    const ulong tile_values = ulong(S::BN) * p.D;
    Matrix x[S::HELD][S::STEPS][RB], acc[RB][CB];
    typename S::Staged staged;
    if (RES > 0 && busy) {
      UNROLL for (int h = 0; h < S::HELD; h++)
        load_rows(x[h], p, x_at, facts.count, batch, h * BK, lane);
    }
    for (uint phase = 0; phase < 2; phase++) {
      if (phase == 1) now = vote(bounds, facts, new_lower, batch, done, busy, lane);
      wanted[t] = now;
      threadgroup_barrier(mem_flags::mem_threadgroup);
      uint any = 0;
      for (uint s = 0; s < NSG; s++) any |= wanted[s * WORDS + lane];
      uint g = next_bit(any, 0);
      bool mine = holds(now, g);
      if (g < bounds.G) {
        S::stage(staged, p, batch, c_at + g * tile_values, g * S::BN, 0, t);
        S::commit(staged, tile, bias, 0, t);
        if (RES == 0 && mine) load_rows(x[0], p, x_at, facts.count, batch, 0, lane);
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
      while (g < bounds.G) {
        const uint after = next_bit(any, g + 1), blocks = (p.K - g * S::BN + 7) / 8;
        const bool mine_after = holds(now, after);
        ulong at = c_at + g * tile_values;
        if (mine) S::start(acc, bias, col);
        for (uint q0 = 0; q0 < chunks; q0 += S::HELD) {  // one pass if RES > 0
          UNROLL for (int h = 0; h < S::HELD; h++) {
            const uint q = q0 + h;
            if (q >= chunks) break;
            const bool ends = q + 1 == chunks, more = !ends || after < bounds.G;
            const uint next_k = (ends ? after : g) * S::BN, next_d = ends ? 0 : (q + 1) * BK;
            const bool loads = RES == 0 && more && (ends ? mine_after : mine);
            if (ends) at = c_at + after * tile_values;
            if (more) S::stage(staged, p, batch, at, next_k, next_d, t);
            if (loads)
              load_rows(x[(h + 1) % S::HELD], p, x_at, facts.count, batch, next_d, lane);
            if (mine && blocks >= CB)
              S::template multiply<true>(acc, x[h], tile, p.D - q * BK, blocks, lane);
            if (mine && blocks < CB)
              S::template multiply<false>(acc, x[h], tile, p.D - q * BK, blocks, lane);
            threadgroup_barrier(mem_flags::mem_threadgroup);
            if (more) {
              S::commit(staged, tile, bias, next_d, t);
              if (RES == 0 && ends && h == 0) {  // an odd number of chunks
                UNROLL for (int f = 0; f < S::STEPS; f++) {
                  UNROLL for (int i = 0; i < RB; i++) x[0][f][i] = x[S::HELD - 1][f][i];
                }
              }
              threadgroup_barrier(mem_flags::mem_threadgroup);
            }
          }
        }
        if (mine) take(held, acc, bounds, facts, new_lower, batch, g, lane);
        g = after;
        mine = mine_after;
      }
      done |= now;
      to_lanes(held, score, place, lane);
      const float found = distance_above(score, facts.square, facts.error);
      if (busy && (phase == 1 || found < facts.upper)) facts.upper = found;
    }
    if (lane < facts.count) {
      if (!busy) place = own;
      if (place == NO_PLACE) place = bounds.position[ulong(batch) * p.K];  // as all scores are NaN
      new_place[base + facts.row] = place;
      new_upper[base + facts.row] = facts.upper;
    }
    const uint tiles = simd_sum(popcount(done));
    if (lane == 0) compared[ulong(batch) * groups.x * NSG + group.x * NSG + simdgroup] = tiles;
  }
};
