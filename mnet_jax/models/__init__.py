"""Networks from frozen spec rows: `build(cfg.model, rngs)` makes any of them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flax import nnx

    from mnet_jax.models.mobilenet import MobileNet


def build(model: Any, rngs: "nnx.Rngs") -> "MobileNet":
    """Builds the network of `cfg.model`; ValueError where its knobs do not go together."""
    from mnet_jax.models import init, mobilenet, specs  # specs need no jax, and --help should be quick

    network = mobilenet.MobileNet(specs.network(model))
    init.initialize(network, rngs.params(), model.init)
    return network
