"""The layers that every network is made of: convolution, norm and activation; dense; squeeze-and-excite; pooling."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from mnet_jax.errors import UserError
from mnet_jax.models import specs
from mnet_jax.models.init import INITS, filled, kernel
from mnet_jax.models.specs import LayerConfig
from mnet_jax.ops import accumulator, depthwise, norm, pointwise
from mnet_jax.ops.depthwise import Padding, output_size, pads
from mnet_jax.ops.formulation import kernels
from mnet_jax.ops.norm_depthwise_norm import Affine, norm_depthwise_norm

Bounds = tuple[float | jax.Array, float | jax.Array]
"""(low, high) of the clip that is the activation, as in `specs.ACTIVATIONS`; numbers or traced scalars."""

Activation = Bounds | Callable[[jax.Array], jax.Array]

LINEAR, RELU = specs.ACTIVATIONS["linear"], specs.ACTIVATIONS["relu"]


def hard_sigmoid(x: jax.Array) -> jax.Array:
    """ReLU6(x + 3) / 6 (Howard et al. 2019, section 5.2)."""
    return jnp.clip(x + 3, 0, 6) * (1 / 6)


def hard_swish(x: jax.Array) -> jax.Array:
    """x ReLU6(x + 3) / 6 (Howard et al. 2019, section 5.2)."""
    return x * hard_sigmoid(x)


def silu(x: jax.Array) -> jax.Array:
    """x sigmoid(x), also called swish (Elfwing et al. 2018; Ramachandran et al. 2017)."""
    return x * jax.nn.sigmoid(x)


def gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution function of x, not its tanh approximation (Hendrycks and Gimpel 2016)."""
    return jax.nn.gelu(x, approximate=False)


ACTIVATIONS: Mapping[str, Activation] = {**specs.ACTIVATIONS, "hard_swish": hard_swish, "silu": silu, "gelu": gelu}
"""name -> clip or function, for every name in `specs.ACTIVATION_NAMES`."""


def pad_widths(hw: tuple[int, ...], size: tuple[int, ...], stride: int, padding: str) -> Padding:
    """Explicit padding of an (H, W) input.

    `padding`: "same" (TensorFlow's), "symmetric" (PyTorch's), "valid" (none), or "ceil" (Caffe's pooling: just enough
    after the end that no pixel is left out).
    """
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "ceil":
        rows, columns = ((0, (k - n) % stride) for n, k in zip(hw, size, strict=True))
        return rows, columns
    return pads(hw, size[0], stride, padding)[0], pads(hw, size[1], stride, padding)[1]


def cast(x: jax.Array, config: LayerConfig) -> jax.Array:
    """The array in the type that convolutions compute in; "float32" leaves it as it is, also float64."""
    return x if config.dtype == "float32" else x.astype(config.dtype)


class Conv(nnx.Module):
    """Convolution, bias (where `bias`), activation.

    `kind` is "dense" (kernel RxSxI/GxO), "pointwise" (IxO) or "depthwise" (KxKxC); `size` a number or (rows, columns);
    `groups` (dense only) cut input and output channels alike (Krizhevsky et al. 2012): UserError where they do not
    divide both. `padding` is as for `pad_widths`, None = the config's. The elements of a kernel meet pixels `dilation`
    apart (not with `groups`).
    """

    def __init__(
        self,
        config: LayerConfig,
        kind: str,
        inputs: int,
        outputs: int,
        size: int | tuple[int, int] = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        dilation: int = 1,
        padding: str | None = None,
        bias: bool = True,
    ):
        if inputs % groups or outputs % groups:
            raise UserError(f"{groups} groups do not divide {inputs} input and {outputs} output channels")
        rows, columns = (size, size) if isinstance(size, int) else size
        shape, fan_in = {
            "dense": ((rows, columns, inputs // groups, outputs), rows * columns * inputs // groups),
            "pointwise": ((inputs, outputs), inputs),
            "depthwise": ((rows, columns, outputs), rows * columns),
        }[kind]
        assert groups == 1 or dilation == 1, (groups, dilation)
        self.config, self.kind, self.stride, self.groups, self.dilation = config, kind, stride, groups, dilation
        self.padding = config.padding if padding is None else padding
        self.kernel = kernel(shape, INITS[config.init].std(fan_in))
        if bias:
            self.bias = nnx.Param(filled((outputs,), 0.0))

    def pad_widths(self, x_BHWC: jax.Array) -> Padding:
        """Explicit padding of the input by the layer's settings."""
        reach = tuple((length - 1) * self.dilation + 1 for length in self.kernel.shape[:2])
        return pad_widths(x_BHWC.shape[1:3], reach, self.stride, self.padding)

    def convolve(self, x_BHWC: jax.Array, kernel: jax.Array) -> jax.Array:
        """The convolution alone, with a kernel of the shape of the layer's."""
        x_BHWC, kernel = cast(x_BHWC, self.config), cast(kernel, self.config)
        formulation = self.config.formulation
        if self.kind == "pointwise":
            return pointwise.pointwise(x_BHWC, kernel, formulation)
        pad = self.pad_widths(x_BHWC)
        if self.kind == "depthwise":
            return depthwise.depthwise(x_BHWC, kernel, self.stride, pad, formulation, self.dilation)
        if self.groups == 1:
            return pointwise.dense_conv(x_BHWC, kernel, self.stride, pad, formulation, self.dilation)
        output_size(x_BHWC.shape[1:3], kernel.shape[:2], self.stride, pad)
        return lax.conv_general_dilated(
            x_BHWC,
            kernel,
            (self.stride, self.stride),
            pad,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )

    def __call__(self, x_BHWC: jax.Array, act: Activation) -> jax.Array:
        """Returns y_BHWC after `act`."""
        y_BHWC = self.convolve(x_BHWC, self.kernel[...])
        if hasattr(self, "bias"):
            y_BHWC = y_BHWC + cast(self.bias[...], self.config)[None, None, None]
        return activate(y_BHWC, act)


class FakeQuant(nnx.Module):
    """Rounds feature maps to the integers of `bits` bits and back (Jacob et al. 2018, section 3.2, equation 12).

    The integers are equally spaced over a range that is widened to contain 0, and 0 is one of them. An end of the range
    is the activation's bound where that is finite, such as both of ReLU6's; otherwise it is the smallest or largest
    value of the batch in training, and in evaluation the running average of these, which decays as the norm's averages
    do. The gradient is passed on unchanged (straight-through estimator).
    """

    def __init__(self, config: LayerConfig):
        self.levels, self.momentum, self.use_running_average = 2**config.act_bits - 1, config.norm_momentum, False
        self.low, self.high = (nnx.BatchStat(filled((), 0.0)) for _ in range(2))

    def __call__(self, x_BHWC: jax.Array, bounds: Bounds) -> jax.Array:
        """Returns q_BHWC; `bounds` are (low, high) of the activation that computed x_BHWC, infinite if it has none."""
        exact_BHWC = lax.stop_gradient(x_BHWC).astype(jnp.float32)
        ends = []
        for average, reduce, bound in zip((self.low, self.high), (jnp.min, jnp.max), bounds, strict=True):
            end = average[...]
            if not self.use_running_average:
                end = reduce(exact_BHWC)
                average.set_value(self.momentum * average[...] + (1 - self.momentum) * end)
            ends.append(jnp.where(jnp.isfinite(bound), bound, end))
        low, high = jnp.minimum(ends[0], 0.0), jnp.maximum(ends[1], 0.0)
        step = jnp.maximum((high - low) / self.levels, jnp.finfo(jnp.float32).tiny)
        zero = jnp.round(-low / step)
        level_BHWC = jnp.clip(jnp.round(exact_BHWC / step) + zero, 0, self.levels)
        q_BHWC = ((level_BHWC - zero) * step).astype(x_BHWC.dtype)
        return q_BHWC + (x_BHWC - lax.stop_gradient(x_BHWC))


class ConvNorm(Conv):
    """Convolution without bias, batch norm, activation; `kind` and the rest as for `Conv`.

    With `config.act_bits` the output is rounded to that many bits (`FakeQuant`); sums at shortcuts stay exact. The
    module has Flax's switch `use_running_average` (`model.train()`, `model.eval()`); in training mode a call updates
    the running averages `mean` and `var`; the latter is of the biased variance, as Keras's, where PyTorch's and
    TensorFlow's fused norm have n / (n - 1) times it. With `learn_scale=False` the norm has no scale (Inception V3).
    """

    def __init__(
        self, config: LayerConfig, kind: str, inputs: int, outputs: int, *args, learn_scale: bool = True, **kwargs
    ):
        super().__init__(config, kind, inputs, outputs, *args, **kwargs)
        self.use_running_average = False
        if learn_scale:
            self.scale = nnx.Param(filled((outputs,), 1.0))
        self.mean = nnx.BatchStat(filled((outputs,), 0.0))
        self.var = nnx.BatchStat(filled((outputs,), 1.0))
        if config.act_bits:
            self.quantize = FakeQuant(config)

    def __call__(self, x_BHWC: jax.Array, act: Activation) -> jax.Array:
        """Returns y_BHWC after `act`."""
        config = self.config
        low, high = LINEAR if callable(act) else act
        if self.use_running_average:
            kernel, gain_C, shift_C = self.folded()
            y_BHWC = norm.affine_act(self.convolve(x_BHWC, kernel), gain_C, shift_C, low, high)
        else:
            y_BHWC, mean, var = norm.batch_norm_act(
                self.convolve(x_BHWC, self.kernel[...]),
                *self._scale_and_bias(),
                low,
                high,
                config.norm_eps,
                config.norm_group,
                config.formulation,
            )
            self._average(mean, var)
        y_BHWC = act(y_BHWC) if callable(act) else y_BHWC
        return self.quantize(y_BHWC, (low, high)) if hasattr(self, "quantize") else y_BHWC

    def fused_with_depthwise(
        self, depthwise: "ConvNorm", x_BHWC: jax.Array, act: Activation
    ) -> tuple[jax.Array, jax.Array]:
        """Calls this layer, then `depthwise` on its output: (y_BHWC, z_BHWC), both after `act`.

        If both layers are in training mode, on a CPU, one compiled operation takes the convolution's output through
        this layer's norm, the depthwise convolution and its norm, so that y_BHWC is never written to memory. The y_BHWC
        that is returned comes from a plain norm of the same convolution, which XLA removes as dead code from a program
        that does not use it: a compiled training step, which uses z_BHWC only, computes nothing twice.
        """
        config = self.config
        x_BHWC = cast(x_BHWC, config)
        if (
            self.use_running_average
            or depthwise.use_running_average
            or callable(act)
            or config.act_bits
            or depthwise.kind != "depthwise"
            or kernels(config.formulation, x_BHWC.dtype).norm != "native"
        ):
            y_BHWC = self(x_BHWC, act)
            return y_BHWC, depthwise(y_BHWC, act)
        x_BHWC, eps, group = self.convolve(x_BHWC, self.kernel[...]), config.norm_eps, config.norm_group
        y_BHWC, _, _ = norm.batch_norm_act(x_BHWC, *self._scale_and_bias(), *act, eps, group, config.formulation)
        kernel = depthwise.kernel[...]
        inner, outer = (Affine(*layer._scale_and_bias()) for layer in (self, depthwise))
        geometry = depthwise.stride, depthwise.pad_widths(x_BHWC), depthwise.dilation
        z_BHWC, *moments = norm_depthwise_norm(x_BHWC, inner, kernel, outer, *act, eps, group, *geometry)
        for layer, (mean, var) in zip((self, depthwise), moments, strict=True):
            layer._average(mean, var)
        return y_BHWC, z_BHWC

    def _average(self, mean: jax.Array, var: jax.Array) -> None:
        momentum = self.config.norm_momentum
        self.mean.set_value(momentum * self.mean[...] + (1 - momentum) * mean)
        self.var.set_value(momentum * self.var[...] + (1 - momentum) * var)

    def folded(self) -> tuple[jax.Array, jax.Array | None, jax.Array]:
        """(kernel, gain_C, shift_C) of an evaluation: convolve with `kernel`, multiply by `gain_C`, add `shift_C`.

        The gain is part of the kernel, and `gain_C` None, except for the formulation "lax", which keeps the arithmetic
        as the papers write it.
        """
        kernel = self.kernel[...]
        gain_C, shift_C = norm.affine(*self._scale_and_bias(), self.mean[...], self.var[...], self.config.norm_eps)
        if kernels(self.config.formulation, kernel.dtype).norm == "lax":
            return kernel, gain_C, shift_C
        gain = gain_C.reshape((1,) * (kernel.ndim - 1) + (-1,))  # output channels are the last axis of every kind
        return (kernel.astype(gain.dtype) * gain).astype(kernel.dtype), None, shift_C

    def _scale_and_bias(self) -> tuple[jax.Array, jax.Array]:
        bias_C = self.bias[...]
        return self.scale[...] if hasattr(self, "scale") else jnp.ones_like(bias_C), bias_C


class Dense(nnx.Module):
    """A dense layer with bias, computed in its kernel's type.

    `std` of the initial kernel is by default that of the released code's last layer.
    """

    def __init__(self, inputs: int, outputs: int, std: float = 0.09):
        self.kernel = kernel((inputs, outputs), std)
        self.bias = nnx.Param(filled((outputs,), 0.0))

    def __call__(self, x_BC: jax.Array, act: Activation = LINEAR) -> jax.Array:
        """Returns y_BC after `act`; UserError where the input has another number of channels."""
        if x_BC.shape[1] != self.kernel.shape[0]:
            raise UserError(
                f"the dense layer takes {self.kernel.shape[0]} features, these images make {x_BC.shape[1]}; "
                "allowed: the resolution that the network was built for"
            )
        kernel_IO = self.kernel[...]
        return activate(x_BC.astype(kernel_IO.dtype) @ kernel_IO + self.bias[...][None], act)


class SqueezeExcite(nnx.Module):
    """Multiplies each channel by a gate computed from the means of all (Hu et al. 2018, section 3)."""

    def __init__(self, config: LayerConfig, channels: int, squeezed: int, gate: Callable[[jax.Array], jax.Array]):
        std = INITS[config.init].std
        self.gate = gate
        self.squeeze = Dense(channels, squeezed, std(channels))
        self.excite = Dense(squeezed, channels, std(squeezed))

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        """Returns x_BHWC, gated."""
        s_BC = self.squeeze(global_mean(x_BHWC), RELU)
        return x_BHWC * self.excite(s_BC, self.gate)[:, None, None].astype(x_BHWC.dtype)


def activate(x: jax.Array, act: Activation) -> jax.Array:
    """Applies `act`, a clip or a function."""
    if callable(act):
        return act(x)
    return x if act == LINEAR else jnp.clip(x, *act)


def global_mean(x_BHWC: jax.Array) -> jax.Array:
    """Mean over height and width: x_BC, in the accumulator's type of x_BHWC (float32 for 16-bit floats)."""
    return jnp.mean(x_BHWC, axis=(1, 2), dtype=accumulator(x_BHWC.dtype))


def max_pool(x_BHWC: jax.Array, size: int, stride: int, padding: str) -> jax.Array:
    """Maximum over windows; `padding` is as for `pad_widths`."""
    return _pool(x_BHWC, size, stride, padding, -jnp.inf, lax.max)[0]


def average_pool(x_BHWC: jax.Array, size: int, stride: int, padding: str) -> jax.Array:
    """Mean over the pixels of each window that lie in the image; `padding` is as for `pad_widths`."""
    total_BHWC, pad = _pool(x_BHWC, size, stride, padding, 0.0, lax.add)
    rows, columns = (
        np.convolve(np.pad(np.ones(n), around), np.ones(size), "valid")[::stride]
        for n, around in zip(x_BHWC.shape[1:3], pad, strict=True)
    )
    return total_BHWC * jnp.asarray(1 / np.outer(rows, columns)[None, ..., None], x_BHWC.dtype)


def _pool(x_BHWC, size, stride, padding, start, reduce):
    window = (size, size)
    pad = pad_widths(x_BHWC.shape[1:3], window, stride, padding)
    output_size(x_BHWC.shape[1:3], window, stride, pad)
    around, start = ((0, 0), *pad, (0, 0)), np.asarray(start, x_BHWC.dtype)
    return lax.reduce_window(x_BHWC, start, reduce, (1, *window, 1), (1, stride, stride, 1), around), pad


def local_response_norm(x_BHWC: jax.Array) -> jax.Array:
    """x / (2 + 1e-4 sum of squares over 5 neighboring channels)^0.75 (Krizhevsky et al. 2012, section 3.3)."""
    zero = np.asarray(0.0, x_BHWC.dtype)
    around = ((0, 0), (0, 0), (0, 0), (2, 2))
    sums_BHWC = lax.reduce_window(jnp.square(x_BHWC), zero, lax.add, (1, 1, 1, 5), (1, 1, 1, 1), around)
    return x_BHWC * (2 + 1e-4 * sums_BHWC) ** -0.75
