// Counts bytes moved to and from the buffers. The kernel is compiled with -fsanitize=thread, and
// this file takes the place of libtsan: every load and store that the optimiser leaves calls one
// of these hooks.
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

struct Counts {
  uint64_t read, written, read_once, written_once;  // asked by the lanes; each byte once per threadgroup
};

struct Buffer {
  uintptr_t begin, end;
  uint32_t *read_by, *written_by;  // per byte, the threadgroup that touched it last
  Counts counts;
};

Buffer* buffers = nullptr;
int n_buffers = 0;
uint32_t threadgroup = 0;

void touch(const volatile void* p, uintptr_t n, bool write) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(p);
  for (int i = 0; i < n_buffers; i++) {
    Buffer& b = buffers[i];
    if (at < b.begin || at >= b.end) continue;
    uint32_t* seen = write ? b.written_by : b.read_by;
    uint64_t& once = write ? b.counts.written_once : b.counts.read_once;
    (write ? b.counts.written : b.counts.read) += n;
    for (uintptr_t q = at - b.begin; q < at - b.begin + n && q < b.end - b.begin; q++) {
      if (seen[q] != threadgroup) once++;
      seen[q] = threadgroup;
    }
    return;
  }
}

}  // namespace

#define EXPORT __attribute__((visibility("default")))

extern "C" {

EXPORT void count_begin(void* const* pointers, const uint64_t* sizes, int n) {
  buffers = static_cast<Buffer*>(calloc(n, sizeof(Buffer)));
  for (int i = 0; i < n; i++) {
    buffers[i].begin = reinterpret_cast<uintptr_t>(pointers[i]);
    buffers[i].end = buffers[i].begin + sizes[i];
    buffers[i].read_by = static_cast<uint32_t*>(calloc(sizes[i] + 1, sizeof(uint32_t)));
    buffers[i].written_by = static_cast<uint32_t*>(calloc(sizes[i] + 1, sizeof(uint32_t)));
  }
  threadgroup = 0;
  n_buffers = n;
}

void count_threadgroup() { threadgroup++; }

EXPORT void count_end(uint64_t* out) {
  for (int i = 0; i < n_buffers; i++) {
    memcpy(out + 4 * i, &buffers[i].counts, sizeof(Counts));
    free(buffers[i].read_by);
    free(buffers[i].written_by);
  }
  free(buffers);
  n_buffers = 0;
}

#define ACCESS(n)                                                        \
  void __tsan_read##n(void* p) { touch(p, n, false); }                   \
  void __tsan_write##n(void* p) { touch(p, n, true); }                   \
  void __tsan_unaligned_read##n(void* p) { touch(p, n, false); }         \
  void __tsan_unaligned_write##n(void* p) { touch(p, n, true); }         \
  void __tsan_volatile_read##n(void* p) { touch(p, n, false); }          \
  void __tsan_volatile_write##n(void* p) { touch(p, n, true); }          \
  void __tsan_unaligned_volatile_read##n(void* p) { touch(p, n, false); } \
  void __tsan_unaligned_volatile_write##n(void* p) { touch(p, n, true); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
void __tsan_read_range(void* p, uintptr_t n) { touch(p, n, false); }
void __tsan_write_range(void* p, uintptr_t n) { touch(p, n, true); }

// A read-modify-write is a load and a successful exchange: its bytes count once as read and once
// as written.
#define ATOMIC(bits)                                                                                         \
  uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t* p, int) {                         \
    touch(p, bits / 8, false);                                                                               \
    return __atomic_load_n(p, __ATOMIC_RELAXED);                                                             \
  }                                                                                                          \
  void __tsan_atomic##bits##_store(volatile uint##bits##_t* p, uint##bits##_t x, int) {                      \
    touch(p, bits / 8, true);                                                                                \
    __atomic_store_n(p, x, __ATOMIC_RELAXED);                                                                \
  }                                                                                                          \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile uint##bits##_t* p, uint##bits##_t* expected,      \
                                                  uint##bits##_t x, int, int) {                              \
    const bool done = __atomic_compare_exchange_n(p, expected, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED); \
    if (done) touch(p, bits / 8, true);                                                                      \
    return done;                                                                                             \
  }                                                                                                          \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile uint##bits##_t* p, uint##bits##_t* expected,    \
                                                    uint##bits##_t x, int a, int b) {                        \
    return __tsan_atomic##bits##_compare_exchange_weak(p, expected, x, a, b);                                \
  }                                                                                                          \
  uint##bits##_t __tsan_atomic##bits##_compare_exchange_val(volatile uint##bits##_t* p, uint##bits##_t expected, \
                                                            uint##bits##_t x, int a, int b) {                \
    __tsan_atomic##bits##_compare_exchange_weak(p, &expected, x, a, b);                                      \
    return expected;                                                                                         \
  }
ATOMIC(32)
ATOMIC(64)

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
}
