"""The spiral: exact laws, what "collapsed" means, and the metrics against direct computations."""

import itertools
import re

import numpy as np
import pytest

from mnet_jax import figures
from mnet_jax.errors import UserError
from mnet_jax.experiment import load
from mnet_jax.sweep import base_config
from mnet_jax.tasks import spiral

DIMS = (2, 3, 5, 15, 30)
INF = float("inf")

# n, m, retained and collapsed share: exact binomial sums of Sandler et al. 2018
# (arXiv 1801.04381v4), Appendix A, Theorem 1, for Figure 1 and for the blocks of Table 2.
THEOREM_1 = (
    (2, 2, 0.25, 7.500000e-01),
    (2, 3, 0.5, 5.000000e-01),
    (2, 5, 0.8125, 1.875000e-01),
    (2, 15, 0.99951171875, 4.882812e-04),
    (2, 30, 0.999999971129, 2.887100e-08),
    (16, 96, 0.999999999998, 2.013258e-12),
    (24, 144, 1.0, 1.461790e-17),
    (32, 192, 1.0, 1.118149e-22),
    (64, 384, 1.0, 4.728660e-43),
    (96, 576, 1.0, 2.292726e-63),
    (160, 960, 1.0, 6.235339e-104),
    (16, 16, 1.52587890625e-05, 9.999847e-01),
    (32, 32, 2.32830643654e-10, 1.000000),
    (24, 24, 5.96046447754e-08, 9.999999e-01),
)


def means(dim: int, act: str = "relu", seeds: int = 100) -> dict[str, float]:
    rows, _ = spiral.measure(dim, act, 300, range(seeds))
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def random_points_and_embeddings(dim: int, count: int, points: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(dim)
    return rng.normal(size=(points, 2)), rng.normal(size=(count, dim, 2))


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 5, 8])
def test_the_laws_hold_for_the_spiral_and_for_any_points(dim: int):
    rows, _ = spiral.measure(dim, "relu", 100, range(2000))
    anywhere, _ = spiral.losses(*random_points_and_embeddings(dim, 2000), 0.0, INF)
    for name, exact in spiral.theory(dim).items():
        for values in (np.array([row[name] for row in rows]), anywhere[name]):
            error = values.std(ddof=1) / np.sqrt(len(values))
            assert abs(values.mean() - exact) <= 4 * error + 1e-12


def test_of_three_units_exactly_half_of_the_points_keep_two():
    """Of a point and its opposite exactly one has fewer than two of three units active."""
    rows, _ = spiral.measure(3, "relu", 1000, range(50))
    assert {row["collapsed"] for row in rows} == {0.5}


@pytest.mark.parametrize(("n", "m", "share", "lost"), THEOREM_1)
def test_the_retained_share_is_that_of_theorem_1(n: int, m: int, share: float, lost: float):
    assert float(spiral.retained(n, m)) == pytest.approx(share, rel=1e-11)
    assert float(1 - spiral.retained(n, m)) == pytest.approx(lost, rel=1e-6)


@pytest.mark.parametrize("dim", DIMS)
def test_theory_is_theorem_1_in_closed_form(dim: int):
    assert spiral.theory(dim) == {"collapsed": (dim + 1) / 2**dim, "all_zero": 1 / 2**dim}


def test_more_dimensions_lose_less():
    found = [means(dim) for dim in DIMS]
    for name in ("collapsed", "all_zero", "readout_error", "pinv_error"):
        values = [of_dim[name] for of_dim in found]
        assert values == sorted(values, reverse=True)
    for name in ("readout_error", "pinv_error"):
        assert len({of_dim[name] for of_dim in found}) == len(DIMS)
    assert found[0]["readout_error"] > 0.5
    assert found[-1]["readout_error"] < 0.01


@pytest.mark.parametrize("dim", DIMS)
def test_a_linear_embedding_loses_nothing(dim: int):
    assert max(means(dim, "linear").values()) < 1e-12


def test_relu6_loses_what_relu_does_until_the_cap_is_reached():
    x = spiral.points_on_spiral(300)
    t = np.stack([spiral.embedding(15, seed) for seed in range(20)])
    relu, relu6 = (spiral.losses(x, t, 0.0, high)[0] for high in (INF, 6.0))
    for name in relu:
        np.testing.assert_array_equal(relu6[name], relu[name])
    relu, relu6 = (spiral.losses(30 * x, t, 0.0, high)[0] for high in (INF, 6.0))
    for name in ("collapsed", "readout_error", "pinv_error"):
        assert (relu6[name] > relu[name]).all()
    np.testing.assert_array_equal(relu6["all_zero"], relu["all_zero"])


@pytest.mark.parametrize("high", [INF, 6.0])
@pytest.mark.parametrize("dim", [2, 3, 6])
def test_a_collapsed_point_is_one_where_the_map_has_lost_a_dimension(dim: int, high: float):
    x, t = random_points_and_embeddings(dim, 30)
    x *= 4
    metrics, _ = spiral.losses(x, t, 0.0, high)
    step = 1e-7
    lost = np.empty((len(t), len(x)))
    for s, p in np.ndindex(lost.shape):
        moved = np.clip(t[s] @ (x[p][:, None] + step * np.eye(2)), 0.0, high)
        jacobian = (moved - np.clip(t[s] @ x[p], 0.0, high)[:, None]) / step
        lost[s, p] = np.linalg.matrix_rank(jacobian, tol=1e-5) < 2
    np.testing.assert_allclose(metrics["collapsed"], lost.mean(1))
    assert 0 < metrics["collapsed"].mean() < 1


@pytest.mark.parametrize("dim", [2, 5, 30])
def test_errors_are_those_of_direct_computations(dim: int):
    x, t = random_points_and_embeddings(dim, 5, points=400)
    metrics, output = spiral.losses(x, t, 0.0, INF)
    size = np.linalg.norm(x)
    for s in range(len(t)):
        y = np.maximum(x @ t[s].T, 0)
        features = np.column_stack([y, np.ones(len(x))])
        fit = features @ np.linalg.lstsq(features, x, rcond=None)[0]
        back = y @ t[s] @ np.linalg.inv(t[s].T @ t[s])
        cosine = (back * x).sum() / np.linalg.norm(back) / size
        np.testing.assert_allclose(output[s], back, atol=1e-8)
        np.testing.assert_allclose(metrics["readout_error"][s], np.linalg.norm(fit - x) / size, rtol=1e-6)
        np.testing.assert_allclose(metrics["pinv_error"][s], np.sqrt(1 - cosine**2), rtol=1e-8)


def test_a_seed_is_measured_the_same_alone_or_among_others():
    rows, arrays = spiral.measure(5, "relu", 100, range(4, 10))
    alone, panels = spiral.measure(5, "relu", 100, [4])
    for name, value in alone[0].items():
        assert rows[0][name] == pytest.approx(value, rel=1e-12)
    assert rows[1] != rows[0]
    np.testing.assert_allclose(arrays["output"], panels["output"], atol=1e-12)
    assert arrays["input"].shape == arrays["output"].shape == (100, 2)


def test_arms_have_embeddings_of_their_own():
    assert not np.isin(spiral.embedding(3, 0), spiral.embedding(5, 0)).any()
    t = np.stack([spiral.embedding(30, seed) for seed in range(300)])
    assert abs(t.mean()) < 4 / np.sqrt(t.size)
    assert abs(t.std() - 1) < 4 / np.sqrt(2 * t.size)


def test_the_spiral_fills_the_unit_disc_in_whole_turns_and_leaves_out_its_center():
    x = spiral.points_on_spiral(1000)
    radius = np.linalg.norm(x, axis=1)
    assert radius[0] > 0
    assert radius[-1] == pytest.approx(1)
    assert (np.diff(radius) > 0).all()
    angle = np.unwrap(np.arctan2(x[:, 1], x[:, 0]))
    assert angle[-1] - angle[0] == pytest.approx(6 * np.pi * 999 / 1000)


@pytest.mark.parametrize(
    ("dim", "act", "points", "message"),
    [
        (0, "relu", 100, "spiral.dim=0: allowed are whole numbers from 1"),
        (2, "relu", 1, "spiral.points=1: allowed are whole numbers from 2"),
        (2, "swish", 100, "spiral.act='swish': allowed are linear, relu, relu6"),
    ],
)
def test_impossible_settings_are_refused(dim: int, act: str, points: int, message: str):
    with pytest.raises(UserError, match=re.escape(message)):
        spiral.measure(dim, act, points, [0])


def test_the_experiment_has_one_scale_and_the_arms_of_the_figure(experiments):
    experiment = load(experiments / "manifold_spiral.py")
    cfg = experiment.get_config("digits")
    assert tuple(row["spiral.dim"] for row in experiment.sweep(cfg)) == DIMS
    assert cfg.task == "spiral"
    with pytest.raises(UserError, match=r"'cifar10'.*needs no data"):
        base_config(experiment, "cifar10")


def test_the_figure_draws_every_panel_whole():
    from matplotlib.collections import LineCollection

    _, arrays = spiral.measure(3, "relu", 500, [0])
    figure = figures.spiral([("Input", arrays["input"]), ("Output/dim=3", arrays["output"])])
    assert [axes.get_title() for axes in figure.axes] == ["Input", "Output/dim=3"]
    for axes, points in zip(figure.axes, arrays.values(), strict=True):
        (lines,) = axes.collections
        assert isinstance(lines, LineCollection)
        pieces = lines.get_segments()
        np.testing.assert_array_equal(np.concatenate([pieces[0][:1], *(piece[1:] for piece in pieces)]), points)
        assert all((a[-1] == b[0]).all() for a, b in itertools.pairwise(pieces))
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert ((points > (left, bottom)) & (points < (right, top))).all()
        assert axes.get_aspect() == 1
        assert not axes.axison
