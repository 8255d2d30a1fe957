// Helpers that the kernels of this folder share. MLX's preamble has included <metal_stdlib> and
// opened `metal`.
//
// The files are headers of mx.fast.metal_kernel: `backends/metal/sources.py` joins those that a
// kernel needs and adds the entry point. Pointers to inputs are template parameters, because MLX
// passes an input of fewer than 8 elements as `constant` instead of `device`.

// Arrays stay in registers only where their indices are constants: every loop over one is unrolled.
#define UNROLL _Pragma("clang loop unroll(full)")

// W adjacent elements with the alignment of one: a row may start anywhere.
template <typename T, int W>
struct Pack {
  T v[W];
};

// out[w] = source[at + w] for w < left, else 0. WIDE: one load where all W exist, which needs
// `device` memory.
template <int W, bool WIDE, typename T, typename Source>
METAL_FUNC void load_span(thread T* out, Source source, ulong at, int left) {
  if constexpr (WIDE && W > 1) {
    if (left >= W) {
      const Pack<T, W> pack = *reinterpret_cast<const device Pack<T, W>*>(source + at);
      UNROLL for (int w = 0; w < W; w++) out[w] = pack.v[w];
      return;
    }
  }
  UNROLL for (int w = 0; w < W; w++) out[w] = w < left ? source[at + w] : T(0);
}

// The total order on candidates: the higher score, then the lower index. NaN beats nothing.
METAL_FUNC bool beats(float score, uint index, float other_score, uint other_index) {
  return score > other_score || (score == other_score && index < other_index);
}

// A lane holds (row, col) and (row, col + 1) of an 8x8 simdgroup matrix.
METAL_FUNC uint fragment_row(uint lane) { return ((lane >> 2) & 4) + ((lane >> 1) & 3); }
METAL_FUNC uint fragment_col(uint lane) { return ((lane >> 2) & 2) * 2 + (lane & 1) * 2; }

// The lane that holds (row, 0).
METAL_FUNC ushort lane_of_row(uint row) { return ushort((row & 4) << 2 | (row & 3) << 1); }
