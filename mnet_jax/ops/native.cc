// The XLA FFI handlers that native.py builds and registers, for float32 and float64.
// Images are NHWC, kernels HWC; the axes that vmap adds come first, in all arrays.

#include <array>
#include <utility>

#include "depthwise.h"
#include "norm.h"
#include "norm_depthwise_norm.h"

namespace {

template <class T>
struct Array {
  ffi::AnyBuffer buffer;
  operator T*() const { return buffer.typed_data<T>(); }
};

// The arguments and the results of a call. Each function below begins with their names, in Python's order.
template <class T>
struct Call {
  ffi::RemainingArgs args;
  ffi::RemainingRets rets;

  template <size_t N>
  auto arguments() const {
    return unpack<N>([&](size_t i) { return Array<T>{*args.get<ffi::AnyBuffer>(i)}; });
  }
  template <size_t N>
  auto results() const {
    return unpack<N>([&](size_t i) { return Array<T>{**rets.get<ffi::AnyBuffer>(i)}; });
  }

 private:
  template <size_t N, class Get>
  static std::array<Array<T>, N> unpack(const Get& get) {
    return unpack(get, std::make_index_sequence<N>());
  }
  template <class Get, size_t... I>
  static std::array<Array<T>, sizeof...(I)> unpack(const Get& get, std::index_sequence<I...>) {
    return {get(I)...};
  }
};

enum Wrt { X, KERNEL, Y };  // as in bilinear.py

// `wrt` says which of x, kernel and y is computed; a and b are the other two, in this order.
template <class T>
void run_depthwise(ffi::ThreadPool& pool, const Call<T>& call, int64_t wrt, int64_t top, int64_t left,
                   int64_t stride, int64_t dilation) {
  const auto [a, b] = call.template arguments<2>();
  const auto [result] = call.template results<1>();
  const Shape A(a.buffer), B(b.buffer), R(result.buffer);
  switch (wrt) {
    case X: return convolution<T>(pool, {R, A, B, top, left, stride, dilation}, b, a, result, true);
    case KERNEL: return kernel_gradient<T>(pool, {A, R, B, top, left, stride, dilation}, a, b, result);
    default: return convolution<T>(pool, {A, B, R, top, left, stride, dilation}, a, b, result, false);
  }
}

// The groups of x [seeds..., G, M, C]; `scale` [seeds..., C] gives the number of seeds.
Groups groups_of(ffi::AnyBuffer x, ffi::AnyBuffer scale) {
  const auto sizes = x.dimensions();
  const int64_t C = sizes[sizes.size() - 1], M = sizes[sizes.size() - 2], count = x.element_count() / (M * C);
  return Groups(count, count * C / scale.element_count(), M, C);
}

template <class T>
void run_norm(ffi::ThreadPool& pool, const Call<T>& call, double eps) {
  const auto [x, scale, bias, low, high] = call.template arguments<5>();
  const auto [y, mean, var] = call.template results<3>();
  const Groups groups = groups_of(x.buffer, scale.buffer);
  moments<T>(pool, groups, x, mean, var);
  NormLayer<T>(groups, mean, var, scale, bias, low, high, eps).apply(pool, x, y);
}

template <class T>
void run_norm_gradient(ffi::ThreadPool& pool, const Call<T>& call, double eps) {
  const auto [x, scale, bias, low, high, mean, var, dy] = call.template arguments<8>();
  const auto [dx, dscale, dbias] = call.template results<3>();
  const Groups groups = groups_of(x.buffer, scale.buffer);
  NormLayer<T> norm(groups, mean, var, scale, bias, low, high, eps);
  norm.add_gradient(pool, x, dy, dscale, dbias);
  norm.gradient(pool, false, x, dy, dx);
}

// The groups of `group` images each.
Groups groups_of_images(Shape images, int64_t seeds, int64_t group) {
  const int64_t image = images.H * images.W, count = images.B / group;
  const int64_t multiple = image * images.C <= MAX_WHOLE_IMAGE ? image : images.W;
  return Groups(count, count / seeds, group * image, images.C, multiple);
}

template <class T>
void run_norm_depthwise_norm(ffi::ThreadPool& pool, const Call<T>& call, double eps, int64_t group,
                             int64_t top, int64_t left, int64_t stride, int64_t dilation) {
  const auto [x, scale, bias, kernel, outer_scale, outer_bias, low, high] = call.template arguments<8>();
  const auto [z, y, mean, var, outer_mean, outer_var] = call.template results<6>();
  const Geometry g{Shape(x.buffer), Shape(kernel.buffer), Shape(y.buffer), top, left, stride, dilation};
  const Groups groups = groups_of_images(g.x, g.kernel.B, group);
  const Groups outer_groups = groups_of_images(g.y, g.kernel.B, group);
  moments<T>(pool, groups, x, mean, var);
  const NormLayer<T> norm(groups, mean, var, scale, bias, low, high, eps);
  norm_depthwise<T>(pool, g, norm, x, kernel, outer_groups, y, outer_mean, outer_var);
  const NormLayer<T> outer(outer_groups, outer_mean, outer_var, outer_scale, outer_bias, low, high, eps);
  outer.apply(pool, y, z);
}

template <class T>
void run_norm_depthwise_norm_gradient(ffi::ThreadPool& pool, const Call<T>& call, double eps, int64_t group,
                                      int64_t top, int64_t left, int64_t stride, int64_t dilation) {
  const auto [x, scale, bias, kernel, outer_scale, outer_bias, low, high, y, mean, var, outer_mean, outer_var,
              dz] = call.template arguments<14>();
  const auto [dx, dscale, dbias, dkernel, douter_scale, douter_bias] = call.template results<6>();
  const Geometry g{Shape(x.buffer), Shape(kernel.buffer), Shape(y.buffer), top, left, stride, dilation};
  const Groups groups = groups_of_images(g.x, g.kernel.B, group);
  const Groups outer_groups = groups_of_images(g.y, g.kernel.B, group);
  NormLayer<T> norm(groups, mean, var, scale, bias, low, high, eps);
  NormLayer<T> outer(outer_groups, outer_mean, outer_var, outer_scale, outer_bias, low, high, eps);
  outer.add_gradient(pool, y, dz, douter_scale, douter_bias);
  norm_depthwise_gradient<T>(pool, g, norm, x, kernel, outer, y, dz, dx, dscale, dbias, dkernel);
}

// Calls run(Call<T>), where T is the type of the arrays.
template <class Run>
ffi::Error with_type(ffi::RemainingArgs args, ffi::RemainingRets rets, const Run& run) {
  if ((*args.get<ffi::AnyBuffer>(0)).element_type() == ffi::F64) {
    run(Call<double>{args, rets});
  } else {
    run(Call<float>{args, rets});
  }
  return ffi::Error::Success();
}

ffi::Error handle_depthwise(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets,
                            int64_t wrt, int64_t top, int64_t left, int64_t stride, int64_t dilation) {
  if ((**rets.get<ffi::AnyBuffer>(0)).element_count() == 0) return ffi::Error::Success();
  return with_type(args, rets, [&](auto call) {
    run_depthwise(pool, call, wrt, top, left, stride, dilation);
  });
}

// The same for operations that begin with a norm: an empty array has no statistics.
template <class Run>
ffi::Error with_norm(ffi::RemainingArgs args, ffi::RemainingRets rets, const Run& run) {
  if ((*args.get<ffi::AnyBuffer>(0)).element_count() == 0)
    return ffi::Error::InvalidArgument("a norm of an empty array");
  return with_type(args, rets, run);
}

ffi::Error handle_norm(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, double eps) {
  return with_norm(args, rets, [&](auto call) { run_norm(pool, call, eps); });
}

ffi::Error handle_norm_gradient(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets,
                                double eps) {
  return with_norm(args, rets, [&](auto call) { run_norm_gradient(pool, call, eps); });
}

ffi::Error handle_norm_depthwise_norm(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets,
                                      double eps, int64_t group, int64_t top, int64_t left, int64_t stride,
                                      int64_t dilation) {
  return with_norm(args, rets, [&](auto call) {
    run_norm_depthwise_norm(pool, call, eps, group, top, left, stride, dilation);
  });
}

ffi::Error handle_norm_depthwise_norm_gradient(ffi::ThreadPool pool, ffi::RemainingArgs args,
                                               ffi::RemainingRets rets, double eps, int64_t group,
                                               int64_t top, int64_t left, int64_t stride, int64_t dilation) {
  return with_norm(args, rets, [&](auto call) {
    run_norm_depthwise_norm_gradient(pool, call, eps, group, top, left, stride, dilation);
  });
}

auto arrays() { return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets(); }

template <class Binding>
auto with_geometry(Binding&& binding) {
  return std::move(binding)
      .template Attr<int64_t>("top")
      .template Attr<int64_t>("left")
      .template Attr<int64_t>("stride")
      .template Attr<int64_t>("dilation");
}

auto norm_binding() { return arrays().Attr<double>("eps"); }
auto depthwise_binding() { return with_geometry(arrays().Attr<int64_t>("wrt")); }
auto norm_depthwise_norm_binding() { return with_geometry(norm_binding().Attr<int64_t>("group")); }

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(depthwise, handle_depthwise, depthwise_binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(norm, handle_norm, norm_binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(norm_gradient, handle_norm_gradient, norm_binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(norm_depthwise_norm, handle_norm_depthwise_norm, norm_depthwise_norm_binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(norm_depthwise_norm_gradient, handle_norm_depthwise_norm_gradient,
                              norm_depthwise_norm_binding());
