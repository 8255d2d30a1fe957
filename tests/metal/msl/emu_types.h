// Scalar and vector types of MSL.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

typedef unsigned int uint;
typedef unsigned short ushort;
typedef unsigned char uchar;
typedef unsigned long ulong;
typedef _Float16 half;

#pragma GCC diagnostic ignored "-Wliteral-suffix"
constexpr half operator""h(long double x) { return half(float(x)); }

// No implicit conversion from float, as in MSL.
struct bfloat {
  uint16_t bits;
  bfloat() = default;
  explicit bfloat(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    bits = x != x ? 0x7FC0 : uint16_t((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
  }
  operator float() const {
    const uint32_t u = uint32_t(bits) << 16;
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
  }
};

#define EMU_BFLOAT_OPERATOR(op)                                                              \
  inline bfloat operator op(bfloat a, bfloat b) { return bfloat(float(a) op float(b)); }     \
  inline bfloat& operator op##=(bfloat& a, bfloat b) { return a = a op b; }
EMU_BFLOAT_OPERATOR(+)
EMU_BFLOAT_OPERATOR(-)
EMU_BFLOAT_OPERATOR(*)
EMU_BFLOAT_OPERATOR(/)
inline bfloat operator-(bfloat a) { return bfloat(-float(a)); }

namespace metal {

using std::conditional_t;
using std::enable_if_t;
using std::is_floating_point;
using std::is_integral;
using std::is_integral_v;
using std::is_same;
using std::is_same_v;

template <class T>
struct numeric_limits : std::numeric_limits<T> {};

template <class T, uint16_t INF, uint16_t MAX, uint16_t MIN, uint16_t QNAN>
struct small_float_limits {
  static T of(uint16_t bits) {
    T x;
    memcpy(&x, &bits, sizeof x);
    return x;
  }
  static T infinity() { return of(INF); }
  static T quiet_NaN() { return of(QNAN); }
  static T max() { return of(MAX); }
  static T min() { return of(MIN); }
  static T lowest() { return of(MAX | 0x8000); }
};
template <>
struct numeric_limits<half> : small_float_limits<half, 0x7C00, 0x7BFF, 0x0400, 0x7E00> {};
template <>
struct numeric_limits<bfloat> : small_float_limits<bfloat, 0x7F80, 0x7F7F, 0x0080, 0x7FC0> {};

template <class T, int N>
struct components {
  T v[N];
};
template <class T>
struct components<T, 2> {
  union {
    T v[2];
    struct { T x, y; };
  };
};
template <class T>
struct components<T, 3> {
  union {
    T v[4];
    struct { T x, y, z; };
  };
};
template <class T>
struct components<T, 4> {
  union {
    T v[4];
    struct { T x, y, z, w; };
  };
};

// Of the swizzles only single components exist.
template <class T, int N>
struct alignas(sizeof(T) * (N == 3 ? 4 : N)) vec : components<T, N> {
  using components<T, N>::v;
  vec() {}
  vec(T s) {
    for (int i = 0; i < N; i++) v[i] = s;
  }
  template <class... A, class = std::enable_if_t<sizeof...(A) == N && (N > 1)>>
  vec(A... a) {
    const T t[] = {T(a)...};
    for (int i = 0; i < N; i++) v[i] = t[i];
  }
  template <class U>
  explicit vec(const vec<U, N>& o) {
    for (int i = 0; i < N; i++) v[i] = T(o.v[i]);
  }
  template <int M = N, class = std::enable_if_t<M == 4>>
  vec(vec<T, 2> a, vec<T, 2> b) {
    for (int i = 0; i < 2; i++) v[i] = a.v[i], v[i + 2] = b.v[i];
  }
  T& operator[](int i) { return v[i]; }
  const T& operator[](int i) const { return v[i]; }
};

#define EMU_VEC_OPERATOR(R, op)                                        \
  template <class T, int N>                                            \
  vec<R, N> operator op(vec<T, N> a, vec<T, N> b) {                    \
    vec<R, N> r;                                                       \
    for (int i = 0; i < N; i++) r.v[i] = a.v[i] op b.v[i];             \
    return r;                                                          \
  }                                                                    \
  template <class T, int N>                                            \
  vec<R, N> operator op(vec<T, N> a, std::common_type_t<T> b) {        \
    return a op vec<T, N>(b);                                          \
  }                                                                    \
  template <class T, int N>                                            \
  vec<R, N> operator op(std::common_type_t<T> a, vec<T, N> b) {        \
    return vec<T, N>(a) op b;                                          \
  }
#define EMU_VEC_ARITHMETIC(op)                                         \
  EMU_VEC_OPERATOR(T, op)                                              \
  template <class T, int N>                                            \
  vec<T, N>& operator op##=(vec<T, N>& a, vec<T, N> b) {               \
    return a = a op b;                                                 \
  }                                                                    \
  template <class T, int N>                                            \
  vec<T, N>& operator op##=(vec<T, N>& a, std::common_type_t<T> b) {   \
    return a = a op b;                                                 \
  }
EMU_VEC_ARITHMETIC(+)
EMU_VEC_ARITHMETIC(-)
EMU_VEC_ARITHMETIC(*)
EMU_VEC_ARITHMETIC(/)
EMU_VEC_ARITHMETIC(%)
EMU_VEC_ARITHMETIC(&)
EMU_VEC_ARITHMETIC(|)
EMU_VEC_ARITHMETIC(^)
EMU_VEC_ARITHMETIC(<<)
EMU_VEC_ARITHMETIC(>>)
EMU_VEC_OPERATOR(bool, <)
EMU_VEC_OPERATOR(bool, <=)
EMU_VEC_OPERATOR(bool, >)
EMU_VEC_OPERATOR(bool, >=)
EMU_VEC_OPERATOR(bool, ==)
EMU_VEC_OPERATOR(bool, !=)

template <class T, int N>
vec<T, N> operator-(vec<T, N> a) {
  for (int i = 0; i < N; i++) a.v[i] = -a.v[i];
  return a;
}

template <class D, class S>
D as_type(S s) {
  static_assert(sizeof(D) == sizeof(S), "as_type keeps the size");
  D d;
  memcpy(&d, &s, sizeof d);
  return d;
}

}  // namespace metal

#define EMU_VECTORS(T)             \
  typedef metal::vec<T, 2> T##2;   \
  typedef metal::vec<T, 3> T##3;   \
  typedef metal::vec<T, 4> T##4;
EMU_VECTORS(float)
EMU_VECTORS(half)
EMU_VECTORS(bfloat)
EMU_VECTORS(bool)
EMU_VECTORS(char)
EMU_VECTORS(uchar)
EMU_VECTORS(short)
EMU_VECTORS(ushort)
EMU_VECTORS(int)
EMU_VECTORS(uint)
EMU_VECTORS(long)
EMU_VECTORS(ulong)
using metal::as_type;
