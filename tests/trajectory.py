"""Training of a tiny net on any number of devices and processes; run as a script, it is one process of several."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from mnet_jax import config, sharding, step
from mnet_jax.data import dataset, load

OVERRIDES = {
    "model.name": "mobilenet_v2",
    "model.divisor": 1,
    "model.stem": (4, 2),
    "model.blocks": ((1, 4, 1, 1), (2, 4, 3, 1)),
    "model.last": 8,
    "data.train_size": 512,
    "train.batch_size": 16,
    "train.epochs": 1,
    "optim.lr": 0.05,
}


def begin(devices, seeds=(0,), dtype=np.float64, **overrides):
    """(state, advance) on a mesh of these devices; advance(state, step) -> (state, sums). float64 needs x64."""
    cfg = config.at_scale("digits")
    config.override(cfg, OVERRIDES | {key.replace("__", "."): value for key, value in overrides.items()})
    digits, batch = load.from_name("digits"), cfg.train.batch_size
    orders = [
        dataset.epoch_order(seed, 0, dataset.split(digits, seed, cfg.data.train_size).train, batch) for seed in seeds
    ]
    mesh = sharding.mesh(len(seeds), batch, devices)
    program = step.build(cfg, len(seeds), digits.mean, digits.std, len(orders[0]), mesh)

    def cast(array):
        return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array

    own = jax.sharding.NamedSharding(mesh, sharding.RUNS)
    state = program.init(sharding.put(mesh, sharding.RUNS, np.asarray(seeds, np.int32)))
    state = jax.jit(lambda state: jax.tree.map(cast, state), out_shardings=own)(state)
    knobs = jax.tree.map(
        lambda value: sharding.put(mesh, sharding.RUNS, np.full(len(seeds), value, dtype)), config.knobs(cfg)
    )
    images = tuple(sharding.put(mesh, sharding.EVERYWHERE, array) for array in (digits.images, digits.labels_N))
    order = sharding.put(mesh, sharding.BATCHES, np.stack(orders))

    def advance(state, number):
        return program.train(state, knobs, images, (order,), np.int32(number), np.int32(1))

    return state, advance


def train(devices, steps=30, **settings):
    """Losses [steps, S], and parts of the state after them."""
    state, advance = begin(devices, **settings)
    losses = []
    for number in range(steps):
        state, sums = advance(state, number)
        losses.append(np.asarray(sums["loss"]))
    parts = {name: sharding.fetch(state[name]) for name in ("params", "batch_stats", "opt")}
    return np.stack(losses), parts


if __name__ == "__main__":
    address, processes, process, per_process, overrides = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", int(per_process))
    jax.config.update("jax_enable_x64", True)
    if int(processes) > 1:
        sharding.start([address, processes, process])
    losses, _ = train(jax.devices(), **json.loads(overrides))
    print(json.dumps({"process": jax.process_index(), "losses": losses.tolist()}))
