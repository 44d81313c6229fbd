// Threads that wait for work; a short spin before sleep, since calls come in quick succession. Who
// spins for longer lets others have the processor in between.

#include "pool.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace {

constexpr int kSpins = 8000;  // about as long as a caller needs between two calls

class Pool {
 public:
  explicit Pool(int helpers) {
    for (int i = 0; i < helpers; ++i) threads_.emplace_back([this] { wait(); });
    for (auto& thread : threads_) thread.detach();
  }

  int helpers() const { return int(threads_.size()); }

  void run(Task& task, int helpers) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      task_ = &task;
      wanted_ = helpers;
      busy_.store(helpers);
      ticket_.fetch_add(1);
    }
    wake_.notify_all();
    task.run();
    {
      // Helpers that have not begun need not: nothing is left for them.
      std::lock_guard<std::mutex> lock(mutex_);
      busy_.fetch_sub(wanted_);
      wanted_ = 0;
    }
    wait_until([this] { return busy_.load() <= 0; });
  }

 private:
  void wait() {
    uint64_t seen = 0;
    for (;;) {
      for (int spin = 0; spin < kSpins && ticket_.load(std::memory_order_acquire) == seen; ++spin) {
        if (spin % 64 == 63) {
          sched_yield();
        } else {
          PAUSE();
        }
      }
      Task* task = nullptr;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return ticket_.load() != seen; });
        seen = ticket_.load();
        if (wanted_ > 0) {
          --wanted_;
          task = task_;
        }
      }
      if (task == nullptr) continue;
      task->run();
      busy_.fetch_sub(1);
    }
  }

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> ticket_{0};
  std::atomic<int> busy_{0};
  Task* task_ = nullptr;
  int wanted_ = 0;
};

// When this thread goes on alone. A thread that has lost its processor comes back after some
// milliseconds, which is many calls of a small network; so a call that was held up for a good part
// of its time is followed by a while without others, and the while doubles where that recurs.
class Patience {
 public:
  bool is_alone(Clock::time_point now) const { return now < until_; }

  void judge(Clock::time_point begin, Clock::time_point end) {
    if (held_up * 5 > (end - begin) * 2) {
      while_ = end - last_ > kForgets ? kLeast : std::min(2 * while_, kMost);
      last_ = end;
      until_ = end + while_;
    }
  }

 private:
  static constexpr Clock::duration kLeast = std::chrono::milliseconds(20);
  static constexpr Clock::duration kMost = std::chrono::milliseconds(640);
  static constexpr Clock::duration kForgets = std::chrono::seconds(2);
  Clock::duration while_ = kLeast;
  Clock::time_point last_{}, until_{};
};

std::mutex one_call;
Patience patience;
Pool* pool = nullptr;
pid_t pool_owner = 0;

}  // namespace

void run_in_parallel(Task& task, int num_threads) {
  const int helpers = num_threads - 1;
  if (helpers < 1) {
    task.run();
    return;
  }
  std::lock_guard<std::mutex> lock(one_call);
  const Clock::time_point begin = Clock::now();
  if (patience.is_alone(begin)) {
    task.run();
    return;
  }
  if (pool == nullptr || pool_owner != getpid() || pool->helpers() < helpers) {
    pool = new Pool(helpers);  // an earlier one is left to its sleeping threads
    pool_owner = getpid();
  }
  held_up = {};
  pool->run(task, helpers);
  patience.judge(begin, Clock::now());
}
