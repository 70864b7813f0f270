"""One language of overrides, and errors that a user understands."""

import jax
import jax.numpy as jnp
import pytest
from tiny import OVERRIDES

from mnet_jax import config, experiment, optim, results, sharding, step, sweep
from mnet_jax.data import builtin
from mnet_jax.data.dataset import TRAIN_ON
from mnet_jax.errors import UserError
from mnet_jax.models import blocks, init, layers, specs, zoo
from mnet_jax.ops import formulation
from mnet_jax.tasks import classification


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"model.widht": 0.5}, "no such field 'model.widht'; did you mean 'model.width'?"),
        ({"width": 0.5}, "no such field 'width'; did you mean 'model.width'?"),
        ({"model.width": "half"}, "model.width='half' is not a number"),
        ({"model.width": 0}, "model.width=0; allowed: from 0.001 to 100"),
        ({"train.epochs": 1.5}, "train.epochs=1.5 is not a whole number"),
        ({"train.epochs": 0}, "train.epochs=0; allowed: at least 1"),
        ({"data.flip": "yes"}, "data.flip='yes' is not True or False"),
        ({"model.act": "relu7"}, "did you mean 'relu'?; allowed: 'linear', 'relu', 'relu6'"),
        ({"train.label_smoothing": 1.0}, "allowed: from 0 to 0.99"),
        ({"model.blocks": 3}, "is not a tuple"),
    ],
)
def test_bad_override_says_what_came_and_what_is_allowed(override, message):
    with pytest.raises(UserError, match="sweep row") as caught:
        config.override(config.default(), override, "sweep row")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            {"model.norm.group": 96, "train.batch_size": 100},
            "model.norm.group=96 does not divide train.batch_size=100",
        ),
        ({"model.blocks": ((1, 2),)}, "(1, 2) is not a row (t, c, n, s) of positive integers"),
        (
            {"model.name": "mobilenet_v4_conv_small", "model.blocks": (("uib", 0, 0, 2, 8, 2),)},
            "('uib', 0, 0, 2, 8, 2) has no convolution for its kernel size or stride; allowed: 'uib' with a depthwise",
        ),
        (
            {"model.name": "mobilenet_v4_conv_small", "model.blocks": (("mqa", 0, 3, 2, 8, 1),)},
            "('mqa', 0, 3, 2, 8, 1) is not a row (kind, start, middle, t, c, s) of positive integers, t also a "
            "fraction, kind of uib, fused, conv, start and middle also 0",
        ),
        (
            {"model.depth": "shallow"},
            "model.depth='shallow' means nothing to mobilenet_v2; allowed: the default 'full'",
        ),
        ({"model.stem": (8,)}, "allowed: (channels, stride)"),
        ({"tune.lrs": ()}, "tune.lrs=()"),
        ({"data.unseen_classes": 3}, "data.unseen_classes=3 with task='classification'; allowed: 0"),
        ({"data.label_noise": 0.5}, "data.label_noise=0.5 with data.noisy_size=0; allowed: 0.0"),
    ],
)
def test_impossible_combination(override, message):
    cfg = config.default()
    config.override(cfg, override)
    with pytest.raises(UserError, match="file") as caught:
        config.check(cfg, "file")
    assert message in str(caught.value)


def test_strings_of_the_command_line_become_the_types_of_the_fields():
    cfg = config.default()
    config.override(
        cfg,
        {
            "model.width": "1",
            "data.flip": "true",
            "model.stem": "(8, 1)",
            "train.epochs": "3",
            "model.act": "relu",
        },
    )
    assert (cfg.model.width, cfg.data.flip, cfg.model.stem, cfg.train.epochs) == (1.0, True, (8, 1), 3)
    assert type(cfg.model.width) is float


@pytest.mark.parametrize("scale", config.SCALES)
def test_every_scale_is_possible_and_survives_json(scale):
    cfg = config.at_scale(scale)
    config.check(cfg)
    assert config.flatten(config.unflatten(config.flatten(cfg))) == config.flatten(cfg)


def test_unknown_scale_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'cifar10_quick'") as caught:
        config.at_scale("cifar10_quik")
    assert "digits" in str(caught.value)


def test_misspelt_field_in_an_experiment_file_names_the_nearest(tmp_path):
    path = tmp_path / "typo.py"
    path.write_text(
        "from mnet_jax import config\n"
        "def get_config(scale):\n    cfg = config.at_scale(scale)\n    cfg.model.widht = 0.5\n    return cfg\n"
    )
    with pytest.raises(UserError, match=r"typo:digits: no such field 'widht'; did you mean 'model.width'\?"):
        sweep.plan(experiment.load(path), "digits", {}, "train", "")


@pytest.mark.parametrize(
    ("field", "served"),
    [
        ("model.name", {**specs.NETWORKS, **zoo.NETWORKS}),
        ("model.act", layers.ACTIVATIONS),
        ("model.project_act", specs.ACTIVATIONS),
        ("spiral.act", specs.ACTIVATIONS),
        ("model.init", init.INITS),
        ("data.train_on", TRAIN_ON),
        ("model.formulation", formulation.FORMULATIONS),
        ("optim.name", optim.OPTIMIZERS),
        ("optim.schedule", optim.SCHEDULES),
    ],
)
def test_allowed_values_are_those_that_are_served(field, served):
    allowed = config.FIELDS[field].allowed
    assert allowed is not None
    assert set(allowed) == set(served)


def test_every_family_of_specs_has_a_block():
    assert {spec.family for spec in specs.NETWORKS.values()} == set(blocks.BLOCKS)


def test_default_holds_the_papers_recipe():
    cfg = config.default()
    assert cfg.train.batch_size == 16 * 96
    assert (cfg.optim.name, cfg.optim.lr, cfg.optim.momentum, cfg.optim.decay) == ("rmsprop", 0.045, 0.9, 0.9)
    assert (cfg.optim.decay_rate, cfg.optim.weight_decay, cfg.optim.decay_depthwise) == (0.98, 4e-5, False)


def test_traced_fields_do_not_change_the_program():
    base = config.flatten(config.at_scale("digits"))

    def program(**overrides):
        return sweep.program(base, results.Arm("arm", overrides, 0.1), {}, {})

    traced = {"model.project_act": "relu6", "optim.lr": 0.1, "optim.weight_decay": 0.0}
    assert program(**traced) == program()
    assert program(**traced | {"model.kernel_size": 5}) != program()


def test_the_step_cannot_read_a_traced_field(monkeypatch):
    """A static field marked as traced in the table stops the step, or its arms would all be trained with one value."""
    digits = builtin.digits()
    cfg = config.at_scale("digits")
    config.override(cfg, OVERRIDES)
    mesh = sharding.mesh(1, cfg.train.batch_size, jax.devices()[:1])

    def shapes_of_a_step():
        program = step.build(classification.TASK, cfg, 1, digits.mean, digits.std, 1, mesh)
        state = jax.eval_shape(program.init, jax.ShapeDtypeStruct((1,), jnp.int32))
        traced = jax.tree.map(lambda _: jax.ShapeDtypeStruct((1,), jnp.float32), config.traced_values(cfg))
        dataset = jax.eval_shape(lambda: (digits.in_memory(), dict(digits.targets)))
        batches = {"index": jax.ShapeDtypeStruct((1, 1, cfg.train.batch_size), jnp.int32)}
        count = jax.ShapeDtypeStruct((), jnp.int32)
        return jax.eval_shape(program.train, state, traced, (), dataset, batches, count, count)

    shapes_of_a_step()
    field = config.FIELDS["train.label_smoothing"]
    monkeypatch.setitem(config.FIELDS, "train.label_smoothing", field._replace(traced=True))
    with pytest.raises(AttributeError, match="label_smoothing"):
        shapes_of_a_step()
