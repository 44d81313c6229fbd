// One source, several instruction sets: a function is compiled for each, the processor's is called.

#pragma once

namespace {

template <auto function>
struct Compiled;

// Function is inlined into each of these, and so compiled with what each may use.
template <typename Result, typename... Arguments, Result (*function)(Arguments...)>
struct Compiled<function> {
  static Result portable(Arguments... arguments) { return function(arguments...); }
#if defined(__x86_64__)
  __attribute__((target("avx2,fma"))) static Result avx2(Arguments... arguments) {
    return function(arguments...);
  }
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))) static Result avx512(
      Arguments... arguments) {
    return function(arguments...);
  }
#endif
};

// An INLINE function as compiled for a level: 0 portable, 1 AVX2, 2 AVX-512.
template <auto function>
auto at_level(int level) {
#if defined(__x86_64__)
  if (level == 2) return Compiled<function>::avx512;
  if (level == 1) return Compiled<function>::avx2;
#endif
  (void)level;
  return Compiled<function>::portable;
}

}  // namespace
