// The XLA FFI handlers that native.py builds and registers, for float32 and float64.
// Images are NHWC, kernels HWC; the axes that vmap adds come first, in all arrays.

#include "depthwise.h"
#include "filter.h"
#include "norm.h"

namespace {

enum Role { X, KERNEL, Y };

template <class T>
void run(ffi::ThreadPool& pool, ffi::AnyBuffer a, ffi::AnyBuffer b, ffi::AnyBuffer result, int64_t role, int64_t top,
         int64_t left, int64_t stride) {
  T *p = a.typed_data<T>(), *q = b.typed_data<T>(), *to = result.typed_data<T>();
  const Shape A(a), B(b), R(result);
  switch (role) {
    case X: return convolution(pool, q, B, p, A, to, R, top, left, stride, true);
    case KERNEL: return kernel_gradient(pool, p, A, q, B, to, R, top, left, stride);
    default: return convolution(pool, p, A, q, B, to, R, top, left, stride, false);
  }
}

// `role` says what is computed of x, kernel and y; a and b are the other two, in this order.
ffi::Error handle_depthwise(ffi::ThreadPool pool, ffi::AnyBuffer a, ffi::AnyBuffer b,
                            ffi::Result<ffi::AnyBuffer> result, int64_t role, int64_t top, int64_t left,
                            int64_t stride) {
  if (result->element_count() == 0) return ffi::Error::Success();
  const auto run_typed = result->element_type() == ffi::F64 ? run<double> : run<float>;
  run_typed(pool, a, b, *result, role, top, left, stride);
  return ffi::Error::Success();
}

// The arrays of a call, in order.
template <class T>
struct Arrays {
  ffi::RemainingArgs arguments;
  ffi::RemainingRets results;
  T* in(size_t i) const { return arguments.get<ffi::AnyBuffer>(i)->typed_data<T>(); }
  T* out(size_t i) const { return (*results.get<ffi::AnyBuffer>(i))->typed_data<T>(); }
  ffi::AnyBuffer buffer(size_t i) const { return *arguments.get<ffi::AnyBuffer>(i); }
};

// Of x [..., G, M, C], where one of another array of a number per channel tells how many seeds there are.
Groups groups_of(ffi::AnyBuffer x, ffi::AnyBuffer scale) {
  const auto sizes = x.dimensions();
  const int64_t C = sizes[sizes.size() - 1], M = sizes[sizes.size() - 2], count = x.element_count() / (M * C);
  return Groups(count, count * C / scale.element_count(), M, C);
}

// (x, scale, bias, low, high) -> y, mean, var.
template <class T>
void run_norm(ffi::ThreadPool& pool, const Arrays<T>& a, double eps) {
  const Groups groups = groups_of(a.buffer(0), a.buffer(1));
  moments(pool, groups, a.in(0), a.out(1), a.out(2));
  Norm<T>(groups, a.out(1), a.out(2), a.in(1), a.in(2), a.in(3), a.in(4), eps).apply(pool, a.in(0), a.out(0));
}

// (x, scale, bias, low, high, mean, var, dy) -> dx, dscale, dbias.
template <class T>
void run_norm_gradient(ffi::ThreadPool& pool, const Arrays<T>& a, double eps) {
  const Groups groups = groups_of(a.buffer(0), a.buffer(1));
  Norm<T> norm(groups, a.in(5), a.in(6), a.in(1), a.in(2), a.in(3), a.in(4), eps);
  norm.add_gradient(pool, a.in(0), a.in(7), a.out(1), a.out(2));
  norm.gradient(pool, false, a.in(0), a.in(7), a.out(0));
}

// The geometry of a filter, and the groups of its input and of its output.
struct Filter {
  Geometry geometry;
  Groups x, y;
  Filter(ffi::AnyBuffer from, ffi::AnyBuffer kernel, ffi::AnyBuffer to, int64_t group, int64_t top, int64_t left,
         int64_t stride)
      : geometry{Shape(from), Shape(kernel), Shape(to), top, left, stride},
        x(groups(geometry.x, group)),
        y(groups(geometry.y, group)) {}
  Groups groups(Shape s, int64_t group) const {
    const int64_t image = s.H * s.W;
    return Groups(s.B / group, s.B / group / geometry.kernel.B, group * image, s.C,
                  image * s.C <= WHOLE_IMAGE ? image : s.W);
  }
};

// (x, scale, bias, kernel, outer scale, outer bias, low, high) -> z, y, mean, var, and those of y.
template <class T>
void run_filter(ffi::ThreadPool& pool, const Arrays<T>& a, double eps, int64_t group, int64_t top, int64_t left,
                int64_t stride) {
  const Filter f(a.buffer(0), a.buffer(3), **a.results.template get<ffi::AnyBuffer>(0), group, top, left, stride);
  moments(pool, f.x, a.in(0), a.out(2), a.out(3));
  const Norm<T> norm(f.x, a.out(2), a.out(3), a.in(1), a.in(2), a.in(6), a.in(7), eps);
  filter_forward(pool, f.geometry, norm, a.in(0), a.in(3), f.y, a.out(1), a.out(4), a.out(5));
  Norm<T>(f.y, a.out(4), a.out(5), a.in(4), a.in(5), a.in(6), a.in(7), eps).apply(pool, a.out(1), a.out(0));
}

// (x, scale, bias, kernel, outer scale, outer bias, low, high, y, mean, var, those of y, dz) -> the gradients to the
// first six.
template <class T>
void run_filter_gradient(ffi::ThreadPool& pool, const Arrays<T>& a, double eps, int64_t group, int64_t top,
                         int64_t left, int64_t stride) {
  const Filter f(a.buffer(0), a.buffer(3), a.buffer(8), group, top, left, stride);
  Norm<T> norm(f.x, a.in(9), a.in(10), a.in(1), a.in(2), a.in(6), a.in(7), eps);
  Norm<T> outer(f.y, a.in(11), a.in(12), a.in(4), a.in(5), a.in(6), a.in(7), eps);
  outer.add_gradient(pool, a.in(8), a.in(13), a.out(4), a.out(5));
  filter_backward(pool, f.geometry, norm, a.in(0), a.in(3), outer, a.in(8), a.in(13), a.out(0), a.out(1), a.out(2),
                  a.out(3));
}

// work(Arrays<T>) where T is the type of the arrays.
template <class Work>
ffi::Error in_type(ffi::RemainingArgs arguments, ffi::RemainingRets results, const Work& work) {
  const auto first = *arguments.get<ffi::AnyBuffer>(0);
  if (first.element_count() == 0) return ffi::Error::InvalidArgument("a norm of nothing");
  if (first.element_type() == ffi::F64) {
    work(Arrays<double>{arguments, results});
  } else {
    work(Arrays<float>{arguments, results});
  }
  return ffi::Error::Success();
}

ffi::Error handle_norm(ffi::ThreadPool pool, ffi::RemainingArgs in, ffi::RemainingRets out, double eps) {
  return in_type(in, out, [&](auto a) { run_norm(pool, a, eps); });
}

ffi::Error handle_norm_gradient(ffi::ThreadPool pool, ffi::RemainingArgs in, ffi::RemainingRets out, double eps) {
  return in_type(in, out, [&](auto a) { run_norm_gradient(pool, a, eps); });
}

ffi::Error handle_filter(ffi::ThreadPool pool, ffi::RemainingArgs in, ffi::RemainingRets out, double eps,
                         int64_t group, int64_t top, int64_t left, int64_t stride) {
  return in_type(in, out, [&](auto a) { run_filter(pool, a, eps, group, top, left, stride); });
}

ffi::Error handle_filter_gradient(ffi::ThreadPool pool, ffi::RemainingArgs in, ffi::RemainingRets out, double eps,
                                  int64_t group, int64_t top, int64_t left, int64_t stride) {
  return in_type(in, out, [&](auto a) { run_filter_gradient(pool, a, eps, group, top, left, stride); });
}

auto of_norm() {
  return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets().Attr<double>("eps");
}

auto of_filter() {
  return of_norm().Attr<int64_t>("group").Attr<int64_t>("top").Attr<int64_t>("left").Attr<int64_t>("stride");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(depthwise, handle_depthwise,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("role")
                                  .Attr<int64_t>("top")
                                  .Attr<int64_t>("left")
                                  .Attr<int64_t>("stride"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(norm, handle_norm, of_norm());
XLA_FFI_DEFINE_HANDLER_SYMBOL(norm_gradient, handle_norm_gradient, of_norm());
XLA_FFI_DEFINE_HANDLER_SYMBOL(filter, handle_filter, of_filter());
XLA_FFI_DEFINE_HANDLER_SYMBOL(filter_gradient, handle_filter_gradient, of_filter());
