// Threads that the native kernels share.

#pragma once

#include <sched.h>

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#define PAUSE() _mm_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ __volatile__("yield")
#else
#define PAUSE()
#endif

using Clock = std::chrono::steady_clock;

// How long this thread has waited for others in the present call, but for short spins.
inline thread_local Clock::duration held_up{};

// Waits until `is_done()`; who waits for long lets others have the processor.
template <class Condition>
void wait_until(Condition is_done) {
  for (int spin = 0; spin < 1000; ++spin) {
    if (is_done()) return;
    PAUSE();
  }
  const Clock::time_point begin = Clock::now();
  while (!is_done()) sched_yield();
  held_up += Clock::now() - begin;
}

// Work that several threads take pieces of until none is left.
struct Task {
  virtual void run() = 0;

 protected:
  ~Task() = default;
};

// Runs the task on `num_threads` threads, this one included, and returns when all are done; on this
// one alone for a while after others were waited for, as they are where a processor is shared.
void run_in_parallel(Task& task, int num_threads);
