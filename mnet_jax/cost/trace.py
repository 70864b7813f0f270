"""Traces a network so that the equations of its jaxpr carry the path of the module that they belong to."""

import functools
import inspect
from typing import Any

import jax
from flax import nnx

from mnet_jax.models.specs import LayerConfig


def name_scopes(network: nnx.Module) -> dict[str, nnx.Module]:
    """Makes every module trace its methods in a `jax.named_scope` of its path; returns the modules by path.

    Layers of this package are set to compute `lax` convolutions. Changes `network`, which should be a copy.
    """
    modules: dict[Any, Any] = {path: node for path, node in nnx.iter_graph(network) if isinstance(node, nnx.Module)}
    scopes = {}
    for path, module in modules.items():
        if isinstance(getattr(module, "config", None), LayerConfig):
            module.config = module.config._replace(formulation="lax")
        if path:
            scopes[".".join(map(str, path))] = module
            module.__class__ = _scoped(type(module))
            module._scope = ".".join(map(str, path))
    return scopes


@functools.cache
def _scoped(module: type[nnx.Module]) -> type[nnx.Module]:
    def traced(method):
        @functools.wraps(method)
        def call(self, *args, **kwargs):
            with jax.named_scope(self._scope):
                return method(self, *args, **kwargs)

        return call

    names = {"__call__"} | {name for name in dir(module) if not name.startswith("_")} - set(dir(nnx.Module))
    methods = {name: inspect.getattr_static(module, name, None) for name in names}
    return type(module)(
        module.__name__,
        (module,),
        {name: traced(method) for name, method in methods.items() if inspect.isfunction(method)},
    )
