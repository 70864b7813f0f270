// A parallel loop on the threads of XLA's pool.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;

// Sums over an array are cut into at most this many parts. Parts depend on shapes alone and are added in
// order, so that the bits do not depend on the number of threads.
constexpr int64_t MAX_PARTS = 32;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Runs body(0) .. body(tasks - 1), each once, on this thread and on those of XLA's pool that are free
// meanwhile. The caller takes tasks until none is left and then waits for the tasks that other threads have
// begun, but never for a thread to become free. A thread that comes later finds no task and touches only the
// counters, which it keeps alive.
template <class Body>
void parallel_for(ffi::ThreadPool& pool, int64_t tasks, const Body& body) {
  struct Counters {
    std::atomic<int64_t> next{0}, done{0};
  };
  const auto counters = std::make_shared<Counters>();
  const auto run_tasks = [counters, tasks, &body] {
    for (int64_t task; (task = counters->next.fetch_add(1)) < tasks;) {
      body(task);
      counters->done.fetch_add(1, std::memory_order_release);
    }
  };
  const int64_t helpers = std::min(pool.num_threads(), tasks) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([run_tasks] { run_tasks(); });
  run_tasks();
  for (int spins = 0; counters->done.load(std::memory_order_acquire) < tasks;) {
    if (++spins > 1000) std::this_thread::yield();
  }
}

}  // namespace
