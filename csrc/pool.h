// Threads that the native kernels share.

#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#define PAUSE() _mm_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ __volatile__("yield")
#else
#define PAUSE()
#endif

// Work that several threads take pieces of until none is left.
struct Task {
  virtual void run() = 0;

 protected:
  ~Task() = default;
};

// Runs the task on `num_threads` threads, this one included, and returns when all are done.
void run_in_parallel(Task& task, int num_threads);
