// Batch normalization with the clip behind it, and its gradient.
//
// Arrays are M positions of C channels for each of some groups, whose statistics are their own. The positions of a
// group are cut into parts by the shapes alone, and the parts' sums are added in order, so the bits do not depend on
// the threads. Passes over an array alternate in direction: what one touched last, the next finds in the caches.

#pragma once

#include <cmath>
#include <type_traits>
#include <vector>

#include "units.h"

namespace {

constexpr int BLOCK = 8;                // positions at a time, so that what is held per channel is loaded once for all
constexpr int64_t PART_SIZE = 1 << 15;  // elements that a part has at least

struct Groups {
  int64_t count, of_seed, M, C, whole, parts;  // `whole` positions are never parted
  Groups(int64_t count, int64_t of_seed, int64_t M, int64_t C, int64_t whole = 1)
      : count(count), of_seed(of_seed), M(M), C(C), whole(whole) {
    parts = std::clamp<int64_t>(M * C / PART_SIZE, 1, std::min(M / whole, MOST_PARTS));
  }
  int64_t first(int64_t part) const { return M / whole * part / parts * whole; }
  int64_t size(int64_t part) const { return first(part + 1) - first(part); }
  int64_t start(int64_t group, int64_t part) const { return (group * M + first(part)) * C; }  // in the array

  // work(group, part) for all, in parallel.
  template <class Work>
  void each(ffi::ThreadPool& pool, bool backward, const Work& work) const {
    const int64_t units = count * parts;
    run_units(pool, units, [&](int64_t unit) {
      const int64_t u = backward ? units - 1 - unit : unit;
      work(u / parts, u % parts);
    });
  }
};

// work(N, c) for vectors of N channels from c on, as wide as fit, that together are all between `begin` and `end`.
template <int N, class Work>
inline void over_channels(int64_t begin, int64_t end, const Work& work) {
  for (; begin + N <= end; begin += N) work(std::integral_constant<int, N>(), begin);
  if constexpr (N > 1) over_channels<N / 2>(begin, end, work);
}

// work(Q, N, m, c) for blocks of Q positions from m on and N channels from c on; Q is a constant but for the last.
template <class T, class Work>
inline void over_positions(int64_t size, int64_t C, const Work& work) {
  const auto block = [&](auto Q, int64_t m) {
    over_channels<VECTOR_BYTES / sizeof(T)>(0, C, [&](auto N, int64_t c) { work(Q, N, m, c); });
  };
  int64_t m = 0;
  for (; m + BLOCK <= size; m += BLOCK) block(std::integral_constant<int, BLOCK>(), m);
  if (m < size) block(static_cast<int>(size - m), m);
}

// Loads a vector and asks for what is `ahead` of it: blocks hop between positions faster than caches foresee.
template <class T, int N>
inline typename Vector<T, N>::type stream(const T* from, int64_t ahead) {
  __builtin_prefetch(from + ahead);
  return Vector<T, N>::load(from);
}

template <class T, int N>
inline void add(T* to, typename Vector<T, N>::type v) {
  Vector<T, N>::store(to, Vector<T, N>::load(to) + v);
}

// Two sums per channel of every part, then what is near the part's mean, for `add_powers`.
template <class T>
struct Sums {
  const Groups& groups;
  std::vector<T> of_parts;
  explicit Sums(const Groups& groups) : groups(groups), of_parts(groups.count * groups.parts * 3 * groups.C) {}
  T* part(int64_t group, int64_t index) { return of_parts.data() + (group * groups.parts + index) * 3 * groups.C; }
};

// The mean of the first positions.
template <class T>
void set_pivot(const T* x, int64_t size, int64_t C, T* sum) {
  const int64_t few = std::min<int64_t>(size, BLOCK);
  for (int64_t m = 0; m < few; ++m)
    for (int64_t c = 0; c < C; ++c) sum[2 * C + c] += x[m * C + c] / few;
}

// Adds x - pivot and its square.
template <class T>
void add_powers(const T* x, int64_t size, int64_t C, T* sum) {
  const T* const pivot = sum + 2 * C;
  over_positions<T>(size, C, [&](auto Q, auto N, int64_t m, int64_t c) {
    using V = Vector<T, N>;
    const auto center = V::load(pivot + c);
    typename V::type first = {}, second = {};
    for (int q = 0; q < Q; ++q) {
      const auto offset = stream<T, N>(x + (m + q) * C + c, BLOCK * C) - center;
      first += offset, second += offset * offset;
    }
    add<T, N>(sum + c, first), add<T, N>(sum + C + c, second);
  });
}

// Mean and variance of the groups from the parts' sums of powers (Chan et al. 1983, equation 2.1).
template <class T>
void join_moments(Sums<T>& sums, T* mean, T* var) {
  const Groups& groups = sums.groups;
  for (int64_t at = 0; at < groups.count * groups.C; ++at) {
    const int64_t group = at / groups.C, c = at % groups.C;
    double center = 0, squares = 0, before = 0;
    for (int64_t part = 0; part < groups.parts; ++part) {
      const T* sum = sums.part(group, part);
      const double n = groups.size(part), offset = sum[c] / n;
      const double away = sum[2 * groups.C + c] + offset - center;
      squares += sum[groups.C + c] - sum[c] * offset + away * away * before * n / (before + n);
      center += away * n / (before + n);
      before += n;
    }
    mean[at] = center, var[at] = std::max(squares / groups.M, 0.0);
  }
}

template <class T>
void moments(ffi::ThreadPool& pool, const Groups& groups, const T* x, T* mean, T* var) {
  Sums<T> sums(groups);
  groups.each(pool, true, [&](int64_t group, int64_t part) {
    const T* from = x + groups.start(group, part);
    set_pivot(from, groups.size(part), groups.C, sums.part(group, part));
    add_powers(from, groups.size(part), groups.C, sums.part(group, part));
  });
  join_moments(sums, mean, var);
}

// y = clip((x - mean) * gain + bias), and with dy the gradient that the clip lets through,
// dx = dy * gain - (x - mean) * slope - level. Per channel, of one group.
template <class T>
struct Normal {
  const T *mean, *gain, *bias, *slope, *level;
  T low, high;

  template <int N>
  struct At {
    using V = typename Vector<T, N>::type;
    V mean, gain, bias, low, high;
    V clip(V x) const {
      const V z = (x - mean) * gain + bias, raised = z < low ? low : z;
      return raised > high ? high : raised;
    }
    V pass(V x, V dy) const {
      const V z = (x - mean) * gain + bias;
      return (low < z) & (z < high) ? dy : V{};
    }
  };
  template <int N>
  At<N> at(int64_t c) const {
    using V = Vector<T, N>;
    const typename V::type zero = {};
    return {V::load(mean + c), V::load(gain + c), V::load(bias + c), low + zero, high + zero};
  }

  void apply(const T* x, int64_t size, int64_t C, T* y) const {
    over_positions<T>(size, C, [&](auto Q, auto N, int64_t m, int64_t c) {
      using V = Vector<T, N>;
      const auto own = at<N>(c);
      for (int q = 0; q < Q; ++q) V::store(y + (m + q) * C + c, own.clip(stream<T, N>(x + (m + q) * C + c, BLOCK * C)));
    });
  }

  // Adds what the clip lets through of dy, and that times x - mean.
  void add_gradient(const T* x, const T* dy, int64_t size, int64_t C, T* sum) const {
    over_positions<T>(size, C, [&](auto Q, auto N, int64_t m, int64_t c) {
      using V = Vector<T, N>;
      const auto own = at<N>(c);
      typename V::type first = {}, second = {};
      for (int q = 0; q < Q; ++q) {
        const auto value = stream<T, N>(x + (m + q) * C + c, BLOCK * C), passed = own.pass(value, stream<T, N>(dy + (m + q) * C + c, BLOCK * C));
        first += passed, second += passed * (value - own.mean);
      }
      add<T, N>(sum + c, first), add<T, N>(sum + C + c, second);
    });
  }

  // dx may be dy.
  void gradient(const T* x, const T* dy, int64_t size, int64_t C, T* dx) const {
    over_positions<T>(size, C, [&](auto Q, auto N, int64_t m, int64_t c) {
      using V = Vector<T, N>;
      const auto own = at<N>(c);
      const auto falls = V::load(slope + c), lower = V::load(level + c);
      for (int q = 0; q < Q; ++q) {
        const auto value = stream<T, N>(x + (m + q) * C + c, BLOCK * C), passed = own.pass(value, stream<T, N>(dy + (m + q) * C + c, BLOCK * C));
        V::store(dx + (m + q) * C + c, passed * own.gain - (value - own.mean) * falls - lower);
      }
    });
  }
};

// A norm layer of all groups: the parameters of the seeds, and what follows from them and the moments.
template <class T>
struct Norm {
  const Groups& groups;
  const T *mean, *var, *bias, *low, *high;
  double eps;
  std::vector<T> gain, slope, level;

  Norm(const Groups& groups, const T* mean, const T* var, const T* scale, const T* bias, const T* low, const T* high,
       double eps)
      : groups(groups), mean(mean), var(var), bias(bias), low(low), high(high), eps(eps),
        gain(groups.count * groups.C), slope(gain.size()), level(gain.size()) {
    for (int64_t group = 0, at = 0; group < groups.count; ++group)
      for (int64_t c = 0; c < groups.C; ++c, ++at) gain[at] = scale[seed(group) * groups.C + c] * inverse(at);
  }
  int64_t seed(int64_t group) const { return group / groups.of_seed; }
  T inverse(int64_t at) const { return T(1) / std::sqrt(var[at] + T(eps)); }

  Normal<T> of(int64_t group) const {
    const int64_t at = group * groups.C;
    return {mean + at, gain.data() + at, bias + seed(group) * groups.C, slope.data() + at, level.data() + at,
            low[seed(group)], high[seed(group)]};
  }

  void apply(ffi::ThreadPool& pool, const T* x, T* y) const {
    groups.each(pool, false, [&](int64_t group, int64_t part) {
      const int64_t start = groups.start(group, part);
      of(group).apply(x + start, groups.size(part), groups.C, y + start);
    });
  }

  // The gradients to scale and bias from the sums of `add_gradient`, and what the one to x needs of them.
  void join_gradient(Sums<T>& sums, T* dscale, T* dbias) {
    const int64_t C = groups.C;
    std::fill_n(dscale, groups.count / groups.of_seed * C, T(0));
    std::fill_n(dbias, groups.count / groups.of_seed * C, T(0));
    for (int64_t at = 0; at < groups.count * C; ++at) {
      const int64_t group = at / C, c = at % C;
      double first = 0, second = 0;
      for (int64_t part = 0; part < groups.parts; ++part) {
        first += sums.part(group, part)[c], second += sums.part(group, part)[C + c];
      }
      const T r = inverse(at);
      dbias[seed(group) * C + c] += first, dscale[seed(group) * C + c] += second * r;
      level[at] = first / groups.M * gain[at], slope[at] = second * r / groups.M * r * gain[at];
    }
  }

  void add_gradient(ffi::ThreadPool& pool, const T* x, const T* dy, T* dscale, T* dbias) {
    Sums<T> sums(groups);
    groups.each(pool, true, [&](int64_t group, int64_t part) {
      const int64_t start = groups.start(group, part);
      of(group).add_gradient(x + start, dy + start, groups.size(part), groups.C, sums.part(group, part));
    });
    join_gradient(sums, dscale, dbias);
  }

  void gradient(ffi::ThreadPool& pool, bool backward, const T* x, const T* dy, T* dx) const {
    groups.each(pool, backward, [&](int64_t group, int64_t part) {
      const int64_t start = groups.start(group, part);
      of(group).gradient(x + start, dy + start, groups.size(part), groups.C, dx + start);
    });
  }
};

}  // namespace
