"""What an experiment file brings is what is trained: its network, blocks, optimizer, metrics, data and fields."""

import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from tiny import OVERRIDES, write

from mnet_jax import experiment, jobs, laboratory, models, results, sweep, worker
from mnet_jax.errors import UserError

SETTINGS = OVERRIDES | {"seeds": 1, "train.epochs": 1}
BASE = f'''"""An experiment with code of its own."""
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from mnet_jax import config
from mnet_jax.models.blocks import InvertedResidual
from mnet_jax.models.layers import SqueezeExcite, hard_sigmoid

def get_config(scale):
    cfg = config.at_scale(scale)
    config.override(cfg, {SETTINGS!r})
    return cfg
'''
BLOCKS = (
    BASE
    + """
class Gated(InvertedResidual):
    def __init__(self, net, block, inputs):
        super().__init__(net, block, inputs)
        self.gate = SqueezeExcite(net.layer_config, block.expanded, 2, hard_sigmoid)

    def expand_and_filter(self, x_BHWC):
        e_BHWE, d_BHWE = super().expand_and_filter(x_BHWC)
        return e_BHWE, self.gate(d_BHWE)

blocks = {"gated": Gated}

def sweep(cfg):
    yield {"name": "plain"}
    yield {"name": "gated", "model.block": "gated"}

claim = {"contrasts": (config.greater("gated", "plain"),)}
"""
)
NETWORK = (
    BASE
    + """
fields = {"own.hidden": config.Field(8, "hidden units", config.COUNT)}

class Perceptron(nnx.Module):
    def __init__(self, inputs, hidden, classes, rngs):
        self.hidden, self.classifier = nnx.Linear(inputs, hidden, rngs=rngs), nnx.Linear(hidden, classes, rngs=rngs)

    def __call__(self, images_BHWC, knobs=None, rngs=None):
        h_BC = nnx.relu(self.hidden(images_BHWC.reshape(len(images_BHWC), -1)))
        return self.classifier(h_BC), {"hidden": h_BC}

def network(cfg, rngs):
    return Perceptron(256, cfg.own.hidden, cfg.model.num_classes, rngs)

def optimizer(cfg):
    return lambda lr, weight_decay, mask: optax.sign_sgd(lr)

metrics = {
    config.Metric("certainty", "certainty", "%", 2): lambda outputs, targets: jnp.max(nnx.softmax(outputs), -1),
}

def sweep(cfg):
    for hidden in (8, 16):
        yield {"own.hidden": hidden}

claim = {"metric": "certainty", "contrasts": (config.greater("hidden=16", "hidden=8"),)}
"""
)
DATASET = (
    BASE
    + """
from mnet_jax.data.dataset import from_arrays

def dataset(data):
    images = np.random.default_rng(0).integers(0, 255, (200, 16, 16, 1), np.uint8)
    return from_arrays("noise", (images, {"labels": np.arange(200) % 10}), class_names=tuple("abcdefghij"))

claim = {}
"""
)


def never():
    return False


def make(folder, text):
    loaded = experiment.load(write(folder, text))
    return jobs.write(folder / "work", sweep.plan(loaded, "digits", {}, "train", "the command"), loaded)


def tensors(folder, run):
    return safetensors.numpy.load_file(results.run_dir(folder / "work", run) / "weights.safetensors")


def test_a_block_that_is_planned_is_the_one_that_is_trained(tmp_path):
    plan = make(tmp_path, BLOCKS)
    plain, gated = plan.arms
    assert gated.cost["params"] > plain.cost["params"]
    assert gated.network != plain.network
    worker.work_on(tmp_path / "work", plan, never)
    trained = tensors(tmp_path, "gated-s0")
    assert {name for name in trained if "gate" in name} > {"blocks.0.gate.squeeze.kernel", "blocks.1.gate.excite.bias"}
    assert sum(trained[name].size for name in trained if not re.search(r"\.(mean|var)$", name)) == gated.cost["params"]
    path = results.run_dir(tmp_path / "work", "gated-s0") / "weights.safetensors"
    with pytest.raises(UserError, match=r"was trained by the code of .*tiny\.py: load it with file="):
        models.load(path)
    assert models.load(path, file=tmp_path / "tiny.py").made_by["name"] == "tiny"


def test_a_plan_holds_no_field_of_another_file(tmp_path):
    """A worker reads one experiment only, and would not know it."""
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    assert make(tmp_path / "one", NETWORK).config["own.hidden"] == 8
    assert "own.hidden" not in make(tmp_path / "other", BLOCKS).config


def test_a_network_an_optimizer_and_a_metric_of_the_file(tmp_path):
    """One step of sign descent moves every weight by the learning rate, or not at all."""
    plan = make(tmp_path, NETWORK)
    assert [arm.cost["params"] for arm in plan.arms] == [257 * hidden + 10 * (hidden + 1) for hidden in (8, 16)]
    worker.work_on(tmp_path / "work", plan, never)
    rows = results.read_rows(tmp_path / "work", plan)
    assert all(0.1 < row["metrics"]["certainty"] <= 1 for row in rows)
    assert tensors(tmp_path, "hidden=16-s0")["hidden.kernel"].shape == (256, 16)
    network = models.load(
        results.run_dir(tmp_path / "work", "hidden=8-s0") / "weights.safetensors", file=tmp_path / "tiny.py"
    )
    answers = network.predict(np.zeros((3, 16, 16, 1), np.uint8))
    np.testing.assert_allclose(answers["probabilities"].sum(-1), 1, rtol=1e-5)


def test_a_dataset_of_the_file(tmp_path):
    plan = make(tmp_path, DATASET)
    worker.work_on(tmp_path / "work", plan, never)
    (row,) = results.read_rows(tmp_path / "work", plan)
    assert row["data"]["source"] == "noise"


def test_a_changed_file_is_refused_with_the_difference(tmp_path):
    plan = make(tmp_path, BLOCKS)
    write(tmp_path, BLOCKS.replace("block.expanded, 2, hard", "block.expanded, 3, hard"))
    with pytest.raises(
        UserError, match=r"is not the file that .* was planned with(.|\n)*\n-.*, 2, hard(.|\n)*\n\+.*, 3, hard"
    ):
        worker.work_on(tmp_path / "work", plan, never)
    with pytest.raises(UserError, match="is not the file that"):
        make(tmp_path, BLOCKS.replace("block.expanded, 2, hard", "block.expanded, 3, hard"))


def test_comments_docstring_and_claim_may_change(tmp_path):
    plan = make(tmp_path, BLOCKS)
    changed = BLOCKS.replace("of its own.", "of its own, described anew.").replace("blocks = {", "# Ours.\nblocks = {")
    assert make(tmp_path, changed.replace('"gated", "plain"', '"plain", "gated"')).code == plan.code


def test_a_network_that_is_not_the_planned_one_fails_with_one_line(tmp_path):
    """Such as one that reads something outside of its file."""
    (tmp_path / "hidden.txt").write_text("8")
    outside = f"int(Path({str(tmp_path / 'hidden.txt')!r}).read_text()) + cfg.own.hidden"
    text = NETWORK.replace("cfg.own.hidden", outside).replace(
        "import jax.numpy", "from pathlib import Path\n\nimport jax.numpy"
    )
    plan = make(tmp_path, text)
    (tmp_path / "hidden.txt").write_text("9")
    message = r"^arm hidden=8: the network built here has 4,549 parameters \(.*\), the planned one 4,282 \(.*\);"
    with pytest.raises(UserError, match=message):
        worker.work_on(tmp_path / "work", plan, never)


def test_new_fields_with_defaults_do_not_refuse_old_workdirs(tmp_path):
    """A workdir begun before the fields of a later version, or of another file, existed."""
    plan = make(tmp_path, BLOCKS)
    path = tmp_path / "work" / "sweep.json"
    record = results.read_json(path)
    del record["config"]["train.teacher"], record["config"]["distill.temperature"]
    path.write_text(results.to_json(record))
    assert make(tmp_path, BLOCKS).jobs == plan.jobs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BASE + "blocks = 3", r"tiny\.py: blocks is 3; allowed: a dict from names to classes"),
        (BASE + "network = 3", r"tiny\.py: network is 3; allowed: a function"),
        (BASE + "metrics = {'a': len}", r"metrics is .*; allowed: a dict from config\.Metric to functions"),
        (BASE + "task = 'ranking'", r"task is 'ranking'; allowed: a config\.Task"),
        (BASE + "fields = {'model.width': config.Field(2.0, 'x')}", r"the field 'model\.width' exists already"),
        (BASE + "fields = {'width': config.Field(2.0, 'x')}", r"field 'width' is .*; allowed: 'section\.name'"),
        ("import sys; sys.exit(0)", r"tiny\.py cannot be imported: SystemExit: 0"),
        ("def get_config(", r"tiny\.py cannot be imported: SyntaxError"),
        ("get_config = 3", r"tiny\.py defines no function get_config"),
        ("x = 1", r"tiny\.py defines no function get_config"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        experiment.load(write(tmp_path, text))


def test_a_block_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"model\.block='gatd'.*gated"):
        make(tmp_path, BLOCKS.replace('"model.block": "gated"', '"model.block": "gatd"'))


def test_the_shipped_example_is_short_and_whole():
    path = Path(__file__).parent.parent / "experiments" / "v2_squeeze_excite.py"
    assert len(path.read_text().splitlines()) <= 70
    (plan,) = laboratory.plan([path])
    plain, gated, wider = plan.sweep.arms[:3]
    assert plain.cost["madds"] < gated.cost["madds"] < wider.cost["madds"] < 1.05 * gated.cost["madds"]
