// Subnormal floats count as zero, read or computed, as on GPUs that flush them.
#pragma once
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace emu {

// As long as it exists, for this OS thread and its fibers. half is not concerned: its conversions
// ignore these bits, and GPUs keep its subnormals.
struct Flush {
#if defined(__x86_64__)
  static constexpr unsigned MASK = 0x8040;  // flush to zero, denormals are zero
  const unsigned before = _mm_getcsr();
  explicit Flush(bool on) { _mm_setcsr(on ? before | MASK : before & ~MASK); }
  ~Flush() { _mm_setcsr(before); }
#elif defined(__aarch64__)
  static constexpr unsigned long MASK = 1ul << 24;
  unsigned long before;
  explicit Flush(bool on) {
    asm volatile("mrs %0, fpcr" : "=r"(before));
    asm volatile("msr fpcr, %0" ::"r"(on ? before | MASK : before & ~MASK));
  }
  ~Flush() { asm volatile("msr fpcr, %0" ::"r"(before)); }
#else
  explicit Flush(bool) {}
#endif
  Flush(const Flush&) = delete;
};

}  // namespace emu
