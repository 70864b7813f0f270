"""The shipped experiment files: every one has a plan at every scale it takes, and keeps what its docstring promises."""

import contextlib
import re
from pathlib import Path

import pytest

from mnet_jax import config, laboratory, sweep
from mnet_jax.data import load as datasets
from mnet_jax.errors import UserError
from mnet_jax.experiment import load

FILES = sorted((Path(__file__).parent.parent / "experiments").glob("*.py"))
PLANNED_ONLY = {"v1_baseline", "v2_baseline", "v1_comparison", "v2_comparison"}


def scales(path):
    """Those that the file's `get_config` takes."""
    taken = []
    for scale in dict.fromkeys(scale for scales in config.TASK_SCALES.values() for scale in scales):
        with contextlib.suppress(UserError):
            sweep.base_config(load(path), scale)
            taken.append(scale)
    return taken


@pytest.fixture
def no_data(monkeypatch):
    """A plan needs sizes, not images; zeros stand for data sets that are not here."""
    planned = {
        "fashion_mnist": datasets.Planned((28, 28, 1), 60_000, 10_000, 10),
        "cifar10": datasets.Planned((32, 32, 3), 50_000, 10_000, 10),
        "photos": datasets.Planned((0, 0, 3), 1000, 200, 5),
        "bccd": datasets.Planned((160, 160, 3), 292, 72, 4, boxes=30),
    }
    for name, known in planned.items():
        monkeypatch.setitem(datasets.PLANNED, name, known)
    monkeypatch.setenv("MNET_DATA_DIR", "nowhere")
    datasets._zeros.cache_clear()
    yield
    datasets._zeros.cache_clear()


LARGE = ("imagenet", "photos", "bccd", "voc", "coco")

MASKS = {"v2_deeplab", "v2_segmentation_bottleneck"}
"""Experiments at whose scale "voc" nothing is counted without VOC's files."""

CASES = [(path, scale) for path in FILES for scale in scales(path)]


@pytest.mark.parametrize(("path", "scale"), CASES, ids=[f"{path.stem}-{scale}" for path, scale in CASES])
def test_every_experiment_has_a_plan(path, scale, no_data, monkeypatch):
    if scale in LARGE:  # Many large networks: their costs are counted in the slow test below.
        monkeypatch.setattr(sweep, "with_costs", lambda arms, *_: arms)
    plan = sweep.plan(load(path), scale, {}, "train", "")
    assert_kept(plan)


def assert_kept(plan):
    """Its arms of equal cost have it within 2 % of the first; what it draws are its arms."""
    arms = {arm.name: arm for arm in plan.arms}
    for reference, *others in plan.claim.equal_madds:
        for other in others:
            if arms[other].cost:
                assert arms[other].cost["madds"] == pytest.approx(arms[reference].cost["madds"], rel=0.02), other
    grid, curve = plan.claim.grid or {}, plan.claim.curve or {}
    drawn = [*grid.get("cells", ()), *curve.get("points", ()), *(plan.claim.printed or ())]
    drawn += [arm for series in curve.get("series", {}).values() for arm in series]
    assert set(drawn) <= arms.keys()
    assert all(len(place) == 2 for place in grid.get("cells", {}).values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "scale"),
    [(path, scale) for path, scale in CASES if scale in LARGE and not (path.stem in MASKS and scale == "voc")],
)
def test_every_plan_of_large_networks_is_counted(path, scale, no_data):
    plan = sweep.plan(load(path), scale, {}, "train", "")
    assert all(arm.cost["madds"] > 0 for arm in plan.arms)
    assert_kept(plan)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_docstrings_have_their_parts(path):
    doc = load(path).doc
    title, *_ = doc.split("\n")
    assert title.endswith(("?", "."))
    command = rf"python -m mnet_jax\.main --config experiments/{path.stem}\.py"
    for part in (r"\n\nClaim: ", r"\d{4}", command, r"\nMeasured"):
        assert re.search(part, doc), part
    assert path.stem in PLANNED_ONLY or re.search(command + r".*# .*\d+ (runs|seconds|minutes?|min)", doc)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_docstrings_name_as_many_runs_as_are_planned(path):
    experiment = load(path)
    for scale, comment in re.findall(path.stem + r"\.py(:\w+)?.*?#(.*)", experiment.doc):
        if said := re.search(r"([\d,]+) runs", comment):
            _, default = laboratory.find(str(path))[0]
            assert int(said[1].replace(",", "")) == sweep.runs(experiment, scale[1:] or default)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_claims_say_what_is_printed_and_where(path):
    experiment = load(path)
    for scale in scales(path):
        claim = experiment.claim
        claim = claim(experiment.get_config(scale)) if callable(claim) else claim
        assert {"text", "source", "asked_by", "published", "metric", "contrasts"} <= set(claim)
        assert claim["contrasts"] or path.stem.endswith("_baseline")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_tuned_rates_are_those_of_arms(path, no_data, monkeypatch):
    """A rate under a misspelt name would not be used, and nobody would notice."""
    monkeypatch.setattr(sweep, "with_costs", lambda arms, *_: arms)
    experiment = load(path)
    for scale, rates in experiment.sweep.__globals__.get("TUNED_LR", {}).items():
        plan = sweep.plan(experiment, scale, {}, "train", "")
        lrs = {arm.name: arm.lr for arm in plan.arms}
        if isinstance(rates, dict):
            assert {name: lrs.get(name) for name in rates} == {
                name: rate[0] if isinstance(rate, tuple) else rate for name, rate in rates.items()
            }


def test_a_scale_that_makes_no_sense_is_refused_with_the_allowed_ones(experiments):
    experiment = load(experiments / "v1_comparison.py")
    with pytest.raises(UserError, match=r"no scale 'digits'; allowed: imagenet$"):
        sweep.plan(experiment, "digits", {}, "train", "")
