// The preamble that MLX puts before every custom kernel, as far as kernels use it.
#pragma once
#include "emu_types.h"

typedef half float16_t;
typedef bfloat bfloat16_t;

template <class U>
struct Limits {
  static inline const U max = metal::numeric_limits<U>::max(), finite_max = max;
  static inline const U min = metal::numeric_limits<U>::lowest(), finite_min = min;
};
template <class U>
struct FloatLimits {
  static inline const U max = metal::numeric_limits<U>::infinity(), finite_max = metal::numeric_limits<U>::max();
  static inline const U min = -max, finite_min = -finite_max;
};
template <>
struct Limits<float> : FloatLimits<float> {};
template <>
struct Limits<half> : FloatLimits<half> {};
template <>
struct Limits<bfloat> : FloatLimits<bfloat> {};

template <class T, class U>
inline T ceildiv(T n, U m) {
  return (n + m - 1) / m;
}

template <class I = int64_t, class E>
inline I elem_to_loc(E element, const int* shape, const int64_t* strides, int ndim) {
  I at = 0;
  for (int i = ndim - 1; i >= 0; i--) {
    at += I(element % shape[i]) * I(strides[i]);
    element /= shape[i];
  }
  return at;
}
