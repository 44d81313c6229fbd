// Threads that the native kernels share.

#pragma once

// Work that several threads take pieces of until none is left.
struct Task {
  virtual void run() = 0;

 protected:
  ~Task() = default;
};

// Runs the task on `num_threads` threads, this one included, and returns when all are done.
void run_in_parallel(Task& task, int num_threads);
