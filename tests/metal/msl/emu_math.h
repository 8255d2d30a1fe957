// The functions of <metal_math>, <metal_common>, <metal_integer> and <metal_relational> that
// kernels use.
#pragma once
#include "emu_types.h"

namespace metal {

template <class T>
constexpr bool is_real = std::is_same_v<T, float> || std::is_same_v<T, half> || std::is_same_v<T, bfloat>;

// Of two floats of which one is NaN, the other.
template <class T>
T max(T a, T b) {
  if constexpr (is_real<T>) return T(std::fmax(float(a), float(b)));
  else return a < b ? b : a;
}
template <class T>
T min(T a, T b) {
  if constexpr (is_real<T>) return T(std::fmin(float(a), float(b)));
  else return b < a ? b : a;
}
template <class T>
T clamp(T x, T low, T high) { return min(max(x, low), high); }
template <class T>
T abs(T x) { return x < T(0) ? T(-x) : x; }
template <class T>
T select(T a, T b, bool c) { return c ? b : a; }

inline float fmax(float a, float b) { return std::fmax(a, b); }
inline float fmin(float a, float b) { return std::fmin(a, b); }
inline half fmax(half a, half b) { return max(a, b); }
inline half fmin(half a, half b) { return min(a, b); }
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline half fma(half a, half b, half c) { return half(__builtin_fmaf(float(a), float(b), float(c))); }
inline float pow(float a, float b) { return std::pow(a, b); }

#define EMU_REAL_FUNCTION(name, expression)                          \
  inline float name(float x) { return expression; }                  \
  inline half name(half h) { const float x = h; return half(expression); }
EMU_REAL_FUNCTION(fabs, std::fabs(x))
EMU_REAL_FUNCTION(sqrt, std::sqrt(x))
EMU_REAL_FUNCTION(rsqrt, 1.0f / std::sqrt(x))
EMU_REAL_FUNCTION(exp, std::exp(x))
EMU_REAL_FUNCTION(log, std::log(x))
EMU_REAL_FUNCTION(log2, std::log2(x))
EMU_REAL_FUNCTION(exp2, std::exp2(x))
EMU_REAL_FUNCTION(floor, std::floor(x))
EMU_REAL_FUNCTION(ceil, std::ceil(x))
EMU_REAL_FUNCTION(trunc, std::trunc(x))
EMU_REAL_FUNCTION(rint, std::nearbyint(x))

inline bool isnan(float x) { return x != x; }
inline bool isinf(float x) { return std::isinf(x); }
inline bool isfinite(float x) { return std::isfinite(x); }

inline int popcount(uint x) { return __builtin_popcount(x); }
inline uint clz(uint x) { return x ? __builtin_clz(x) : 32; }
inline uint ctz(uint x) { return x ? __builtin_ctz(x) : 32; }
inline uint mulhi(uint a, uint b) { return uint((ulong(a) * b) >> 32); }
inline int mulhi(int a, int b) { return int((long(a) * b) >> 32); }

#define EMU_VEC_FUNCTION2(name)                                      \
  template <class T, int N>                                          \
  vec<T, N> name(vec<T, N> a, vec<T, N> b) {                         \
    for (int i = 0; i < N; i++) a.v[i] = name(a.v[i], b.v[i]);       \
    return a;                                                        \
  }
EMU_VEC_FUNCTION2(max)
EMU_VEC_FUNCTION2(min)

template <class T, int N>
vec<T, N> abs(vec<T, N> a) {
  for (int i = 0; i < N; i++) a.v[i] = abs(a.v[i]);
  return a;
}
template <class T, int N>
vec<T, N> fma(vec<T, N> a, vec<T, N> b, vec<T, N> c) {
  for (int i = 0; i < N; i++) c.v[i] = fma(a.v[i], b.v[i], c.v[i]);
  return c;
}
template <class T, int N>
vec<T, N> select(vec<T, N> a, vec<T, N> b, vec<bool, N> c) {
  for (int i = 0; i < N; i++) a.v[i] = c.v[i] ? b.v[i] : a.v[i];
  return a;
}
template <class T, int N>
T dot(vec<T, N> a, vec<T, N> b) {
  T s = a.v[0] * b.v[0];
  for (int i = 1; i < N; i++) s += a.v[i] * b.v[i];
  return s;
}
template <int N>
bool any(vec<bool, N> a) {
  bool r = false;
  for (int i = 0; i < N; i++) r |= a.v[i];
  return r;
}
template <int N>
bool all(vec<bool, N> a) {
  bool r = true;
  for (int i = 0; i < N; i++) r &= a.v[i];
  return r;
}

// MSL has these for every arithmetic type; the standard ones serve double, which MSL lacks.
namespace precise { using namespace metal; }
namespace fast { using namespace metal; }

}  // namespace metal
