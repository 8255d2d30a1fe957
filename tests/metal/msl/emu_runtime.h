// A threadgroup: its fibers take turns on one OS thread and meet at barriers and simdgroup
// operations.
#pragma once
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "emu_fiber.h"

namespace emu {

constexpr int LANES = 32, MAX_THREADS = 1024, SCHEDULER = MAX_THREADS, MAX_ARRAYS = 64;
constexpr size_t THREADGROUP_LIMIT = 32768, GAP = 64, ARENA = 1 << 20;

struct Where {
  const char* file;
  int line;
  static constexpr Where here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

// Threads that must all arrive before any goes on: a simdgroup or the whole threadgroup. Two
// clocks in turn, since one alone would also order the arrivals after those that have left.
struct Meeting {
  int first, threads, here;
  const char* operation;
  Where where;
  unsigned round;
  char clock[2];
};

struct Thread {
  Fiber fiber;
  Meeting* waits;
  bool done;
  const void* registers;  // what this lane brings to a simdgroup operation
};

struct SharedArray {
  const void* declaration;
  char* data;
};

struct Threadgroup {
  Thread threads[MAX_THREADS + 1];  // the last one is the scheduler
  Meeting all, simdgroups[MAX_THREADS / LANES];
  int size, current, turn[MAX_THREADS], place[MAX_THREADS];  // thread turn[place[i]] is thread i
  void (*body)(const void*, int);
  const void* argument;
  char start, end;  // clocks
  char* stacks;
  char* arena;
  size_t arena_used, bytes, most_bytes;
  SharedArray arrays[MAX_ARRAYS];
  int n_arrays;
  bool failed;
  char message[1024];
};

static thread_local Threadgroup* group = nullptr;

EMU_RUNTIME inline void jump(int to) {
  Threadgroup& g = *group;
  const int from = g.current;
  if (from == to) return;
  g.current = to;
#ifdef EMU_COUNT
  if (to != SCHEDULER) count_thread(to);
#endif
  switch_fiber(g.threads[from].fiber, g.threads[to].fiber, from != SCHEDULER && g.threads[from].done);
}

// The next thread that can run, in the order of this run; the scheduler if there is none.
EMU_RUNTIME inline void yield() {
  Threadgroup& g = *group;
  int p = g.current == SCHEDULER ? g.size - 1 : g.place[g.current];
  for (int k = 0; k < g.size; k++) {
    p = p + 1 == g.size ? 0 : p + 1;
    const Thread& t = g.threads[g.turn[p]];
    if (!t.waits && !t.done) return jump(g.turn[p]);
  }
  jump(SCHEDULER);
}

// Records the first failure and leaves the threadgroup for good.
EMU_RUNTIME __attribute__((format(printf, 1, 2))) inline void fail(const char* format, ...) {
  Threadgroup& g = *group;
  if (!g.failed) {
    va_list values;
    va_start(values, format);
    vsnprintf(g.message, sizeof g.message, format, values);
    va_end(values);
  }
  g.failed = true;
  jump(SCHEDULER);
}

// Literals are compared in every operation, and mostly they are one.
EMU_RUNTIME inline bool same(const char* a, const char* b) { return a == b || strcmp(a, b) == 0; }

// Only barriers order memory (`fence`): shuffles, reductions and matrix operations don't.
template <class Operation>
EMU_RUNTIME inline void meet(Meeting& m, const char* name, Where where, bool fence, const void* registers, Operation run) {
  Threadgroup& g = *group;
  Thread& me = g.threads[g.current];
  if (m.here == 0) {
    m.operation = name;
    m.where = where;
  } else if (m.where.line != where.line || !same(m.operation, name) || !same(m.where.file, where.file)) {
    fail("divergent %s: some threads are at %s (%s:%d), others at %s (%s:%d)", name, m.operation, m.where.file, m.where.line,
         name, where.file, where.line);
  }
  char* clock = &m.clock[m.round & 1];
  me.registers = registers;
  if (fence) release(clock);
  if (++m.here == m.threads) {
#ifdef EMU_COUNT
    for (int i = m.first; i < m.first + m.threads; i += LANES) count_meeting(i / LANES, name);
#endif
    if (fence) acquire(clock);
    {
      Ignore accesses;
      run(&g.threads[m.first], m.threads);
    }
    if (fence) release(clock);
    m.here = 0;
    m.round++;
    for (int i = m.first; i < m.first + m.threads; i++)
      if (g.threads[i].waits == &m) g.threads[i].waits = nullptr;
  } else {
    me.waits = &m;
    yield();
  }
  if (fence) acquire(clock);
}

inline int lane() { return group->current % LANES; }

// run(threads, n) is executed once, by the lane that arrives last, on the registers of the n
// lanes of the simdgroup.
template <class Operation>
EMU_RUNTIME inline void collective(const char* name, Where where, const void* registers, Operation run) {
  meet(group->simdgroups[group->current / LANES], name, where, false, registers, run);
}

struct Nothing {
  EMU_RUNTIME void operator()(Thread*, int) const {}
};

EMU_RUNTIME inline void threadgroup_barrier(Where where) {
  meet(group->all, "threadgroup_barrier", where, true, nullptr, Nothing());
}

EMU_RUNTIME inline void simdgroup_barrier(Where where) {
  meet(group->simdgroups[group->current / LANES], "simdgroup_barrier", where, true, nullptr, Nothing());
}

EMU_RUNTIME inline void entry() {
  arrived(nullptr);
  Threadgroup& g = *group;
  acquire(&g.start);
  g.body(g.argument, g.current);
  release(&g.end);
  g.threads[g.current].done = true;
  yield();
  abort();
}

// Storage of one `threadgroup` declaration: the same for every thread, all bits set (NaN) before
// it is written, between forbidden gaps.
template <class T>
EMU_RUNTIME inline T& shared(const void* declaration) {
  Threadgroup& g = *group;
  for (int i = 0; i < g.n_arrays; i++)
    if (g.arrays[i].declaration == declaration) return *reinterpret_cast<T*>(g.arrays[i].data);
  const size_t at = (g.arena_used + GAP + 63) / 64 * 64;
  g.bytes += (sizeof(T) + 15) / 16 * 16;
  if (g.bytes > g.most_bytes) g.most_bytes = g.bytes;
  if (g.bytes > THREADGROUP_LIMIT)
    fail("%zu bytes of threadgroup memory, more than the %zu there are", g.bytes, THREADGROUP_LIMIT);
  if (g.n_arrays == MAX_ARRAYS) fail("more than %d threadgroup declarations", MAX_ARRAYS);
  g.arena_used = at + sizeof(T);
  char* data = g.arena + at;
  permit(data, sizeof(T));
  volatile char* fill = data;
  for (size_t i = 0; i < sizeof(T); i++) fill[i] = char(0xFF);
  g.arrays[g.n_arrays++] = {declaration, data};
  return *reinterpret_cast<T*>(data);
}

EMU_RUNTIME inline void map_memory(Threadgroup& g, int threads) {
  g.arena = map_pages(ARENA);
  g.stacks = map_pages(threads * STACK);
  if (!g.arena || !g.stacks) {
    fprintf(stderr, "emulator: no memory for %d stacks\n", threads);
    abort();
  }
  for (int i = 0; i < threads; i++) g.threads[i].fiber.stack = g.stacks + i * STACK;
}

EMU_RUNTIME inline void open_meeting(Meeting& m, int first, int threads) {
  m.first = first;
  m.threads = threads;
  m.here = 0;
}

// order: 0 ascending, 1 descending, 2 and above shuffled, the same for the same seed.
EMU_RUNTIME inline void choose_turns(Threadgroup& g, int order, unsigned seed) {
  for (int i = 0; i < g.size; i++) g.turn[i] = order == 1 ? g.size - 1 - i : i;
  for (int i = g.size - 1; order >= 2 && i > 0; i--) {
    seed = seed * 1664525u + 1013904223u;
    const int j = (seed >> 8) % (i + 1), other = g.turn[j];
    g.turn[j] = g.turn[i];
    g.turn[i] = other;
  }
  for (int i = 0; i < g.size; i++) g.place[g.turn[i]] = i;
}

EMU_RUNTIME inline void report_stuck(Threadgroup& g) {
  char text[768] = "divergent control flow:";
  size_t n = strlen(text);
  int returned = 0;
  for (int i = 0; i < g.size; i++) returned += g.threads[i].done;
  if (returned == g.size) return;
  for (int s = -1; s < MAX_THREADS / LANES && n < 500; s++) {
    const Meeting& m = s < 0 ? g.all : g.simdgroups[s];
    if (m.here)
      n += snprintf(text + n, sizeof text - n, " %d of %d threads wait at %s (%s:%d);", m.here, m.threads, m.operation,
                    m.where.file, m.where.line);
  }
  fail("%s %d of %d have returned", text, returned, g.size);
}

// Runs body(argument, thread) for `size` threads.
EMU_RUNTIME inline void run_threadgroup(Threadgroup& g, int size, int order, unsigned seed, void (*body)(const void*, int),
                                        const void* argument) {
#ifdef EMU_COUNT
  count_threadgroup(g.arena, ARENA);
#endif
#ifdef EMU_TSAN
  map_memory(g, size);  // never freed: memory that is used again looks like a race between threadgroups
#endif
  g.size = size;
  g.body = body;
  g.argument = argument;
  g.arena_used = g.bytes = 0;
  g.n_arrays = 0;
  forbid(g.arena, ARENA);
  open_meeting(g.all, 0, size);
  for (int s = 0; s < MAX_THREADS / LANES; s++) {
    const int left = size - s * LANES;
    open_meeting(g.simdgroups[s], s * LANES, left < 0 ? 0 : left < LANES ? left : LANES);
  }
  choose_turns(g, order, seed);
  for (int i = 0; i < size; i++) {
    prepare(g.threads[i].fiber, entry);
    g.threads[i].waits = nullptr;
    g.threads[i].done = false;
  }
  g.current = SCHEDULER;
  adopt_thread(g.threads[SCHEDULER].fiber);
  release(&g.start);
  yield();
#ifdef EMU_COUNT
  for (int i = 0; i < size; i += LANES) count_meeting(i / LANES, nullptr);
#endif
  if (!g.failed) report_stuck(g);
}

}  // namespace emu
