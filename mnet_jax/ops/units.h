// What the compiled operations share: vectors of channels, and units of work for the threads of XLA's pool.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>

#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif

constexpr int64_t MOST_PARTS = 32;  // of a sum, however many the threads

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Runs work(0) .. work(units - 1), each once, on this thread and on those of XLA's pool that are free meanwhile.
// Nobody waits for a thread to come: the caller takes units until none is left, then waits for those already taken.
// A helper that comes later finds none, and touches nothing but the counters, which it keeps alive.
template <class Work>
void run_units(ffi::ThreadPool& pool, int64_t units, const Work& work) {
  struct Counters {
    std::atomic<int64_t> next{0}, done{0};
  };
  const auto counters = std::make_shared<Counters>();
  const auto help = [counters, units, &work] {
    for (int64_t unit; (unit = counters->next.fetch_add(1)) < units;) {
      work(unit);
      counters->done.fetch_add(1, std::memory_order_release);
    }
  };
  const int64_t helpers = std::min(pool.num_threads(), units) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([help] { help(); });
  help();
  for (int spins = 0; counters->done.load(std::memory_order_acquire) < units;) {
    if (++spins > 1000) std::this_thread::yield();
  }
}

template <class T, int N>
struct Vector {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
  static type load(const T* p) {
    type v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static void store(T* p, type v) { std::memcpy(p, &v, sizeof v); }
};

}  // namespace
