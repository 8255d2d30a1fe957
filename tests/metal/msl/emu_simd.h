// Barriers and simdgroup operations. A lane without a source (out of range, or beyond a partial
// simdgroup) gets all bits set.
#pragma once
#include "emu_math.h"
#include "emu_runtime.h"

namespace emu {

template <class T>
struct Register {
  T in, out;
  ushort argument;
};

// out of lane l = f(in of every lane, n, l, argument of lane l), computed by the last lane to
// arrive.
template <class T, class F>
T each_lane(const char* name, Where where, T x, ushort argument, F f) {
  Register<T> mine{x, x, argument};
  collective(name, where, &mine, [&](Thread* lanes, int n) {
    T in[LANES];
    for (int l = 0; l < n; l++) in[l] = static_cast<const Register<T>*>(lanes[l].registers)->in;
    for (int l = 0; l < n; l++) {
      auto* r = static_cast<Register<T>*>(const_cast<void*>(lanes[l].registers));
      r->out = f(in, n, l, r->argument);
    }
  });
  return mine.out;
}

template <class T>
T lane_value(const T* in, int n, int source) {
  if (source >= 0 && source < n) return in[source];
  T poison;
  memset(static_cast<void*>(&poison), 0xFF, sizeof poison);
  return poison;
}

}  // namespace emu

namespace metal {

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4, mem_threadgroup_imageblock = 8 };
inline mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(int(a) | int(b)); }

inline void threadgroup_barrier(mem_flags, emu::Where where = emu::Where::here()) { emu::threadgroup_barrier(where); }
inline void simdgroup_barrier(mem_flags, emu::Where where = emu::Where::here()) { emu::simdgroup_barrier(where); }

#define EMU_SHUFFLE(name, source)                                                              \
  template <class T>                                                                           \
  T name(T x, ushort argument, emu::Where where = emu::Where::here()) {                        \
    return emu::each_lane(#name, where, x, argument, [](const T* in, int n, int l, int a) {    \
      (void)l;                                                                                 \
      return emu::lane_value(in, n, source);                                                   \
    });                                                                                        \
  }
EMU_SHUFFLE(simd_shuffle, a)
EMU_SHUFFLE(simd_broadcast, a)
EMU_SHUFFLE(simd_shuffle_xor, l ^ a)
EMU_SHUFFLE(simd_shuffle_down, l + a)
EMU_SHUFFLE(simd_shuffle_up, l - a)
EMU_SHUFFLE(simd_shuffle_rotate_down, (l + a) % emu::LANES)
EMU_SHUFFLE(simd_shuffle_rotate_up, (l - a + emu::LANES) % emu::LANES)

template <class T>
T simd_broadcast_first(T x, emu::Where where = emu::Where::here()) {
  return emu::each_lane("simd_broadcast_first", where, x, 0, [](const T* in, int, int, int) { return in[0]; });
}

// `r` is folded with each further `b`, from `from` up to (not including) `to`.
#define EMU_FOLD(name, from, to, start, fold)                                                  \
  template <class T>                                                                           \
  T name(T x, emu::Where where = emu::Where::here()) {                                         \
    return emu::each_lane(#name, where, x, 0, [](const T* in, int n, int l, int) {             \
      (void)n, (void)l;                                                                        \
      T r = start;                                                                             \
      for (int k = from; k < to; k++) {                                                        \
        const T b = in[k];                                                                     \
        r = fold;                                                                              \
      }                                                                                        \
      return r;                                                                                \
    });                                                                                        \
  }
EMU_FOLD(simd_sum, 1, n, in[0], T(r + b))
EMU_FOLD(simd_product, 1, n, in[0], T(r * b))
EMU_FOLD(simd_max, 1, n, in[0], max(r, b))
EMU_FOLD(simd_min, 1, n, in[0], min(r, b))
EMU_FOLD(simd_and, 1, n, in[0], T(r & b))
EMU_FOLD(simd_or, 1, n, in[0], T(r | b))
EMU_FOLD(simd_xor, 1, n, in[0], T(r ^ b))
EMU_FOLD(simd_prefix_inclusive_sum, 1, l + 1, in[0], T(r + b))
EMU_FOLD(simd_prefix_exclusive_sum, 0, l, T(0), T(r + b))
EMU_FOLD(simd_prefix_inclusive_product, 1, l + 1, in[0], T(r * b))
EMU_FOLD(simd_prefix_exclusive_product, 0, l, T(1), T(r * b))

inline bool simd_any(bool x, emu::Where where = emu::Where::here()) { return simd_max(int(x), where) != 0; }
inline bool simd_all(bool x, emu::Where where = emu::Where::here()) { return simd_min(int(x), where) != 0; }

class simd_vote {
  ulong bits;

 public:
  typedef ulong vote_t;
  explicit simd_vote(vote_t v) : bits(v) {}
  explicit operator vote_t() const { return bits; }
  bool any() const { return bits != 0; }
  bool all() const { return bits == 0xFFFFFFFFul; }
};

inline simd_vote simd_ballot(bool x, emu::Where where = emu::Where::here()) {
  return simd_vote(simd_or(ulong(x) << emu::lane(), where));
}

}  // namespace metal
