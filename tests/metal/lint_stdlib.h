// Declarations of MSL for libclang: here device, constant and threadgroup are real address
// spaces. Nothing is defined.
#define device __attribute__((address_space(1)))
#define constant __attribute__((address_space(2)))
#define threadgroup __attribute__((address_space(3)))
#define thread
#define kernel
#define METAL_FUNC inline
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define FLT_MAX __FLT_MAX__
#define __METAL_VERSION__ 310

typedef unsigned int uint;
typedef unsigned short ushort;
typedef unsigned char uchar;
typedef unsigned long ulong;
typedef ulong size_t;
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long int64_t;
typedef uchar uint8_t;
typedef ushort uint16_t;
typedef uint uint32_t;
typedef ulong uint64_t;
typedef _Float16 half;
typedef half float16_t;
typedef __bf16 bfloat;
typedef bfloat bfloat16_t;

#define LINT_VECTORS(T)                                  \
  typedef T T##2 __attribute__((ext_vector_type(2)));    \
  typedef T T##3 __attribute__((ext_vector_type(3)));    \
  typedef T T##4 __attribute__((ext_vector_type(4)));
LINT_VECTORS(float)
LINT_VECTORS(half)
LINT_VECTORS(char)
LINT_VECTORS(uchar)
LINT_VECTORS(short)
LINT_VECTORS(ushort)
LINT_VECTORS(int)
LINT_VECTORS(uint)
LINT_VECTORS(long)
LINT_VECTORS(ulong)

namespace metal {

template <class T, int N>
using vec = T __attribute__((ext_vector_type(N)));

template <class A, class B>
constexpr bool is_same_v = false;
template <class A>
constexpr bool is_same_v<A, A> = true;
template <class A, class B>
struct is_same {
  enum { value = is_same_v<A, B> };
};
template <bool C, class A, class B>
struct conditional {
  typedef A type;
};
template <class A, class B>
struct conditional<false, A, B> {
  typedef B type;
};
template <bool C, class A, class B>
using conditional_t = typename conditional<C, A, B>::type;
template <class T>
struct numeric_limits {
  static T infinity();
  static T quiet_NaN();
  static T max();
  static T min();
  static T lowest();
};

#define LINT_REAL1(name) float name(float); half name(half);
LINT_REAL1(sqrt) LINT_REAL1(rsqrt) LINT_REAL1(exp) LINT_REAL1(exp2) LINT_REAL1(log) LINT_REAL1(log2) LINT_REAL1(fabs)
LINT_REAL1(floor) LINT_REAL1(ceil) LINT_REAL1(trunc) LINT_REAL1(rint)
#define LINT_REAL2(name) float name(float, float); half name(half, half);
LINT_REAL2(fmax) LINT_REAL2(fmin) LINT_REAL2(pow)
float fma(float, float, float);
half fma(half, half, half);
bool isnan(float);
bool isinf(float);
bool isfinite(float);
template <class T> T max(T, T);
template <class T> T min(T, T);
template <class T> T abs(T);
template <class T> T clamp(T, T, T);
template <class T> T select(T, T, bool);
template <class T> T dot(T, T);
template <class T> T popcount(T);
template <class T> T clz(T);
template <class T> T ctz(T);
template <class T> T mulhi(T, T);
template <class D, class S> D as_type(S);

enum class mem_flags { mem_none, mem_device, mem_threadgroup, mem_texture, mem_threadgroup_imageblock };
mem_flags operator|(mem_flags, mem_flags);
void threadgroup_barrier(mem_flags);
void simdgroup_barrier(mem_flags);

#define LINT_SIMD1(name) template <class T> T name(T);
LINT_SIMD1(simd_sum) LINT_SIMD1(simd_product) LINT_SIMD1(simd_max) LINT_SIMD1(simd_min) LINT_SIMD1(simd_and)
LINT_SIMD1(simd_or) LINT_SIMD1(simd_xor) LINT_SIMD1(simd_broadcast_first) LINT_SIMD1(simd_prefix_inclusive_sum)
LINT_SIMD1(simd_prefix_exclusive_sum) LINT_SIMD1(simd_prefix_inclusive_product) LINT_SIMD1(simd_prefix_exclusive_product)
#define LINT_SIMD2(name) template <class T> T name(T, ushort);
LINT_SIMD2(simd_shuffle) LINT_SIMD2(simd_shuffle_xor) LINT_SIMD2(simd_shuffle_down) LINT_SIMD2(simd_shuffle_up)
LINT_SIMD2(simd_shuffle_rotate_down) LINT_SIMD2(simd_shuffle_rotate_up) LINT_SIMD2(simd_broadcast)
bool simd_any(bool);
bool simd_all(bool);
struct simd_vote {
  typedef ulong vote_t;
  explicit simd_vote(vote_t);
  explicit operator vote_t() const;
  bool any() const;
  bool all() const;
};
simd_vote simd_ballot(bool);

template <class T, int C, int R>
struct simdgroup_matrix {
  simdgroup_matrix();
  explicit simdgroup_matrix(T);
  vec<T, 2>& thread_elements();
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;
template <class T, int C, int R> simdgroup_matrix<T, C, R> make_filled_simdgroup_matrix(T);
#define LINT_MATRIX(space)                                                                                          \
  template <class T>                                                                                                \
  void simdgroup_load(simdgroup_matrix<T, 8, 8>&, const space T*, ulong = 8, ulong2 = 0, bool = false);             \
  template <class T>                                                                                                \
  void simdgroup_store(simdgroup_matrix<T, 8, 8>, space T*, ulong = 8, ulong2 = 0, bool = false);
LINT_MATRIX(device)
LINT_MATRIX(threadgroup)
template <class D, class A, class B, class C>
void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>&, simdgroup_matrix<A, 8, 8>, simdgroup_matrix<B, 8, 8>,
                                   simdgroup_matrix<C, 8, 8>);
template <class D, class A, class B>
void simdgroup_multiply(simdgroup_matrix<D, 8, 8>&, simdgroup_matrix<A, 8, 8>, simdgroup_matrix<B, 8, 8>);

enum memory_order { memory_order_relaxed };
template <class T> struct atomic;
template <> struct atomic<int> { int v; };
template <> struct atomic<uint> { uint v; };
template <> struct atomic<float> { float v; };
template <> struct atomic<ulong> { ulong v; };
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;
template <class T> struct same { typedef T type; };
#define LINT_FETCH(name, space) \
  template <class T> T name(volatile space atomic<T>*, typename same<T>::type, memory_order);
#define LINT_ATOMICS(space)                                                                                         \
  template <class T> T atomic_load_explicit(const volatile space atomic<T>*, memory_order);                         \
  template <class T> void atomic_store_explicit(volatile space atomic<T>*, typename same<T>::type, memory_order);   \
  template <class T>                                                                                                \
  bool atomic_compare_exchange_weak_explicit(volatile space atomic<T>*, T*, typename same<T>::type, memory_order,   \
                                             memory_order);                                                         \
  LINT_FETCH(atomic_exchange_explicit, space)                                                                       \
  LINT_FETCH(atomic_fetch_add_explicit, space)                                                                      \
  LINT_FETCH(atomic_fetch_sub_explicit, space)                                                                      \
  LINT_FETCH(atomic_fetch_max_explicit, space)                                                                      \
  LINT_FETCH(atomic_fetch_min_explicit, space)                                                                      \
  LINT_FETCH(atomic_fetch_and_explicit, space)                                                                      \
  LINT_FETCH(atomic_fetch_or_explicit, space)                                                                       \
  LINT_FETCH(atomic_fetch_xor_explicit, space)
LINT_ATOMICS(device)
LINT_ATOMICS(threadgroup)

}  // namespace metal

using namespace metal;
template <class T, class U> T ceildiv(T, U);
template <class T> struct Limits {
  static constexpr constant T max = T(0), min = T(0), finite_max = T(0), finite_min = T(0);
};
