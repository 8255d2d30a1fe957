// Counts what a launch does: bytes moved to and from the buffers, and by simdgroup the 128-byte
// lines that an instruction touches in them, the cycles that banks of threadgroup memory need, matrix
// operations, other simd operations and barriers. The kernel is compiled with -fsanitize=thread, and
// this file takes the place of libtsan: every load and store that the optimiser leaves calls one of
// these hooks.
//
// Lanes run one after the other between two meetings of their simdgroup. Accesses of several lanes
// are one instruction if they come from the same place in the code and each lane is there for the
// n-th time since the last meeting.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <vector>

namespace {

constexpr uintptr_t LINE = 128, WORD = 4;
constexpr int BANKS = 32, LANES = 32, SIMDGROUPS = 32;

struct Counts {
  uint64_t read, written, read_once, written_once;  // asked by the lanes; each byte once per threadgroup
  uint64_t instructions, lines, fetched;
};

struct Buffer {
  uintptr_t begin, end;
  uint32_t *read_by, *written_by;  // per byte, the threadgroup that touched it last
  uint32_t* touched_in;            // per line, the interval that touched it last
  Counts counts;
};

// In the order of `Work` in counts.py.
struct Work {
  uint64_t matrix, simd, simdgroup_barriers, threadgroup_barriers;
  uint64_t shared_reads, read_cycles, read_least, shared_writes, write_cycles, write_least;
};

struct Access {
  uintptr_t code, at, size;  // `at`: an offset in the buffer or in threadgroup memory
  int nth, lane;
  int buffer;  // -1: threadgroup memory
  bool write;
};

Buffer* buffers = nullptr;
int n_buffers = 0, thread = 0;
uint32_t threadgroup = 0, interval = 0;  // an interval lies between two barriers of a threadgroup
uintptr_t memory = 0, memory_end = 0;  // of the threadgroup
Work work;
std::vector<Access> pending[SIMDGROUPS];

// Adds the cycles of one instruction on threadgroup memory: the most different words in one bank,
// and the least that so many words could take.
void add_banks(const Access* first, const Access* last) {
  std::vector<uintptr_t> words;
  for (const Access* a = first; a < last; a++)
    for (uintptr_t w = a->at / WORD; w <= (a->at + a->size - 1) / WORD; w++) words.push_back(w);
  std::sort(words.begin(), words.end());
  words.erase(std::unique(words.begin(), words.end()), words.end());
  uint64_t bank[BANKS] = {};
  for (uintptr_t w : words) bank[w % BANKS]++;
  (first->write ? work.shared_writes : work.shared_reads)++;
  (first->write ? work.write_cycles : work.read_cycles) += *std::max_element(bank, bank + BANKS);
  (first->write ? work.write_least : work.read_least) += (words.size() + BANKS - 1) / BANKS;
}

// Adds the lines of one instruction on a buffer.
void add_lines(const Access* first, const Access* last) {
  std::vector<uintptr_t> lines;
  for (const Access* a = first; a < last; a++)
    for (uintptr_t l = a->at / LINE; l <= (a->at + a->size - 1) / LINE; l++) lines.push_back(l);
  std::sort(lines.begin(), lines.end());
  Counts& counts = buffers[first->buffer].counts;
  counts.lines += std::unique(lines.begin(), lines.end()) - lines.begin();
  counts.instructions++;
}

// Sorts the accesses of a simdgroup since its last meeting into instructions.
void settle(int simdgroup) {
  std::vector<Access>& all = pending[simdgroup];
  std::stable_sort(all.begin(), all.end(), [](const Access& a, const Access& b) {
    return a.code != b.code ? a.code < b.code : a.lane < b.lane;
  });
  for (size_t i = 0; i < all.size(); i++)
    all[i].nth = i && all[i - 1].code == all[i].code && all[i - 1].lane == all[i].lane ? all[i - 1].nth + 1 : 0;
  // By buffer too: a place in the code may reach several.
  auto key = [](const Access& a) { return std::make_tuple(a.code, a.nth, a.buffer); };
  std::sort(all.begin(), all.end(), [&](const Access& a, const Access& b) { return key(a) < key(b); });
  for (size_t i = 0, j; i < all.size(); i = j) {
    for (j = i + 1; j < all.size() && key(all[j]) == key(all[i]);) j++;
    (all[i].buffer < 0 ? add_banks : add_lines)(&all[i], all.data() + j);
  }
  all.clear();
}

void touch(const volatile void* p, uintptr_t n, bool write, const void* code) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(p), place = reinterpret_cast<uintptr_t>(code);
  Access access{place, 0, n, 0, thread % LANES, -1, write};
  std::vector<Access>& accesses = pending[thread / LANES];
  if (at >= memory && at < memory_end) {
    access.at = at - memory;
    accesses.push_back(access);
    return;
  }
  for (int i = 0; i < n_buffers; i++) {
    Buffer& b = buffers[i];
    if (at < b.begin || at >= b.end) continue;
    access.at = at - b.begin;
    access.buffer = i;
    accesses.push_back(access);
    uint32_t* seen = write ? b.written_by : b.read_by;
    uint64_t& once = write ? b.counts.written_once : b.counts.read_once;
    (write ? b.counts.written : b.counts.read) += n;
    for (uintptr_t q = at - b.begin; q < at - b.begin + n && q < b.end - b.begin; q++) {
      if (seen[q] != threadgroup) once++;
      seen[q] = threadgroup;
    }
    for (uintptr_t l = access.at / LINE; l <= (access.at + n - 1) / LINE; l++) {
      if (b.touched_in[l] != interval) b.counts.fetched++;
      b.touched_in[l] = interval;
    }
    return;
  }
}

}  // namespace

#define HERE __builtin_return_address(0)
#define EXPORT __attribute__((visibility("default")))

extern "C" {

EXPORT void count_begin(void* const* pointers, const uint64_t* sizes, int n) {
  buffers = static_cast<Buffer*>(calloc(n, sizeof(Buffer)));
  for (int i = 0; i < n; i++) {
    buffers[i].begin = reinterpret_cast<uintptr_t>(pointers[i]);
    buffers[i].end = buffers[i].begin + sizes[i];
    buffers[i].read_by = static_cast<uint32_t*>(calloc(sizes[i] + 1, sizeof(uint32_t)));
    buffers[i].written_by = static_cast<uint32_t*>(calloc(sizes[i] + 1, sizeof(uint32_t)));
    buffers[i].touched_in = static_cast<uint32_t*>(calloc(sizes[i] / LINE + 2, sizeof(uint32_t)));
  }
  threadgroup = interval = 0;
  n_buffers = n;
  work = Work{};
}

void count_threadgroup(const void* begin, uintptr_t size) {
  threadgroup++;
  interval++;
  memory = reinterpret_cast<uintptr_t>(begin);
  memory_end = memory + size;
}

void count_thread(int current) { thread = current; }

// All lanes of a simdgroup have met for an operation, or returned (nullptr).
void count_meeting(int simdgroup, const char* operation) {
  settle(simdgroup);
  if (!operation) return;
  interval += strcmp(operation, "threadgroup_barrier") == 0;
  const auto is = [&](const char* name) { return strcmp(operation, name) == 0; };
  (is("simdgroup_multiply_accumulate") ? work.matrix
   : is("simdgroup_barrier")           ? work.simdgroup_barriers
   : is("threadgroup_barrier")         ? work.threadgroup_barriers
                                       : work.simd)++;
}

// `out`: the counts of every buffer, then those of the launch.
EXPORT void count_end(uint64_t* out) {
  constexpr int per_buffer = sizeof(Counts) / sizeof(uint64_t);
  for (int i = 0; i < n_buffers; i++) {
    memcpy(out + per_buffer * i, &buffers[i].counts, sizeof(Counts));
    free(buffers[i].read_by);
    free(buffers[i].written_by);
    free(buffers[i].touched_in);
  }
  memcpy(out + per_buffer * n_buffers, &work, sizeof work);
  free(buffers);
  n_buffers = 0;
}

#define ACCESS(n)                                                               \
  void __tsan_read##n(void* p) { touch(p, n, false, HERE); }                    \
  void __tsan_write##n(void* p) { touch(p, n, true, HERE); }                    \
  void __tsan_unaligned_read##n(void* p) { touch(p, n, false, HERE); }          \
  void __tsan_unaligned_write##n(void* p) { touch(p, n, true, HERE); }          \
  void __tsan_volatile_read##n(void* p) { touch(p, n, false, HERE); }           \
  void __tsan_volatile_write##n(void* p) { touch(p, n, true, HERE); }           \
  void __tsan_unaligned_volatile_read##n(void* p) { touch(p, n, false, HERE); } \
  void __tsan_unaligned_volatile_write##n(void* p) { touch(p, n, true, HERE); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
void __tsan_read_range(void* p, uintptr_t n) { touch(p, n, false, HERE); }
void __tsan_write_range(void* p, uintptr_t n) { touch(p, n, true, HERE); }

// A read-modify-write is a load and a successful exchange: its bytes count once as read and once
// as written.
#define ATOMIC(bits)                                                                                             \
  uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t* p, int) {                             \
    touch(p, bits / 8, false, HERE);                                                                             \
    return __atomic_load_n(p, __ATOMIC_RELAXED);                                                                 \
  }                                                                                                              \
  void __tsan_atomic##bits##_store(volatile uint##bits##_t* p, uint##bits##_t x, int) {                          \
    touch(p, bits / 8, true, HERE);                                                                              \
    __atomic_store_n(p, x, __ATOMIC_RELAXED);                                                                    \
  }                                                                                                              \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile uint##bits##_t* p, uint##bits##_t* expected,          \
                                                  uint##bits##_t x, int, int) {                                  \
    const bool done = __atomic_compare_exchange_n(p, expected, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);    \
    if (done) touch(p, bits / 8, true, HERE);                                                                    \
    return done;                                                                                                 \
  }                                                                                                              \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile uint##bits##_t* p, uint##bits##_t* expected,        \
                                                    uint##bits##_t x, int a, int b) {                            \
    return __tsan_atomic##bits##_compare_exchange_weak(p, expected, x, a, b);                                    \
  }                                                                                                              \
  uint##bits##_t __tsan_atomic##bits##_compare_exchange_val(volatile uint##bits##_t* p, uint##bits##_t expected, \
                                                            uint##bits##_t x, int a, int b) {                    \
    __tsan_atomic##bits##_compare_exchange_weak(p, &expected, x, a, b);                                          \
    return expected;                                                                                             \
  }
ATOMIC(32)
ATOMIC(64)

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
}
