// Atomics: relaxed only, as in MSL, and only the operations that MSL has for the type.
#pragma once
#include "emu_types.h"

namespace metal {

enum memory_order { memory_order_relaxed };

template <class T>
struct atomic {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "MSL has atomics of int, uint, float and (limited) ulong");
  T value;
};
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;

template <class T>
T atomic_load_explicit(const volatile atomic<T>* p, memory_order) {
  T x;
  __atomic_load(const_cast<T*>(&p->value), &x, __ATOMIC_RELAXED);
  return x;
}

template <class T>
void atomic_store_explicit(volatile atomic<T>* p, std::common_type_t<T> x, memory_order) {
  __atomic_store(const_cast<T*>(&p->value), &x, __ATOMIC_RELAXED);
}

template <class T>
bool atomic_compare_exchange_weak_explicit(volatile atomic<T>* p, T* expected, std::common_type_t<T> x, memory_order, memory_order) {
  return __atomic_compare_exchange(const_cast<T*>(&p->value), expected, &x, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

template <class T, class F>
T emu_fetch_modify(volatile atomic<T>* p, F f) {
  T old = atomic_load_explicit(p, memory_order_relaxed);
  while (!atomic_compare_exchange_weak_explicit(p, &old, f(old), memory_order_relaxed, memory_order_relaxed)) {
  }
  return old;
}

#define EMU_FETCH(name, condition, expression)                                    \
  template <class T>                                                              \
  T name(volatile atomic<T>* p, std::common_type_t<T> x, memory_order) {          \
    static_assert(condition, "MSL lacks " #name " for this type");                \
    return emu_fetch_modify(p, [=](T old) { return (void)old, T(expression); });  \
  }
EMU_FETCH(atomic_exchange_explicit, true, x)
EMU_FETCH(atomic_fetch_add_explicit, true, old + x)
EMU_FETCH(atomic_fetch_sub_explicit, true, old - x)
EMU_FETCH(atomic_fetch_max_explicit, std::is_integral_v<T>, old < x ? x : old)
EMU_FETCH(atomic_fetch_min_explicit, std::is_integral_v<T>, x < old ? x : old)
EMU_FETCH(atomic_fetch_and_explicit, std::is_integral_v<T>, old & x)
EMU_FETCH(atomic_fetch_or_explicit, std::is_integral_v<T>, old | x)
EMU_FETCH(atomic_fetch_xor_explicit, std::is_integral_v<T>, old ^ x)

}  // namespace metal
