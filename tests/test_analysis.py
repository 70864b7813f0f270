"""What networks do inside, against plain loops, planted faults and the paper's own counts."""

import numpy as np
import pytest
from flax import nnx
from tiny import write

from mnet_jax import analysis, config, experiment, figures, models, results, sweep, worker
from mnet_jax.analysis import __main__ as command
from mnet_jax.analysis import activations, filters
from mnet_jax.data import augment, builtin
from mnet_jax.errors import UserError

V2 = {"name": "mobilenet_v2", "divisor": 1, "stem": (6, 2), "blocks": ((1, 6, 1, 1), (2, 6, 2, 1)), "last": 0}
V1 = {"name": "mobilenet_v1", "blocks": ((8, 2, 1),)}
IMAGES = 13
BATCH = 5
MEAN, STD = (0.3,), (0.4,)


@pytest.fixture(scope="module")
def images():
    return builtin.digits().in_memory()[:IMAGES]


def setting(**overrides):
    cfg = config.at_scale("digits")
    config.override(cfg, {f"model.{name}": value for name, value in {**V2, **overrides}.items()})
    return cfg


def lively(cfg, seed=8):
    """A network whose norms have statistics and affine maps of their own; seed 8 has no dead filter in two blocks."""
    network = models.build(cfg.model, nnx.Rngs(seed))
    network.eval()
    random = np.random.default_rng(seed)
    draws = {"scale": (0.5, 1.5), "var": (0.5, 1.5), "bias": (-0.2, 0.4), "mean": (-0.2, 0.2)}
    for path, node in nnx.iter_graph(network):
        if path and path[-1] in draws and isinstance(node, nnx.Variable):
            value = random.uniform(*draws[path[-1]], node.shape) + 2 * (path[-2:] == ("depthwise", "bias"))
            node.set_value(value.astype(np.float32))
    return network


def of(network):
    _, params, batch_stats = nnx.split(network, nnx.Param, nnx.BatchStat)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)


def measure(cfg, network, images, size=BATCH):
    batches = analysis.batches(images, np.arange(len(images)), size)
    return activations.measure(cfg, MEAN, STD, [of(network)], batches)[0]


def deviations(block):
    assert block.depthwise is not None
    assert block.bottleneck is not None
    return block.depthwise, block.bottleneck


def run(network, images):
    return network(augment.normalize(images, MEAN, STD))[1]


def test_positive_channels_are_those_of_a_plain_loop(images):
    cfg = setting()
    network = lively(cfg, seed=6)
    found = measure(cfg, network, images)
    endpoints = run(network, images)
    assert found[0].active is None  # the first block expands nothing
    assert found[1].active is not None
    assert 0.1 < found[1].active.above < 0.9
    for number in (2, 3):
        x_BHWE = np.asarray(endpoints[f"block{number}/expansion"])
        counts = [sum(float(value) > 0 for value in pixel) for image in x_BHWE for row in image for pixel in row]
        active = found[number - 1].active
        assert active is not None
        assert (active.channels, active.threshold) == (12, 6)
        assert (active.min, active.max) == (min(counts), max(counts))
        assert active.mean == pytest.approx(np.mean(counts), rel=1e-6)
        assert active.std == pytest.approx(np.std(counts), rel=1e-5)
        assert active.above == pytest.approx(np.mean([count >= 6 for count in counts]), abs=1e-6)


@pytest.mark.parametrize("shortcut", ["bottleneck", "expansion", "none"])
@pytest.mark.parametrize("act", ["linear", "relu6"])
def test_deviations_are_the_layers_own_without_what_shortcuts_add(images, shortcut, act):
    cfg = setting(shortcut=shortcut, project_act=act)
    network = lively(cfg)
    found, x = measure(cfg, network, images), network.stem(augment.normalize(images, MEAN, STD), network.act)
    low, high = network.project_bounds
    inner = {}
    for block, measured in zip(network.blocks, found, strict=True):
        e = block.expand(x, block.act) if hasattr(block, "expand") else x
        d_ME = np.asarray(block.depthwise(e, block.act), np.float64).reshape(-1, e.shape[-1])
        std_E, covariance_CC = deviations(measured)
        np.testing.assert_allclose(std_E, d_ME.std(0), atol=1e-5)
        x, inner = block(x, (low, high), inner.get("depthwise"))
        y_MC = np.asarray(block.project(inner["depthwise"], (low, high)), np.float64).reshape(-1, x.shape[-1])
        np.testing.assert_allclose(covariance_CC, np.cov(y_MC.T, bias=True), atol=1e-4)


def test_one_batch_or_many_are_the_same(images):
    cfg = setting()
    network = lively(cfg)
    one, many = measure(cfg, network, images, IMAGES), measure(cfg, network, images, BATCH)
    for of_block in zip(one, many, strict=True):
        a, b = (deviations(block) for block in of_block)
        np.testing.assert_allclose(a[0], b[0], atol=1e-6)
        np.testing.assert_allclose(a[1], b[1], atol=1e-5)
        a, b = (block.active or () for block in of_block)
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_batches_hold_every_image_once(images):
    found = list(analysis.batches(images, np.arange(2, 13), 4))
    assert [batch.shape for batch, _ in found] == [(4, 16, 16, 1)] * 3
    np.testing.assert_array_equal(np.concatenate([batch[mask > 0] for batch, mask in found]), images[2:])


def plant(layer, channels, bias):
    """Makes these channels of a layer constant: no scale, this bias."""
    scale, shift = np.array(layer.scale[...]), np.array(layer.bias[...])
    scale[channels], shift[channels] = 0, bias
    layer.scale.set_value(scale)
    layer.bias.set_value(shift)


def shares(cfg, network, images):
    blocks = measure(cfg, network, images)
    return filters.measure(blocks, *of(network), cfg.model.norm.eps)


def test_planted_dead_channels_are_found_whatever_their_value(images):
    cfg = setting()
    network = lively(cfg)
    _, before = shares(cfg, network, images)
    np.testing.assert_array_equal(before["dead_depthwise/share"][:2], 0)
    np.testing.assert_array_equal(before["dead_bottleneck/share"], 0)
    plant(network.blocks[1].depthwise, [0, 5], -1)  # always 0
    plant(network.blocks[1].depthwise, [7], 100)  # always 6
    plant(network.blocks[2].project, [2], 12345.678)  # linear
    found, arrays = shares(cfg, network, images)
    for name in ("dead_depthwise", "little_used_depthwise"):
        np.testing.assert_array_equal(arrays[f"{name}/share"][:2], [0, 3 / 12])
        np.testing.assert_array_equal(arrays[f"{name}/block"], [1, 2, 3])
        np.testing.assert_array_equal(arrays[f"{name}/channels"], [6, 12, 12])
        assert found[name] == pytest.approx(arrays[f"{name}/share"] @ [6, 12, 12] / 30)
        at = np.argmin(np.abs(arrays["curve/threshold"] - filters.DEFINITIONS[name]))
        assert arrays[f"curve/{name}"][at] == found[name]
        assert (np.diff(arrays[f"curve/{name}"]) >= 0).all()
        assert arrays[f"curve/{name}"][-1] > found[name]
    np.testing.assert_array_equal(arrays["dead_bottleneck/share"], [0, 0, 1 / 6])
    assert found["dead_bottleneck"] == 1 / 18


def test_a_filter_that_the_next_layer_ignores_is_little_used_but_not_dead(images):
    cfg = setting()
    network = lively(cfg)
    kernel = np.array(network.blocks[1].project.kernel[...])
    kernel[4] *= 1e-4
    network.blocks[1].project.kernel.set_value(kernel)
    _, found = shares(cfg, network, images)
    assert found["dead_depthwise/share"][1] == 0
    assert found["little_used_depthwise/share"][1] == 1 / 12


def test_norms_fold_batchnorm_in(images):
    """A kernel and its statistics scaled alike compute the same: the raw norm moves, the folded one does not."""
    cfg = setting()
    network = lively(cfg)
    _, before = shares(cfg, network, images)
    layer = network.blocks[1].depthwise
    kernel, mean, var = (np.array(part[...]) for part in (layer.kernel, layer.mean, layer.var))
    kernel[..., 3] *= 1e-3
    mean[3] *= 1e-3
    var[3] = (var[3] + cfg.model.norm.eps) * 1e-6 - cfg.model.norm.eps  # so that eps does not count
    for part, value in ((layer.kernel, kernel), (layer.mean, mean), (layer.var, var)):
        part.set_value(value)
    found, after = shares(cfg, network, images)
    assert found["small_raw"] == 1 / 30
    np.testing.assert_allclose(after["curve/small_folded"], before["curve/small_folded"])
    parts = {name: np.asarray(getattr(layer, name)[...]) for name in ("kernel", "scale", "var")}
    gain = parts["scale"][5] / np.sqrt(parts["var"][5] + cfg.model.norm.eps)
    folded = filters.folded(parts, parts, cfg.model.norm.eps)
    np.testing.assert_allclose(folded[..., 5], parts["kernel"][..., 5] * gain, rtol=1e-6)


def test_a_layer_that_is_dead_throughout_is_little_used_throughout(images):
    cfg = setting()
    network = lively(cfg)
    plant(network.blocks[0].depthwise, slice(None), -1)
    _, arrays = shares(cfg, network, images)
    assert arrays["little_used_depthwise/share"][0] == 1


@pytest.mark.parametrize(
    ("overrides", "metrics"),
    [
        ({"split": 2}, {metric.name for metric in analysis.METRICS}),
        ({"conv": "full"}, {"dead_bottleneck", "active_share", "active_sd", "above_threshold"}),
        (V1, {"dead_depthwise", "little_used_depthwise"}),
        ({**V1, "conv": "full"}, set()),
    ],
    ids=["v2-split", "v2-full", "v1", "v1-full"],
)
def test_every_network_has_the_measures_of_its_layers(images, overrides, metrics):
    cfg = setting(**overrides)
    network = lively(cfg)
    batches = analysis.batches(images, np.arange(IMAGES), BATCH)
    found, arrays = analysis.measure(cfg, MEAN, STD, of(network), of(lively(cfg, 1)), batches)
    assert found.keys() == metrics
    assert all(0 <= value <= 1 for value in found.values())
    assert all(np.isfinite(values).all() for values in arrays.values())
    if "active_share" in metrics:
        assert len(arrays["active/mean"]) == len(arrays["initial/mean"]) == 2
        assert (arrays["active/mean"] != arrays["initial/mean"]).any()
        assert (arrays["rank/participation"] <= arrays["rank/entropy"]).all()
        assert (arrays["rank/entropy"] <= arrays["rank/channels"]).all()


def test_other_networks_are_refused(images):
    cfg = config.default()
    cfg.model.name = "resnet50"
    with pytest.raises(UserError, match="resnet50 has no blocks to analyze; allowed: mobilenet_v1"):
        activations.measure(cfg, MEAN, STD, [({}, {})], [])


def test_effective_rank_of_planted_low_rank_features():
    random = np.random.default_rng(0)
    directions = np.linalg.qr(random.normal(size=(10, 10)))[0][:, :3]
    assert activations.ranks(directions @ directions.T) == pytest.approx((3, 3))
    participation, entropy = activations.ranks(np.diag([1.0, 1.0, 0.01]))
    assert 2 < participation < entropy < 2.1
    assert activations.ranks(np.zeros((4, 4))) == (0, 0)


def test_published_counts_are_those_of_the_papers_figure():
    paper = analysis.published()
    for state, below in (("initial", []), ("active", [7, 14, 17])):
        np.testing.assert_array_equal(paper[f"{state}/block"], np.arange(2, 18))
        np.testing.assert_array_equal(paper[f"{state}/channels"], 6 * paper[f"{state}/threshold"])
        np.testing.assert_array_equal(
            paper[f"{state}/block"][paper[f"{state}/min"] < paper[f"{state}/threshold"]], below
        )
        assert (paper[f"{state}/min"] < paper[f"{state}/mean"]).all()
        assert (paper[f"{state}/mean"] < paper[f"{state}/max"]).all()
    cfg = config.default()
    blocks = models.specs.network(cfg.model).blocks
    np.testing.assert_array_equal(paper["active/channels"], [block.expanded for block in blocks if block.expand])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    plan = sweep.plan(experiment.load(write(folder)), "digits", {"analysis": "True"}, "train", "the command")
    results.write_sweep(folder, plan)
    worker.work_on(folder, plan, lambda: False)
    return folder, plan


def test_a_run_ends_with_its_measures_and_the_command_finds_the_same(trained, capsys):
    folder, plan = trained
    rows = {row["run"]: row for row in results.read_rows(folder, plan)}
    arrays = {name: results.read_arrays(folder, name) for name in rows}
    assert {metric.name for metric in analysis.METRICS} < rows["relu6-s1"]["metrics"].keys()
    lost = rows["relu6-s1"]["metrics"].copy()
    for metric in analysis.METRICS:
        del rows["relu6-s1"]["metrics"][metric.name]
    results.write_row(folder, rows["relu6-s1"])
    results.write_arrays(folder, "relu6-s1", {"of another kind": np.arange(2)})
    command.main([str(folder), "relu6-s1"])
    again = results.read_arrays(folder, "relu6-s1")
    np.testing.assert_array_equal(again.pop("of another kind"), np.arange(2))
    answers = {name for name in arrays["relu6-s1"] if name.startswith(results.PER_IMAGE)}
    assert again.keys() == arrays["relu6-s1"].keys() - answers, "only a training has these"
    for name, values in again.items():
        np.testing.assert_allclose(values, arrays["relu6-s1"][name], rtol=1e-5, atol=1e-7)
    row = next(row for row in results.read_rows(folder, plan) if row["run"] == "relu6-s1")
    assert row["metrics"] == pytest.approx(lost)
    out, err = capsys.readouterr()
    assert "1 of 1: relu6-s1" in err
    assert f"--mode report --workdir {folder}" in out
    line = next(line for line in out.splitlines() if line.startswith("dead bottleneck channels"))
    values = [100 * rows[f"linear-s{seed}"]["metrics"]["dead_bottleneck"] for seed in (0, 1)]
    assert f"linear  2  {np.mean(values):.2f}" in line


def test_the_command_names_what_is_wrong(trained, tmp_path):
    folder, _ = trained
    with pytest.raises(UserError, match=r"no sweep\.json"):
        command.main([str(tmp_path)])
    with pytest.raises(UserError, match="no finished run 'relu-s0'; allowed: linear-s0, relu6-s0"):
        command.main([str(folder), "relu-s0"])
    path = results.run_dir(folder, "linear-s0") / "weights.safetensors"
    path.rename(path.with_name("elsewhere"))
    try:
        with pytest.raises(UserError, match=r"weights\.safetensors is missing: linear-s0 cannot be measured"):
            command.main([str(folder), "linear-s0"])
    finally:
        path.with_name("elsewhere").rename(path)


def test_pictures_show_arms_threshold_and_the_papers_counts(trained):
    folder, _ = trained
    runs = {arm: [results.read_arrays(folder, f"{arm}-s{seed}") for seed in (0, 1)] for arm in ("linear", "relu6")}
    text = figures.svg(figures.layer_profile(runs, analysis.published()))
    for label in ("linear", "relu6", "threshold", "the paper's", "at step 0", "trained"):
        assert label in text
    text = figures.svg(figures.threshold_curve(runs, filters.DEFINITIONS))
    assert "dead bottleneck (%)" in text
    assert "small raw (%)" in text
    first = next(iter(filters.DEFINITIONS))
    runs["v1"] = [{key: value for key, value in arrays.items() if first not in key} for arrays in runs.pop("relu6")]
    assert ">v1<" in figures.svg(figures.threshold_curve(runs, filters.DEFINITIONS)), "not in the first panel"
