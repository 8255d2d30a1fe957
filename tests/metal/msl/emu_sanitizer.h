// Calls that tell the sanitizers about fibers and clocks. EMU_RUNTIME marks functions whose own
// accesses are not those of the kernel.
#pragma once
#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define EMU_ASAN 1
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(EMU_COUNT)  // compiled with -fsanitize=thread, but linked with the hooks of count.cpp
#define EMU_RUNTIME __attribute__((no_sanitize_thread))
extern "C" {
void count_threadgroup(const void* memory, size_t size);
void count_thread(int thread);
void count_meeting(int simdgroup, const char* operation);
}
#elif defined(__SANITIZE_THREAD__)
#define EMU_TSAN 1
#define EMU_RUNTIME __attribute__((no_sanitize_thread, noinline))
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#else
#define EMU_RUNTIME
#endif

namespace emu {

// release(clock) happens before every later acquire(clock).
EMU_RUNTIME inline void release(char* clock) {
#ifdef EMU_TSAN
  __tsan_release(clock);
#endif
  (void)clock;
}

EMU_RUNTIME inline void acquire(char* clock) {
#ifdef EMU_TSAN
  __tsan_acquire(clock);
#endif
  (void)clock;
}

// While one exists, accesses are not looked at: the last lane of a simd operation moves the
// registers of all.
struct Ignore {
#ifdef EMU_TSAN
  EMU_RUNTIME Ignore() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  EMU_RUNTIME ~Ignore() {
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  }
#else
  Ignore() {}
  ~Ignore() {}
#endif
};

inline void forbid(char* p, size_t n) {
#ifdef EMU_ASAN
  __asan_poison_memory_region(p, n);
#endif
  (void)p, (void)n;
}

inline void permit(char* p, size_t n) {
#ifdef EMU_ASAN
  __asan_unpoison_memory_region(p, n);
#endif
  (void)p, (void)n;
}

}  // namespace emu
