"""Statistics against scipy and by hand, and the rate of false verdicts by simulation."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from mnet_jax import stats
from mnet_jax.config.claims import equivalent, greater, interaction, off_line, parse, straight, trend
from mnet_jax.errors import UserError
from mnet_jax.report.sentences import verdict_sentence
from mnet_jax.tasks.base import Metric


def by_seed(values):
    return dict(enumerate(map(float, values)))


@pytest.fixture
def rng():
    return np.random.default_rng(20180113)


ACCURACY = Metric("accuracy", "accuracy", "%", 2)
ERROR = Metric("error", "error")


def judge(values, *contrasts, metric=ACCURACY, pilot=0):
    """The verdicts on values of a metric as stored."""
    return stats.verdicts(contrasts, values, metric.print_factor, pilot)


# Intervals and paired tests.


@pytest.mark.parametrize("n", [2, 5, 12])
def test_estimate_is_the_t_interval(rng, n):
    values = rng.normal(97, 0.5, n)
    found = stats.estimate(values)
    low, high = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.n, found.mean, found.sd) == (
        n,
        pytest.approx(np.mean(values)),
        pytest.approx(np.std(values, ddof=1)),
    )
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_estimate_of_one_value_has_no_interval():
    one = stats.estimate([3.0])
    assert (one.n, one.mean) == (1, 3.0)
    assert all(map(math.isnan, (one.sd, one.low, one.high)))
    assert math.isnan(stats.estimate([]).mean)


def test_difference_is_the_paired_t_test(rng):
    a, b = rng.normal(98, 0.5, 12), rng.normal(97, 0.8, 12)
    found = stats.difference(by_seed(a), by_seed(b))
    expected = scipy_stats.ttest_rel(a, b)
    low, high = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.sd == pytest.approx(np.std(a - b, ddof=1))


def test_difference_pairs_by_seed_and_leaves_out_what_one_arm_lacks():
    a = {0: 5.0, 1: 6.0, 3: 9.0, 7: 1.0}
    b = {7: 0.5, 3: 7.0, 2: 100.0, 1: 5.0}
    assert stats.paired(a, b) == {1: 1.0, 3: 2.0, 7: 0.5}
    assert stats.difference(a, b).n == 3
    assert stats.difference(a, b).mean == pytest.approx(3.5 / 3)


def test_difference_of_one_pair_has_no_test():
    found = stats.difference({0: 1.0}, {0: 0.25, 1: 3.0})
    assert (found.n, found.mean) == (1, 0.75)
    assert all(map(math.isnan, (found.sd, found.low, found.high, found.p)))


def test_equal_arms_differ_by_nothing_even_when_rounded():
    found = stats.difference(by_seed([0.1 + 0.2] * 4), by_seed([0.3] * 4))
    assert (found.mean, found.sd, found.p) == (0, 0, 1)
    assert math.isnan(judge({"a": by_seed([1.0] * 4), "b": by_seed([1.0] * 4)}, greater("a", "b"))[0].detectable)


@pytest.mark.parametrize(("n", "p"), [(2, 0.5), (6, 0.03125)])
def test_differences_all_the_same_are_tested_by_their_signs(n, p):
    """A t-test would say p = 0 here, even of two seeds that happen to differ by one image each."""
    b = 0.11 * np.arange(1, n + 1)
    found = stats.difference(by_seed(b + 0.01), by_seed(b))  # equal but for rounding
    assert found.sd == 0
    assert found.p == pytest.approx(p)
    assert found.mean == pytest.approx(0.01)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


# Power.


def test_power_of_a_known_case():
    assert stats.power(0.77, 0.81, 12) == pytest.approx(0.85, abs=0.005)
    assert stats.power(0.77, 0.81, 8) == pytest.approx(0.63, abs=0.01)
    assert stats.power(0, 1, 12) == pytest.approx(0.05)
    assert stats.power(-2, 1, 5) == stats.power(2, 1, 5)


def test_power_by_simulation(rng):
    differences = rng.normal(0.77, 0.81, (20_000, 12))
    t = differences.mean(1) / (differences.std(1, ddof=1) / math.sqrt(12))
    found = np.mean(np.abs(t) > scipy_stats.t.ppf(0.975, 11))
    assert stats.power(0.77, 0.81, 12) == pytest.approx(found, abs=4 * math.sqrt(0.85 * 0.15 / 20_000))


@pytest.mark.parametrize("family", [1, 4])
@pytest.mark.parametrize("n", [2, 3, 5, 12, 200])
def test_the_detectable_effect_has_80_percent_power_at_holms_level(rng, n, family):
    values = {"a": by_seed(rng.normal(1, 0.8, n)), "b": by_seed(np.zeros(n))}
    found, *_ = judge(values, *[greater("a", "b")] * family, metric=ERROR)
    assert stats.power(found.detectable, found.difference.sd, n, stats.ALPHA / family) == pytest.approx(0.8)


@pytest.mark.parametrize(("sd", "n"), [(0, 12), (1, 1)])
def test_power_refuses_what_has_no_test(sd, n):
    with pytest.raises(ValueError, match="at least 2 seeds and a positive sd"):
        stats.power(1, sd, n)


# Holm.


def test_holm_by_hand():
    """Sorted .01 .02 .03 .04 times 4 3 2 1 is .04 .06 .06 .04, and never less than the one before."""
    assert stats.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert stats.holm([0.6, 0.9]) == [1.0, 1.0]
    assert stats.holm([0.03]) == [0.03]
    assert stats.holm([]) == []


# Verdicts.


def test_greater_is_decided_by_the_sign(rng):
    values = {"linear": by_seed(rng.normal(0.98, 0.004, 12)), "relu6": by_seed(rng.normal(0.97, 0.004, 12))}
    (right,) = judge(values, greater("linear", "relu6", published=0.62))
    (wrong,) = judge(values, greater("relu6", "linear"))
    assert (right.outcome, wrong.outcome) == ("supported", "contradicted")
    assert right.contrast.published == 0.62
    points = 100 * np.mean([values["linear"][seed] - values["relu6"][seed] for seed in range(12)])
    assert right.difference.mean == pytest.approx(points) == -wrong.difference.mean
    assert verdict_sentence(right, ACCURACY).startswith(
        f"Supported within this budget: linear exceeds relu6 by {points:.2f} points ["
    )
    against = f"Contradicted within this budget: linear exceeds relu6 by {points:.2f} points"
    assert verdict_sentence(wrong, ACCURACY).startswith(against)
    assert "Holm" not in verdict_sentence(right, ACCURACY)


def test_a_null_result_says_what_could_have_been_found(rng):
    values = {"a": by_seed(rng.normal(0.97, 0.01, 12)), "b": by_seed(rng.normal(0.97, 0.01, 12))}
    (verdict,) = judge(values, greater("a", "b"))
    assert verdict.outcome == "no difference found"
    sentence, effect = verdict_sentence(verdict, ACCURACY), verdict.detectable
    assert "No difference found within this budget" in sentence
    assert f"; these 12 seeds would find a true difference of {effect:.2f} points with 80 % power" in sentence
    sentence = verdict_sentence(verdict, ACCURACY, tests=3)
    assert "; at Holm's level of 3 contrasts these 12 seeds would find a true difference of" in sentence


def test_holm_runs_over_the_declared_contrasts_with_and_without_runs():
    """.015 alone would be supported; of three it is .045, of four .06, whether or not the others have runs yet."""
    spread = np.array([-1.0, 0.0, 1.0, 2.0, -2.0])
    shift = scipy_stats.t.isf(0.0075, 4) * spread.std(ddof=1) / math.sqrt(5)
    values = {"base": by_seed(np.zeros(5)), "up": by_seed(spread + shift), "same": by_seed(spread)}
    contrasts = (greater("up", "base"), greater("same", "base"), greater("missing", "base"))
    first, second, third = judge(values, *contrasts, metric=ERROR)
    assert (first.p, first.adjusted) == (pytest.approx(0.015), pytest.approx(0.045))
    assert (first.outcome, second.outcome) == ("supported", "no difference found")
    assert "(Holm)" in verdict_sentence(first, ERROR, tests=3)
    assert third.outcome == "not enough runs yet"
    assert math.isnan(third.adjusted)
    first, *_ = judge(values, *contrasts, greater("late", "base"), metric=ERROR)
    assert (first.adjusted, first.outcome) == (pytest.approx(0.06), "no difference found")


def test_benjamini_hochberg_is_scipys_and_leaves_out_what_was_not_tested(rng):
    p = list(rng.uniform(0, 0.2, 20))
    expected = scipy_stats.false_discovery_control(p)
    assert stats.benjamini_hochberg([math.nan, *p])[1:] == pytest.approx(list(expected))
    assert math.isnan(stats.benjamini_hochberg([math.nan, *p])[0])


@pytest.mark.parametrize("asked_by", ["reader", "ours"])
def test_only_the_papers_own_sentence_is_contradicted(rng, asked_by):
    values = {"a": by_seed(rng.normal(0.98, 0.001, 6)), "b": by_seed(rng.normal(0.97, 0.001, 6))}
    papers, other = judge(values, greater("b", "a"), greater("b", "a", asked_by=asked_by))
    assert (papers.outcome, other.outcome) == ("contradicted", "the opposite found")
    assert "The paper does not say so" in verdict_sentence(other, ACCURACY)
    assert "The paper" not in verdict_sentence(papers, ACCURACY)


def test_the_interval_for_new_images_by_hand(rng):
    """Nadeau and Bengio 2003: t of n - 1 degrees times sd sqrt(1 / n + test / train)."""
    d = rng.normal(1, 1, 12)
    measured = stats.difference(by_seed(d), by_seed(np.zeros(12)))
    found = stats.for_new_images(measured, train=600, test=897)
    half = scipy_stats.t.ppf(0.975, 11) * d.std(ddof=1) * math.sqrt(1 / 12 + 897 / 600)
    assert (found.low, found.high) == pytest.approx((d.mean() - half, d.mean() + half))
    same = stats.difference(by_seed(np.ones(3)), by_seed(np.zeros(3)))
    assert math.isnan(stats.for_new_images(same, 600, 897).low)


def test_one_seed_is_not_enough():
    for contrast in (greater("a", "b"), equivalent("a", "b", margin=1), rise("a", "b")):
        (verdict,) = judge({"a": {0: 0.9, 1: 0.9}, "b": {1: 0.8}}, contrast)
        assert verdict.outcome == "not enough runs yet"
        assert "seeds finished in each of a, b: 1" in verdict_sentence(verdict, ACCURACY)


def test_equivalence_is_two_one_sided_tests(rng):
    """Against scipy's one-sided tests, and its mirror image where the difference is outside the margin."""
    d = rng.normal(0.1, 0.3, 10)
    values = {"a": by_seed(d), "b": by_seed(np.zeros(10)), "far": by_seed(d + 2), "near": by_seed(d - 0.5)}

    def tost(differences):
        return max(
            scipy_stats.ttest_1samp(differences, 0.5, alternative="less").pvalue,
            scipy_stats.ttest_1samp(differences, -0.5, alternative="greater").pvalue,
        )

    def of(*arms):
        return judge(values, equivalent(*arms, margin=0.5), metric=ERROR)[0]

    inside, outside, unclear = of("a", "b"), of("b", "far"), of("near", "b")
    assert inside.outcome == "supported"
    assert inside.p == pytest.approx(tost(d))
    assert "inside ±0.5" in verdict_sentence(inside, ERROR)
    assert outside.outcome == "contradicted"
    assert outside.p == pytest.approx(scipy_stats.ttest_1samp(-d - 2, -0.5, alternative="less").pvalue)
    assert outside.p == pytest.approx(1 - tost(-d - 2), abs=1e-12)
    assert unclear.outcome == "no equivalence shown"


def test_equivalence_margin_is_in_points():
    values = {"a": by_seed([0.980, 0.981, 0.982, 0.981]), "b": by_seed([0.981, 0.981, 0.981, 0.981])}
    assert judge(values, equivalent("a", "b", margin=0.5))[0].outcome == "supported"
    assert judge(values, equivalent("a", "b", margin=0.005))[0].outcome == "no equivalence shown"


@pytest.mark.parametrize(("b", "outcome"), [(0.0, "supported"), (0.5, "no equivalence shown"), (2.0, "contradicted")])
def test_equivalence_without_spread(b, outcome):
    values = {"a": by_seed([0.0] * 6), "b": by_seed([b] * 6)}
    (verdict,) = judge(values, equivalent("a", "b", margin=0.5), metric=ERROR)
    assert verdict.outcome == outcome


def rise(*arms, sign=1):
    return trend(arms, (1, 2, 4)[: len(arms)], sign)


def test_trend_is_a_test_of_least_squares_slopes(rng):
    x = np.array([1, 2, 4])
    y = 3.0 - 0.2 * x[:, None] + rng.normal(0, 0.1, (3, 8))
    values = {name: by_seed(row) for name, row in zip("abc", y, strict=True)}
    falls, rises = (judge(values, rise("a", "b", "c", sign=sign), metric=ERROR)[0] for sign in (-1, 1))
    slopes = np.polyfit(x, y, 1)[0]
    assert falls.difference.mean == pytest.approx(slopes.mean())
    assert falls.p == pytest.approx(scipy_stats.ttest_1samp(slopes, 0).pvalue)
    assert (falls.outcome, rises.outcome) == ("supported", "contradicted")
    assert "error falls from a to c" in verdict_sentence(falls, ERROR)


def test_interaction_is_the_trend_of_the_pairs_leads(rng):
    levels = (5, 4, 5, 4.5, 5, 5)
    values = {arm: by_seed(rng.normal(level, 0.1, 6)) for arm, level in zip("abcdef", levels, strict=True)}
    contrast = interaction([("a", "b"), ("c", "d"), ("e", "f")], (1, 2, 4), sign=-1)
    (found,) = judge(values, contrast, metric=ERROR)
    leads = {x: stats.paired(values[one], values[two]) for x, (one, two) in zip("xyz", ("ab", "cd", "ef"), strict=True)}
    (expected,) = judge(leads, rise("x", "y", "z", sign=-1), metric=ERROR)
    assert found.difference.mean == pytest.approx(expected.difference.mean)
    assert found.p == pytest.approx(expected.p)
    assert found.outcome == "supported"
    sentence = verdict_sentence(found, ERROR)
    assert "the lead of a over b shrinks towards e over f, slope -0.281 [" in sentence


def test_straight_tests_the_bend_of_the_parabola(rng):
    """The least-squares parabola is 0.5 above its chord in the middle, as x (8 - x) / 32 is over 0 to 8."""
    x = np.array([0.0, 2.0, 4.0, 8.0])
    bent = 3 * x + x * (8 - x) / 32 + rng.normal(0, 0.05, (9, 4))
    values = {name: by_seed(column) for name, column in zip("abcd", bent.T, strict=True)}
    inside, outside = (judge(values, straight("abcd", list(x), margin), metric=ERROR)[0] for margin in (0.7, 0.2))
    sagittas = -np.polyfit(x, bent.T, 2)[0] * 4**2
    assert inside.difference.mean == pytest.approx(sagittas.mean()) == pytest.approx(0.5, abs=0.1)
    assert (inside.outcome, outside.outcome) == ("supported", "contradicted")
    p = scipy_stats.ttest_1samp(sagittas, 0.7, alternative="less").pvalue
    assert inside.p == pytest.approx(p)
    assert "the bend from a to d is +0." in verdict_sentence(inside, ERROR)


def test_off_line_tests_the_distance_from_the_others_line(rng):
    x, y = np.array([1.0, 2.0, 3.0, 5.0]), rng.normal([0.0, 4.0, 5.0, 7.0], 0.1, (8, 4))
    values = {name: by_seed(column) for name, column in zip("abcd", y.T, strict=True)}
    below, above = (judge(values, off_line("abcd", list(x), sign=sign), metric=ERROR)[0] for sign in (-1, 1))
    slope, height = np.polyfit(x[1:], y[:, 1:].T, 1)
    distances = y[:, 0] - (slope * x[0] + height)
    assert below.difference.mean == pytest.approx(distances.mean())
    assert below.p == pytest.approx(scipy_stats.ttest_1samp(distances, 0).pvalue)
    assert (below.outcome, above.outcome) == ("supported", "contradicted")
    assert "a lies below the line through b, c, d, by -" in verdict_sentence(below, ERROR)


def test_trend_needs_a_seed_in_every_arm(rng):
    values = {name: by_seed(rng.normal(0, 1, 5)) for name in "abc"}
    del values["b"][3]
    assert judge(values, rise("a", "b", "c"), metric=ERROR)[0].difference.n == 4


def test_trend_of_equal_arms_is_flat_even_when_rounded():
    values = {"a": by_seed([0.3] * 12), "b": by_seed([0.1 + 0.2] * 12), "c": by_seed([0.3] * 12)}
    (verdict,) = judge(values, rise("a", "b", "c"), metric=ERROR)
    assert (verdict.outcome, verdict.p, verdict.difference.mean) == ("no difference found", 1, 0)


def test_a_misspelt_kind_is_refused():
    with pytest.raises(UserError, match=r"'bigger'.*; allowed: greater, equivalent, trend, interaction, straight, "):
        parse({"contrasts": [{"kind": "bigger", "arms": ["a", "b"]}]}, "a test")


# How often the verdicts are wrong.

TRIALS = 4000
BOUND = 4 * math.sqrt(0.05 * 0.95 / TRIALS)


def test_interval_covers_the_truth_95_times_in_100(rng):
    found = [stats.estimate(values) for values in rng.normal(1, 2, (TRIALS, 5))]
    assert np.mean([e.low < 1 < e.high for e in found]) == pytest.approx(0.95, abs=BOUND)


def test_an_arm_against_itself_differs_5_times_in_100(rng):
    pairs = rng.normal(0, 1, (TRIALS, 2, 6))
    found = [stats.difference(by_seed(a), by_seed(b)).p < stats.ALPHA for a, b in pairs]
    assert np.mean(found) == pytest.approx(0.05, abs=BOUND)


def test_any_false_verdict_among_three_contrasts_5_times_in_100(rng):
    contrasts = (greater("a", "b"), greater("c", "d"), rise("e", "f", "g"))
    arms = rng.normal(0, 1, (TRIALS, 7, 6))
    wrong = [
        any(
            verdict.outcome in ("supported", "contradicted")
            for verdict in stats.verdicts(contrasts, dict(zip("abcdefg", map(by_seed, trial), strict=True)))
        )
        for trial in arms
    ]
    assert np.mean(wrong) == pytest.approx(0.05, abs=BOUND)


@pytest.mark.parametrize("wrong", ["supported", "contradicted"])
def test_equivalence_at_its_margin_errs_5_times_in_100(rng, wrong):
    contrasts = (equivalent("a", "b", margin=0.5),)
    judged = [
        stats.verdicts(contrasts, {"a": by_seed(values), "b": by_seed(np.zeros(30))})[0].outcome
        for values in rng.normal(0.5, 0.5, (TRIALS, 30))
    ]
    assert judged.count(wrong) / TRIALS == pytest.approx(0.05, abs=BOUND)


# Seeds until an interval is narrow enough.


def width(value):
    return value.high - value.low


def test_the_pilots_spread_gives_interval_and_test(rng):
    """By hand: mean of all ten, sd of the first four, t of 3 degrees of freedom."""
    a, b = rng.normal(1, 1, (2, 10))
    found, d = stats.difference(by_seed(a), by_seed(b), pilot=4), a - b
    sd = d[:4].std(ddof=1)
    half = scipy_stats.t.ppf(0.975, 3) * sd / math.sqrt(10)
    assert (found.n, found.degrees) == (10, 3)
    assert (found.mean, found.sd, width(found) / 2) == pytest.approx((d.mean(), sd, half))
    assert found.p == pytest.approx(2 * scipy_stats.t.sf(abs(d.mean()) / sd * math.sqrt(10), 3))
    detectable = judge({"a": by_seed(a), "b": by_seed(b)}, greater("a", "b"), metric=ERROR, pilot=4)[0].detectable
    assert stats.power(detectable, sd, 10, degrees=3) == pytest.approx(0.8)
    assert stats.difference(by_seed(a[:4]), by_seed(b[:4]), pilot=4) == stats.difference(by_seed(a[:4]), by_seed(b[:4]))


def test_a_pilot_without_spread_does_not_make_the_rest_certain():
    values = [1.0, 1.0, 1.0, 0.0, 2.0, -4.0]
    assert stats.estimate(values, pilot=3) == stats.estimate(values)


@pytest.mark.parametrize("kind", ["greater", "trend"])
def test_the_seeds_asked_for_make_the_interval_narrow(rng, kind):
    """Of a trend, the rise from the first x to the last."""
    arms = {name: by_seed(values) for name, values in zip("abc", rng.normal(0.9, 0.01, (3, 100)), strict=True)}
    contrast, span = (greater("a", "b"), 1) if kind == "greater" else (rise("a", "b", "c"), 3)
    first = {name: {seed: of_seed[seed] for seed in range(6)} for name, of_seed in arms.items()}
    n = stats.seeds_for_width([contrast], first, 1.5, factor=100)
    assert n > 6

    def of(n):
        values = {name: {seed: of_seed[seed] for seed in range(n)} for name, of_seed in arms.items()}
        return judge(values, contrast, pilot=6)[0]

    assert span * width(of(n).difference) <= 1.5 < span * width(of(n - 1).difference)
    sentence = verdict_sentence(of(n), ACCURACY, pilot=6)
    assert f"The number of seeds, {n}, followed from the width" in sentence
    assert "spread of the first 6" in sentence
    assert stats.seeds_for_width([contrast], first, 1000, factor=100) == 6


@pytest.mark.parametrize("target", [1.0, 1.5, 2.5])
@pytest.mark.parametrize("pilot", [3, 5, 12])
def test_stopping_on_width_covers_the_truth_95_times_in_100(rng, pilot, target):
    """Stein's interval does; the ordinary one of as many seeds does not, where the width decides."""
    trials, contrasts, differences = 1000, [greater("a", "b")], rng.normal(0, 1, (1000, 2000))
    stein, ordinary, wrong = 0, 0, 0
    for row in differences:
        zero = dict.fromkeys(range(pilot), 0.0)
        n = min(stats.seeds_for_width(contrasts, {"a": by_seed(row[:pilot]), "b": zero}, target), len(row))
        found, usual = stats.estimate(row[:n], pilot), stats.estimate(row[:n])
        stein += found.low < 0 < found.high
        ordinary += usual.low < 0 < usual.high
        wrong += stats.difference(by_seed(row[:n]), dict.fromkeys(range(n), 0.0), pilot).p < 0.05
    bound = 4 * math.sqrt(0.05 * 0.95 / trials)
    assert stein / trials == pytest.approx(0.95, abs=bound)
    assert wrong == trials - stein
    if pilot == 3:
        assert ordinary / trials < 0.935


# Every kind of verdict once more, from rows and scipy alone.


@pytest.mark.parametrize("seed", range(8))
def test_verdicts_recomputed_by_scipy(seed):
    """Random rows of six arms, seeds shuffled and some missing; Holm as a loop over the sorted p."""
    rng = np.random.default_rng(seed)
    n, names, x = int(rng.integers(3, 15)), "abcdef", [1.0, 2.0, 4.0, 8.0]
    spread = rng.uniform(0.002, 0.02)
    rows = [
        {"arm": name, "seed": number, "accuracy": float(rng.normal(0.9 + 0.004 * index, spread))}
        for index, name in enumerate(names)
        for number in rng.permutation(n)
    ]
    values = {name: {row["seed"]: row["accuracy"] for row in rows if row["arm"] == name} for name in names}
    contrasts = [
        greater("b", "a"),
        trend("abcd", x),
        equivalent("e", "f", margin=1.0),
        interaction([("a", "b"), ("c", "d"), ("e", "f")], (1, 2, 3), sign=-1),
    ]
    column = {name: 100 * np.array([values[name][number] for number in range(n)]) for name in names}
    slopes = [scipy_stats.linregress(x, [column[name][number] for name in "abcd"]).slope for number in range(n)]
    leads = [[column[one][number] - column[other][number] for one, other in ("ab", "cd", "ef")] for number in range(n)]
    growth = [scipy_stats.linregress([1, 2, 3], lead).slope for lead in leads]
    d = column["e"] - column["f"]
    inside = max(
        scipy_stats.ttest_1samp(d, 1, alternative="less").pvalue,
        scipy_stats.ttest_1samp(d, -1, alternative="greater").pvalue,
    )
    paired = scipy_stats.ttest_rel(column["b"], column["a"])
    expected = [
        (paired.pvalue, np.mean(column["b"] - column["a"]) > 0),
        (scipy_stats.ttest_1samp(slopes, 0).pvalue, np.mean(slopes) > 0),
        (min(inside, 1 - inside), inside < 0.5),
        (scipy_stats.ttest_1samp(growth, 0).pvalue, np.mean(growth) < 0),
    ]
    adjusted, running = {}, 0.0
    for rank, index in enumerate(np.argsort([p for p, _ in expected])):
        running = max(running, min(1.0, (4 - rank) * expected[index][0]))
        adjusted[index] = running
    for index, verdict in enumerate(judge(values, *contrasts)):
        p, agrees = expected[index]
        assert verdict.p == pytest.approx(p)
        assert verdict.adjusted == pytest.approx(adjusted[index])
        outcome = "supported" if agrees else "contradicted"
        if adjusted[index] >= 0.05:
            outcome = "no equivalence shown" if verdict.contrast.kind == "equivalent" else "no difference found"
        assert verdict.outcome == outcome
    first = judge(values, contrasts[0])[0].difference
    assert (first.low, first.high) == pytest.approx(tuple(paired.confidence_interval(0.95)))
