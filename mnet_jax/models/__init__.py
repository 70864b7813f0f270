"""Networks from frozen spec rows, or files of the zoo: `build(cfg.model, rngs)` makes any of them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flax import nnx


def structure(model: Any, **sizes: int) -> Any:
    """The module of `cfg.model` with kernels of zeros; `sizes` are those of its constructor (VGG-16's `side`)."""
    from mnet_jax.models import mobilenet, specs, zoo  # specs need no jax, and --help should be quick

    if model.name in specs.ZOO:
        return zoo.NETWORKS[model.name](specs.zoo_network(model), **sizes)
    return mobilenet.MobileNet(specs.network(model), **sizes)


def build(model: Any, rngs: "nnx.Rngs") -> Any:
    """Builds the network of `cfg.model`, a Flax NNX module; ValueError where its knobs do not go together.

    Every network is called with (images_BHWC, knobs=None, rngs=None) and returns (logits_BK, endpoints by name).
    """
    from mnet_jax.models import init

    network = structure(model)
    init.initialize(network, rngs.params(), model.init)
    return network
