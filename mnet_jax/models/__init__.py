"""Networks from frozen spec rows, or files of the zoo: `build(cfg.model, rngs)` makes any of them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mnet_jax.errors import UserError

if TYPE_CHECKING:
    from flax import nnx


def structure(model: Any, blocks: Mapping[str, Any] | None = None, until: str = "", **sizes: int) -> Any:
    """The module of `cfg.model` with kernels of zeros, ready for weights that are loaded.

    Args:
      model: `cfg.model`.
      blocks: name -> class, those that `model.block` may name, for V1 and V2; with the constructor and the call that
        `models.blocks` describes.
      until: the name of a block's output, or "head": the network ends there, without what follows; "" = whole. Not for
        the zoo.
      sizes: further arguments of a constructor of the zoo (VGG-16's `side`).

    Raises:
      UserError: fields of `model` do not fit together, or `model.block` is not in `blocks`.
    """
    from mnet_jax.models import mobilenet, specs, zoo  # specs need no jax, and --help should be quick

    if model.name in specs.ZOO:
        if until:
            raise UserError(f"model.name={model.name!r} without its classifier; allowed: {', '.join(specs.NETWORKS)}")
        return zoo.NETWORKS[model.name](specs.zoo_network(model), **sizes)
    return mobilenet.MobileNet(specs.network(model), blocks, until)


def build(model: Any, rngs: "nnx.Rngs", blocks: Mapping[str, Any] | None = None, until: str = "") -> Any:
    """Builds the network of `cfg.model`, a Flax NNX module, and draws its kernels with `rngs.params()`.

    Every network is called with (images_BHWC, knobs=None, rngs=None) and returns (logits_BK, endpoints by name); with
    `until`, as for `structure`, that feature map in place of the logits. `blocks` are the classes that `model.block`
    may name; the kernels that a class of yours has in the layers of `models.layers` are drawn as well, and other
    parameters stay as their constructor sets them.

    Raises:
      UserError: as `structure`.
    """
    from mnet_jax.models import init

    network = structure(model, blocks, until)
    init.initialize(network, rngs.params(), model.init)
    return network


def load(path: Any, formulation: str = "", file: Any = "") -> Any:
    """The trained network of a weights file, ready to use; see `mnet_jax.trained.load`."""
    from mnet_jax import trained  # the one arrow upwards: a trained network also knows its task and its data

    return trained.load(path, formulation, file)
