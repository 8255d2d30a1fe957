// Runs a grid: threadgroups are dealt to OS threads. Comes after the kernel; source.py adds
// call_kernel() behind it.
#pragma once
#undef device
#undef constant
#undef thread
#undef threadgroup
#undef kernel
#include <pthread.h>

#include "emu_flush.h"

namespace emu {

struct Grid {
  void* const* buffers;
  uint3 grid, threads, groups;  // threads: per threadgroup, before the grid ends
  ulong total, first;           // threadgroups: all of them, and the first that runs
  int order;
  bool flush;  // subnormal floats
};

// Named as in MSL: the kernel's parameters ask for them by these names.
struct Attributes {
  uint3 thread_position_in_grid, thread_position_in_threadgroup, threadgroup_position_in_grid;
  uint3 threads_per_threadgroup, dispatch_threads_per_threadgroup, threadgroups_per_grid, threads_per_grid;
  uint3 grid_size, grid_origin;
  uint thread_index_in_threadgroup, thread_index_in_simdgroup, simdgroup_index_in_threadgroup;
  uint simdgroups_per_threadgroup, dispatch_simdgroups_per_threadgroup, threads_per_simdgroup, thread_execution_width;
};

// A buffer as whatever pointer or reference the kernel's parameter is.
struct Argument {
  void* data;
  template <class T>
  operator T*() const {
    return static_cast<T*>(data);
  }
  template <class T, class = std::enable_if_t<std::is_const_v<T>>>
  operator T&() const {
    return *static_cast<T*>(data);
  }
};

void call_kernel(void* const* buffers, const Attributes& at);

struct Group {
  const Grid* launch;
  uint3 position, size;
};

EMU_RUNTIME inline void run_thread(const void* argument, int index) {
  const Group& g = *static_cast<const Group*>(argument);
  const Grid& l = *g.launch;
  Attributes at;
  const uint i = uint(index), n = g.size.x * g.size.y * g.size.z;
  at.thread_position_in_threadgroup = uint3(i % g.size.x, i / g.size.x % g.size.y, i / (g.size.x * g.size.y));
  at.threadgroup_position_in_grid = g.position;
  at.thread_position_in_grid = g.position * l.threads + at.thread_position_in_threadgroup;
  at.threads_per_threadgroup = g.size;
  at.dispatch_threads_per_threadgroup = l.threads;
  at.threadgroups_per_grid = l.groups;
  at.threads_per_grid = at.grid_size = l.grid;
  at.grid_origin = uint3(0u);
  at.thread_index_in_threadgroup = i;
  at.thread_index_in_simdgroup = i % LANES;
  at.simdgroup_index_in_threadgroup = i / LANES;
  at.simdgroups_per_threadgroup = (n + LANES - 1) / LANES;
  at.dispatch_simdgroups_per_threadgroup = (l.threads.x * l.threads.y * l.threads.z + LANES - 1) / LANES;
  at.threads_per_simdgroup = at.thread_execution_width = LANES;
  call_kernel(l.buffers, at);
}

struct Shared {
  Grid launch;
  ulong next;
  int failed;
  char* message;
  size_t message_size;
  ulong threadgroup_bytes;
};

EMU_RUNTIME inline void* work(void* argument) {
  Shared& s = *static_cast<Shared*>(argument);
  const Grid& l = s.launch;
  const Flush subnormals(l.flush);
  const int most = int(l.threads.x * l.threads.y * l.threads.z);
  group = static_cast<Threadgroup*>(calloc(1, sizeof(Threadgroup)));
  Threadgroup& g = *group;
#ifndef EMU_TSAN
  map_memory(g, most);
#endif
  ulong k;
  while (!__atomic_load_n(&s.failed, __ATOMIC_RELAXED) && (k = __atomic_fetch_add(&s.next, 1, __ATOMIC_RELAXED)) < l.total) {
    const ulong i = l.order == 1 ? l.total - 1 - (k - l.first) : k;
    Group one{&l, uint3(uint(i % l.groups.x), uint(i / l.groups.x % l.groups.y), uint(i / l.groups.x / l.groups.y)), uint3(0u)};
    one.size = min(l.threads, l.grid - one.position * l.threads);
    run_threadgroup(g, int(one.size.x * one.size.y * one.size.z), l.order, uint(i) * 7919u + uint(l.order), run_thread, &one);
    if (g.failed && !__atomic_exchange_n(&s.failed, 1, __ATOMIC_RELAXED))
      snprintf(s.message, s.message_size, "threadgroup (%u, %u, %u): %s", one.position.x, one.position.y, one.position.z, g.message);
  }
  acquire(&g.end);
  ulong bytes = __atomic_load_n(&s.threadgroup_bytes, __ATOMIC_RELAXED);
  while (g.most_bytes > bytes &&
         !__atomic_compare_exchange_n(&s.threadgroup_bytes, &bytes, g.most_bytes, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
#ifndef EMU_TSAN
  permit(g.arena, ARENA);
  munmap(g.arena, ARENA);
  permit(g.stacks, most * STACK);
  munmap(g.stacks, most * STACK);
  free(group);
#endif
  return nullptr;
}

}  // namespace emu

// Returns 0, or 1 with a message. `first` is the first threadgroup that runs.
extern "C" __attribute__((visibility("default"))) EMU_RUNTIME int emu_run(void* const* buffers, const uint* grid, const uint* threads,
                                                                          ulong first, int order, int workers, int flush, char* message,
                                                                          size_t message_size, ulong* threadgroup_bytes) {
  emu::Shared s{};
  emu::Grid& l = s.launch;
  l.buffers = buffers;
  l.grid = uint3(grid[0], grid[1], grid[2]);
  l.threads = metal::min(uint3(threads[0], threads[1], threads[2]), l.grid);
  for (int i = 0; i < 3; i++) l.groups[i] = (ulong(l.grid[i]) + l.threads[i] - 1) / l.threads[i];
  l.total = ulong(l.groups.x) * l.groups.y * l.groups.z;
  l.first = s.next = first < l.total ? first : l.total - 1;
  l.order = order;
  l.flush = flush;
  s.message = message;
  s.message_size = message_size;
  if (ulong(workers) > l.total - l.first) workers = int(l.total - l.first);
  if (workers <= 1) {
    emu::work(&s);
  } else {
    pthread_t* ids = static_cast<pthread_t*>(calloc(workers, sizeof(pthread_t)));
    int started = 0;
    while (started < workers && pthread_create(&ids[started], nullptr, emu::work, &s) == 0) started++;
    for (int i = 0; i < started; i++) pthread_join(ids[i], nullptr);
    free(ids);
    if (!started) emu::work(&s);
  }
  *threadgroup_bytes = s.threadgroup_bytes;
  return s.failed;
}
