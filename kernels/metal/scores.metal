// scores: tiles of <x', c> + bias in registers, with x' = (x - shift) * factor, for assign and
// topk. Needs common.
//
//   IN  x       (B, N, D) T               points
//       c       (B, K, D) float           centroids
//       bias    (B, K)    float
//       shift   (B, D)    float           read only if FRAMED
//       factor  (B,)      float           read only if FRAMED
//
// A simdgroup owns RB * 8 whole rows of x. The NSG simdgroups of a threadgroup share tiles of
// CB * 8 centroids by BK features, kept feature-major in threadgroup memory; the next tile waits in
// registers. Points never pass through threadgroup memory: no two simdgroups share one.
// Accumulators start at the bias, which is -inf beyond K, so that a masked column never wins.
//
// Feature d of centroid n is at d * STRIDE + d / 4 * SKEW + n, which spreads over all 32 banks both
// what a simdgroup stores (4 features of 4 or 8 lanes' centroids) and what it loads (an 8x8 matrix).
//
// RES > 0: the rows stay in registers over the sweep of K, in RES chunks of BK features
//          (D <= RES * BK).
// RES == 0: they are read again for every tile, one chunk ahead.
// VEC: adjacent features of c per load, 1 if x or c may be in `constant` memory.

template <typename PX, typename PC, typename PB, typename PS, typename PF>
struct Problem {
  PX x;
  PC c;
  PB bias;
  PS shift;
  PF factor;
  uint N, K, D;
};

template <typename PX, typename PC, typename PB, typename PS, typename PF>
METAL_FUNC Problem<PX, PC, PB, PS, PF> make_problem(
    PX x, PC c, PB bias, PS shift, PF factor, uint N, uint K, uint D) {
  return Problem<PX, PC, PB, PS, PF>{x, c, bias, shift, factor, N, K, D};
}

template <typename T, int NSG, int RB, int CB, int BK, int RES, int VEC, bool FRAMED>
struct Scores {
  static constexpr constant int ROW_BLOCKS = RB;
  static constexpr constant int COLUMN_BLOCKS = CB;
  static constexpr constant int ROWS = RB * 8;    // of a simdgroup
  static constexpr constant int BM = NSG * ROWS;  // rows of a threadgroup
  static constexpr constant int BN = CB * 8;      // centroids of a tile
  static constexpr constant int STRIDE = BN + 8;  // between features of a tile
  static constexpr constant int SKEW = 128 / BK;  // more after every fourth
  static constexpr constant int TILE = BK * STRIDE + 32;
  static constexpr constant int STEPS = BK / 8;             // matrix steps per chunk of features
  static constexpr constant int HELD = RES > 0 ? RES : 2;   // chunks of features in registers
  static constexpr constant int FIRST = RES > 0 ? RES : 1;  // of them before the sweep
  static constexpr constant int LANES = BK / VEC;          // that share a centroid as they stage it
  static constexpr constant int APART = NSG * 32 / LANES;  // centroids between two packs of a lane
  static constexpr constant int PACKS = BN / APART;
  static_assert(BN % 32 == 0 && (BK == 16 || BK == 32), "the banks are free of conflicts");
  static_assert(PACKS * APART == BN, "the tile must split evenly over the threads");

  typedef simdgroup_matrix<float, 8, 8> Matrix;
  struct Staged {  // a thread's share of the next tile, on its way to threadgroup memory
    float c[PACKS * VEC];
    float bias;
  };

  // Features d0.. of the simdgroup's rows, zero beyond N and D. `at`: the lane's first value in x.
  template <typename P>
  static METAL_FUNC void load_rows(
      thread Matrix (&x)[STEPS][RB], thread const P& p, uint batch, ulong at, uint row, uint d0,
      uint col) {
    constexpr bool wide = VEC > 1;
    const ulong apart = ulong(8) * p.D;
    float factor = 1.0f;
    if (FRAMED) factor = p.factor[batch];
    UNROLL for (int f = 0; f < STEPS; f++) {
      const uint d = d0 + f * 8;
      const int left = int(p.D) - int(d + col);
      float shift[2] = {0.0f, 0.0f};
      if (FRAMED) load_span<2, wide>(shift, p.shift, ulong(batch) * p.D + d + col, left);
      UNROLL for (int i = 0; i < RB; i++) {
        T v[2];
        load_span<2, wide>(v, p.x, at + d + i * apart, row + i * 8 < p.N ? left : 0);
        x[f][i].thread_elements()[0] = FRAMED ? (float(v[0]) - shift[0]) * factor : float(v[0]);
        x[f][i].thread_elements()[1] = FRAMED ? (float(v[1]) - shift[1]) * factor : float(v[1]);
      }
    }
  }

  // Features d0.. of centroids k0.., zero beyond K and D. `at`: the lane's first value of the tile.
  template <typename P>
  static METAL_FUNC void stage(
      thread Staged& s, thread const P& p, uint batch, ulong at, uint k0, uint d0, uint t) {
    const ulong apart = ulong(APART) * p.D;
    const uint k = k0 + t / LANES;
    const int left = int(p.D) - int(d0 + t % LANES * VEC);
    UNROLL for (int i = 0; i < PACKS; i++)
      load_span<VEC, true>(s.c + i * VEC, p.c, at + d0 + i * apart, k + i * APART < p.K ? left : 0);
    if (d0 == 0 && t < BN)
      s.bias = k0 + t < p.K ? float(p.bias[ulong(batch) * p.K + k0 + t]) : -INFINITY;
  }

  static METAL_FUNC void commit(
      thread const Staged& s, threadgroup float2* tile, threadgroup float2* bias, uint d0, uint t) {
    const uint d = t % LANES * VEC;
    threadgroup float* values = reinterpret_cast<threadgroup float*>(tile);
    values += d * STRIDE + d / 4 * SKEW + t / LANES;
    UNROLL for (int i = 0; i < PACKS; i++) {
      UNROLL for (int v = 0; v < VEC; v++) values[v * STRIDE + i * APART] = s.c[i * VEC + v];
    }
    if (d0 == 0 && t < BN) reinterpret_cast<threadgroup float*>(bias)[t] = s.bias;
  }

  static METAL_FUNC void start(
      thread Matrix (&acc)[RB][CB], threadgroup const float2* bias, uint col) {
    UNROLL for (int j = 0; j < CB; j++) {
      const float2 pair = bias[j * 4 + col / 2];
      UNROLL for (int i = 0; i < RB; i++) {
        acc[i][j].thread_elements()[0] = pair.x;
        acc[i][j].thread_elements()[1] = pair.y;
      }
    }
  }

  // `left`: features from the start of this chunk to D. `blocks`: columns of matrices up to K; the
  // others keep their bias of -inf. WHOLE: there are CB.
  template <bool WHOLE>
  static METAL_FUNC void multiply(
      thread Matrix (&acc)[RB][CB], thread Matrix (&x)[STEPS][RB], threadgroup const float2* tile,
      uint left, uint blocks, uint lane) {
    const uint r = fragment_row(lane);
    const uint at = (r * STRIDE + r / 4 * SKEW + fragment_col(lane)) / 2;
    UNROLL for (int f = 0; f < STEPS; f++) {
      if (uint(f * 8) >= left) break;
      UNROLL for (int j = 0; j < CB; j++) {
        if (!WHOLE && uint(j) >= blocks) break;
        const float2 pair = tile[at + f * (4 * STRIDE + SKEW) + j * 4];
        Matrix b;
        b.thread_elements()[0] = pair.x;
        b.thread_elements()[1] = pair.y;
        UNROLL for (int i = 0; i < RB; i++)
          simdgroup_multiply_accumulate(acc[i][j], x[f][i], b, acc[i][j]);
      }
    }
  }

  // Calls take(k0, acc, busy) for every tile in [first, last), in ascending order of centroids. A
  // simdgroup without rows is not busy: it loads centroids and meets the barriers, but multiplies
  // nothing.
  template <typename P, typename Take>
  static METAL_FUNC void sweep(
      thread const P& p, uint batch, uint row0, uint first, uint last, threadgroup float2* tile,
      threadgroup float2* bias, uint t, uint lane, thread Take& take) {
    const uint chunks = (p.D + BK - 1) / BK;
    const uint row = row0 + fragment_row(lane), col = fragment_col(lane);
    const bool busy = row0 < p.N;
    // A lane's 64-bit products are slow: none is in the loop over features.
    const ulong x_at = (ulong(batch) * p.N + row) * p.D + col;
    const ulong next_tile = ulong(BN) * p.D;
    ulong c_at = (ulong(batch) * p.K + first * BN + t / LANES) * p.D + t % LANES * VEC;
    Matrix x[HELD][STEPS][RB], acc[RB][CB];
    Staged staged;
    if (first < last) {
      stage(staged, p, batch, c_at, first * BN, 0, t);
      commit(staged, tile, bias, 0, t);
      UNROLL for (int h = 0; h < FIRST; h++) load_rows(x[h], p, batch, x_at, row, h * BK, col);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint kt = first; kt < last; kt++) {
      const uint blocks = (p.K - kt * BN + 7) / 8;
      if (busy) start(acc, bias, col);
      for (uint q0 = 0; q0 < chunks; q0 += HELD) {  // one pass if RES > 0
        UNROLL for (int h = 0; h < HELD; h++) {
          const uint q = q0 + h;
          if (q >= chunks) break;
          const bool ends = q + 1 == chunks, more = !ends || kt + 1 < last;
          const uint next_k = (ends ? kt + 1 : kt) * BN, next_d = ends ? 0 : (q + 1) * BK;
          if (ends) c_at += next_tile;
          if (more) {  // in flight while the matrix unit works
            stage(staged, p, batch, c_at, next_k, next_d, t);
            if (RES == 0) load_rows(x[(h + 1) % HELD], p, batch, x_at, row, next_d, col);
          }
          if (busy && blocks >= uint(CB)) multiply<true>(acc, x[h], tile, p.D - q * BK, blocks, lane);
          if (busy && blocks < uint(CB)) multiply<false>(acc, x[h], tile, p.D - q * BK, blocks, lane);
          threadgroup_barrier(mem_flags::mem_threadgroup);
          if (more) {
            commit(staged, tile, bias, next_d, t);
            if (RES == 0 && ends && h == 0) {  // an odd number of chunks
              UNROLL for (int f = 0; f < STEPS; f++) {
                UNROLL for (int i = 0; i < RB; i++) x[0][f][i] = x[HELD - 1][f][i];
              }
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
          }
        }
      }
      take(kt * BN, acc, busy);
    }
  }
};
