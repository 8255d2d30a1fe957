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
// CB * 8 centroids by BK features, kept feature-major in threadgroup memory, in two buffers. Points
// never pass through threadgroup memory: no two simdgroups share one. Accumulators start at the
// bias, which is -inf beyond K, so that a masked column never wins.
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
  static constexpr constant int STEPS = BK / 8;   // matrix steps per chunk of features
  static constexpr constant int HELD = RES > 0 ? RES : 1;  // chunks of features in registers
  static constexpr constant int TILE = BK * STRIDE;
  static constexpr constant int PACKS = BN * BK / (NSG * 32 * VEC);
  static_assert(PACKS * NSG * 32 * VEC == BN * BK, "the tile must split evenly over the threads");

  typedef simdgroup_matrix<float, 8, 8> Matrix;
  struct Staged {  // a thread's share of the next tile, on its way to threadgroup memory
    float c[PACKS * VEC];
    float bias;
  };

  // Features d0.. of rows row0.., zero beyond N and D.
  template <typename P>
  static METAL_FUNC void load_rows(
      thread Matrix (&x)[STEPS][RB], thread const P& p, uint batch, uint row0, uint d0, uint lane) {
    constexpr bool wide = VEC > 1;
    const ulong base = ulong(batch) * p.N * p.D;
    const uint r = fragment_row(lane), col = fragment_col(lane);
    float factor = 1.0f;
    if (FRAMED) factor = p.factor[batch];
    UNROLL for (int f = 0; f < STEPS; f++) {
      const uint d = d0 + f * 8 + col;
      const int left = int(p.D) - int(d);
      float shift[2] = {0.0f, 0.0f};
      if (FRAMED) load_span<2, wide>(shift, p.shift, ulong(batch) * p.D + d, left);
      UNROLL for (int i = 0; i < RB; i++) {
        const uint row = row0 + i * 8 + r;
        T v[2];
        load_span<2, wide>(v, p.x, base + ulong(row) * p.D + d, row < p.N ? left : 0);
        x[f][i].thread_elements()[0] = FRAMED ? (float(v[0]) - shift[0]) * factor : float(v[0]);
        x[f][i].thread_elements()[1] = FRAMED ? (float(v[1]) - shift[1]) * factor : float(v[1]);
      }
    }
  }

  template <typename P>
  static METAL_FUNC void stage(
      thread Staged& s, thread const P& p, uint batch, uint k0, uint d0, uint t) {
    UNROLL for (int i = 0; i < PACKS; i++) {
      const uint q = t + i * (NSG * 32), k = k0 + q / (BK / VEC), d = d0 + q % (BK / VEC) * VEC;
      const ulong at = (ulong(batch) * p.K + k) * p.D + d;
      load_span<VEC, true>(s.c + i * VEC, p.c, at, k < p.K ? int(p.D) - int(d) : 0);
    }
    if (d0 == 0 && t < BN)
      s.bias = k0 + t < p.K ? float(p.bias[ulong(batch) * p.K + k0 + t]) : -INFINITY;
  }

  static METAL_FUNC void commit(
      thread const Staged& s, threadgroup float* tile, threadgroup float* bias, uint d0, uint t) {
    UNROLL for (int i = 0; i < PACKS; i++) {
      const uint q = t + i * (NSG * 32), n = q / (BK / VEC), d = q % (BK / VEC) * VEC;
      UNROLL for (int v = 0; v < VEC; v++) tile[(d + v) * STRIDE + n] = s.c[i * VEC + v];
    }
    if (d0 == 0 && t < BN) bias[t] = s.bias;
  }

  static METAL_FUNC void start(
      thread Matrix (&acc)[RB][CB], threadgroup const float* bias, uint lane) {
    const uint col = fragment_col(lane);
    UNROLL for (int j = 0; j < CB; j++) {
      const float b0 = bias[j * 8 + col], b1 = bias[j * 8 + col + 1];
      UNROLL for (int i = 0; i < RB; i++) {
        acc[i][j].thread_elements()[0] = b0;
        acc[i][j].thread_elements()[1] = b1;
      }
    }
  }

  // `left`: features from the start of this chunk to D.
  static METAL_FUNC void multiply(
      thread Matrix (&acc)[RB][CB], thread Matrix (&x)[STEPS][RB], threadgroup const float* tile,
      uint left, uint lane) {
    const uint r = fragment_row(lane), col = fragment_col(lane);
    UNROLL for (int f = 0; f < STEPS; f++) {
      if (uint(f * 8) >= left) break;
      UNROLL for (int j = 0; j < CB; j++) {
        Matrix b;
        b.thread_elements()[0] = tile[(f * 8 + r) * STRIDE + j * 8 + col];
        b.thread_elements()[1] = tile[(f * 8 + r) * STRIDE + j * 8 + col + 1];
        UNROLL for (int i = 0; i < RB; i++)
          simdgroup_multiply_accumulate(acc[i][j], x[f][i], b, acc[i][j]);
      }
    }
  }

  // Calls take(k0, acc, busy) for every tile in [first, last), in ascending order of centroids,
  // with one barrier per chunk of features. A simdgroup without rows is not busy: it loads
  // centroids and meets the barriers, but multiplies nothing.
  template <typename P, typename Take>
  static METAL_FUNC void sweep(
      thread const P& p, uint batch, uint row0, uint first, uint last, threadgroup float* tile,
      threadgroup float* bias_tile, uint t, uint lane, thread Take& take) {
    const uint chunks = (p.D + BK - 1) / BK;
    const bool busy = row0 < p.N;
    Matrix x[HELD][STEPS][RB], next[STEPS][RB], acc[RB][CB];
    Staged staged;
    if (first < last) {
      stage(staged, p, batch, first * BN, 0, t);
      commit(staged, tile, bias_tile, 0, t);
      UNROLL for (int h = 0; h < HELD; h++) load_rows(x[h], p, batch, row0, h * BK, lane);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    uint side = 0, bias_side = 0;
    for (uint kt = first; kt < last; kt++) {
      if (busy) start(acc, bias_tile + bias_side * BN, lane);
      for (uint q0 = 0; q0 < chunks; q0 += HELD) {  // one pass if RES > 0
        UNROLL for (int h = 0; h < HELD; h++) {
          const uint q = q0 + h;
          if (q >= chunks) break;
          const bool ends = q + 1 == chunks, more = !ends || kt + 1 < last;
          const uint next_k = (ends ? kt + 1 : kt) * BN, next_d = ends ? 0 : (q + 1) * BK;
          if (more) {  // in flight while the matrix unit works
            stage(staged, p, batch, next_k, next_d, t);
            if (RES == 0) load_rows(next, p, batch, row0, next_d, lane);
          }
          if (busy) multiply(acc, x[h], tile + side * TILE, p.D - q * BK, lane);
          if (more) {
            commit(
                staged, tile + (1 - side) * TILE,
                bias_tile + (ends ? 1 - bias_side : bias_side) * BN, next_d, t);
            if (RES == 0) {
              UNROLL for (int f = 0; f < STEPS; f++) {
                UNROLL for (int i = 0; i < RB; i++) x[0][f][i] = next[f][i];
              }
            }
          }
          threadgroup_barrier(mem_flags::mem_threadgroup);
          side = 1 - side;
        }
      }
      bias_side = 1 - bias_side;
      take(kt * BN, acc, busy);
    }
  }
};
