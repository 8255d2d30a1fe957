// 8x8 simdgroup matrices: lane l holds (row(l), col(l)) and (row(l), col(l) + 1), as on Apple GPUs.
#pragma once
#include "emu_simd.h"

namespace metal {

template <class T, int COLS, int ROWS>
struct simdgroup_matrix {
  static_assert(COLS == 8 && ROWS == 8, "simdgroup matrices are 8x8");
  vec<T, 2> elements;
  simdgroup_matrix() { memset(static_cast<void*>(&elements), 0xFF, sizeof elements); }
  explicit simdgroup_matrix(T diagonal) {
    for (int e = 0; e < 2; e++) elements.v[e] = row() == col() + e ? diagonal : T(0);
  }
  vec<T, 2>& thread_elements() { return elements; }
  const vec<T, 2>& thread_elements() const { return elements; }
  static int row(int l = emu::lane()) { return (l / 4 & 4) + l / 2 % 4; }
  static int col(int l = emu::lane()) { return (l / 4 & 2) * 2 + l % 2 * 2; }
};

typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

template <class T, int COLS, int ROWS>
simdgroup_matrix<T, COLS, ROWS> make_filled_simdgroup_matrix(T x) {
  simdgroup_matrix<T, COLS, ROWS> m;
  m.elements = vec<T, 2>(x);
  return m;
}

// Each lane moves its own two elements: no lane waits for another here.
inline ulong emu_matrix_index(int e, ulong per_row, vec<ulong, 2> origin, bool transpose) {
  typedef simdgroup_matrix<float, 8, 8> M;
  const ulong r = M::row(), c = M::col() + e;
  return transpose ? (origin.y + c) * per_row + origin.x + r : (origin.y + r) * per_row + origin.x + c;
}

template <class T>
void simdgroup_load(simdgroup_matrix<T, 8, 8>& m, const T* from, ulong per_row = 8, vec<ulong, 2> origin = vec<ulong, 2>(0ul),
                    bool transpose = false) {
  for (int e = 0; e < 2; e++) m.elements.v[e] = from[emu_matrix_index(e, per_row, origin, transpose)];
}

template <class T>
void simdgroup_store(const simdgroup_matrix<T, 8, 8>& m, T* to, ulong per_row = 8, vec<ulong, 2> origin = vec<ulong, 2>(0ul),
                     bool transpose = false) {
  for (int e = 0; e < 2; e++) to[emu_matrix_index(e, per_row, origin, transpose)] = m.elements.v[e];
}

// d = a b + c, in float32 whatever the types of the matrices.
template <class TD, class TA, class TB, class TC>
void simdgroup_multiply_accumulate(simdgroup_matrix<TD, 8, 8>& d, const simdgroup_matrix<TA, 8, 8>& a,
                                   const simdgroup_matrix<TB, 8, 8>& b, const simdgroup_matrix<TC, 8, 8>& c,
                                   emu::Where where = emu::Where::here()) {
  struct Operands {
    vec<TD, 2>* d;
    const vec<TA, 2>* a;
    const vec<TB, 2>* b;
    const vec<TC, 2>* c;
  } mine{&d.elements, &a.elements, &b.elements, &c.elements};
  const char* name = "simdgroup_multiply_accumulate";
  emu::collective(name, where, &mine, [=](emu::Thread* lanes, int n) {
    typedef simdgroup_matrix<float, 8, 8> M;
    float A[8][8], B[8][8], D[8][8];
    if (n < emu::LANES) emu::fail("%s (%s:%d) in a simdgroup of %d lanes", name, where.file, where.line, n);
    for (int l = 0; l < emu::LANES; l++) {
      const auto& o = *static_cast<const Operands*>(lanes[l].registers);
      const int r = M::row(l), k = M::col(l);
      for (int e = 0; e < 2; e++) {
        A[r][k + e] = float(o.a->v[e]);
        B[r][k + e] = float(o.b->v[e]);
        D[r][k + e] = float(o.c->v[e]);
      }
    }
    for (int i = 0; i < 8; i++)
      for (int k = 0; k < 8; k++)
        for (int j = 0; j < 8; j++) D[i][j] += A[i][k] * B[k][j];
    for (int l = 0; l < emu::LANES; l++) {
      const auto& o = *static_cast<const Operands*>(lanes[l].registers);
      for (int e = 0; e < 2; e++) o.d->v[e] = TD(D[M::row(l)][M::col(l) + e]);
    }
  });
}

template <class TD, class TA, class TB>
void simdgroup_multiply(simdgroup_matrix<TD, 8, 8>& d, const simdgroup_matrix<TA, 8, 8>& a, const simdgroup_matrix<TB, 8, 8>& b,
                        emu::Where where = emu::Where::here()) {
  simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<TD, 8, 8>(TD(0)), where);
}

}  // namespace metal
