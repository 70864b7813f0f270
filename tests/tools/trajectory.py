"""Training of a tiny net on any number of devices and processes; run as a script, it is one process of several."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from mnet_jax import config, sharding, step
from mnet_jax.data import load
from mnet_jax.data.dataset import epoch_order, split
from mnet_jax.tasks import classification

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


def put_traced(mesh, cfg, runs, dtype=np.float32):
    """The traced fields of a config as `step.Program` takes them, the same for all runs."""
    return jax.tree.map(
        lambda value: sharding.put(mesh, sharding.RUNS, np.full(runs, value, dtype)), config.traced_values(cfg)
    )


def begin(devices, seeds=(0,), dtype=np.float64, **overrides):
    """(state, advance) on a mesh of these devices; advance(state, step) -> (state, sums). float64 needs x64."""
    cfg = config.at_scale("digits")
    config.override(cfg, OVERRIDES | {key.replace("__", "."): value for key, value in overrides.items()})
    digits, batch = load.from_config(cfg.data), cfg.train.batch_size
    orders = [epoch_order(seed, 0, split(digits, seed, cfg.data.train_size).train, batch) for seed in seeds]
    mesh = sharding.mesh(len(seeds), batch, devices)
    program = step.build(classification.TASK, cfg, len(seeds), digits.mean, digits.std, len(orders[0]), mesh)

    def cast(array):
        return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array

    by_run = jax.sharding.NamedSharding(mesh, sharding.RUNS)
    state = program.init(sharding.put(mesh, sharding.RUNS, np.asarray(seeds, np.int32)))
    state = jax.jit(lambda state: jax.tree.map(cast, state), out_shardings=by_run)(state)
    traced = put_traced(mesh, cfg, len(seeds), dtype)
    arrays = digits.in_memory(), dict(digits.targets)
    dataset = jax.tree.map(lambda array: sharding.put(mesh, sharding.EVERYWHERE, array), arrays)
    batches = {"index": sharding.put(mesh, sharding.BATCHES, np.stack(orders))}

    def advance(state, number):
        return program.train(state, traced, (), dataset, batches, np.int32(number), np.int32(1))

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
        sharding.init_distributed([address, processes, process])
    losses, _ = train(jax.devices(), **json.loads(overrides))
    print(json.dumps({"process": jax.process_index(), "losses": losses.tolist()}))
