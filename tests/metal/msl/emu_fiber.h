// One fiber is one GPU thread: a stack of its own and a switch that saves the callee-saved
// registers.
#pragma once
#include <sys/mman.h>

#include "emu_sanitizer.h"

#if !defined(__x86_64__) && !defined(EMU_UCONTEXT)
#define EMU_UCONTEXT 1
#endif
#ifdef EMU_UCONTEXT  // slower, for other processors
#include <ucontext.h>
#endif

namespace emu {

constexpr size_t STACK = 256 << 10;

struct Fiber {
#ifdef EMU_UCONTEXT
  ucontext_t context;
#else
  void* stack_pointer = nullptr;
#endif
  char* stack = nullptr;
  const void* stack_bottom = nullptr;  // what ASan is told about the stack that is switched to
  size_t stack_size = 0;
  void* fake_stack = nullptr;  // ASan's
  void* tsan = nullptr;        // TSan's
};

#ifndef EMU_UCONTEXT
extern "C" void emu_switch(void** from, void* to);
asm(R"(.text
.globl emu_switch
.hidden emu_switch
.type emu_switch,@function
emu_switch:
 pushq %rbp
 pushq %rbx
 pushq %r12
 pushq %r13
 pushq %r14
 pushq %r15
 movq %rsp,(%rdi)
 movq %rsi,%rsp
 popq %r15
 popq %r14
 popq %r13
 popq %r12
 popq %rbx
 popq %rbp
 ret
)");
#endif

EMU_RUNTIME inline char* map_pages(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? nullptr : static_cast<char*>(p);
}

// Makes `f` start at entry() on its stack. TSan's fibers are never destroyed: it would reuse
// their slots, and races between threadgroups would be missed.
EMU_RUNTIME inline void prepare(Fiber& f, void (*entry)()) {
  f.stack_bottom = f.stack;
  f.stack_size = STACK;
  f.fake_stack = nullptr;
#ifdef EMU_TSAN
  f.tsan = __tsan_create_fiber(0);
#endif
#ifdef EMU_UCONTEXT
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = f.stack;
  f.context.uc_stack.ss_size = STACK;
  f.context.uc_link = nullptr;
  makecontext(&f.context, entry, 0);
#else
  void** top = reinterpret_cast<void**>(f.stack + STACK) - 1;
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; i++) *--top = nullptr;  // the registers that emu_switch pops
  f.stack_pointer = top;
#endif
}

// Makes `f` stand for the code that runs on the stack of this OS thread.
EMU_RUNTIME inline void adopt_thread(Fiber& f) {
#ifdef EMU_TSAN
  f.tsan = __tsan_get_current_fiber();
#endif
#ifdef EMU_ASAN
  pthread_attr_t attributes;
  void* bottom;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &bottom, &f.stack_size);
  pthread_attr_destroy(&attributes);
  f.stack_bottom = bottom;
#endif
  (void)f;
}

// The first thing that a new fiber does.
EMU_RUNTIME inline void arrived(void* fake_stack) {
#ifdef EMU_ASAN
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  (void)fake_stack;
}

EMU_RUNTIME inline void switch_fiber(Fiber& from, Fiber& to, bool for_good) {
#ifdef EMU_TSAN
  __tsan_switch_to_fiber(to.tsan, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef EMU_ASAN
  __sanitizer_start_switch_fiber(for_good ? nullptr : &from.fake_stack, to.stack_bottom, to.stack_size);
#endif
#ifdef EMU_UCONTEXT
  swapcontext(&from.context, &to.context);
#else
  emu_switch(&from.stack_pointer, to.stack_pointer);
#endif
  arrived(from.fake_stack);
  (void)for_good;
}

}  // namespace emu
