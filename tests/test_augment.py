"""Augmentation on the device: each transform does what its paper says, and what is off leaves no trace."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnet_jax import config
from mnet_jax.data import augment
from mnet_jax.tasks import classification

KEY = jax.random.key(5)


def images(B=64, H=12, W=10, C=3):
    return jnp.asarray(np.random.default_rng(0).integers(1, 256, (B, H, W, C)), jnp.uint8)


def augmented(key=KEY, C=3, **knobs):
    data = config.default().data
    for name, value in knobs.items():
        data[name] = value
    x_BHWC = images(C=C)
    targets = {"labels": jnp.arange(len(x_BHWC)) % 10}
    x_BHWC, targets = augment.batch(key, x_BHWC, targets, data, 10, (0.5,) * C, (0.25,) * C)
    return x_BHWC, targets["labels"]


def program(**knobs) -> str:
    data = config.default().data
    for name, value in knobs.items():
        data[name] = value

    def batch(key, x_BHWC, labels_B):
        return augment.batch(key, x_BHWC, {"labels": labels_B}, data, 10, (0.5,) * 3, (0.25,) * 3)

    return str(jax.make_jaxpr(batch)(KEY, images(), jnp.zeros(64, jnp.int32)))


def test_what_is_off_is_not_in_the_program():
    def plain(key, x_BHWC, labels_B):
        return augment.normalize(augment.shift_flip(key, x_BHWC, 2, True), (0.5,) * 3, (0.25,) * 3), {
            "labels": labels_B
        }

    off = program(shift=2, flip=True)
    assert off == str(jax.make_jaxpr(plain)(KEY, images(), jnp.zeros(64, jnp.int32)))
    assert all(program(shift=2, flip=True, **{knob: 0.5}) != off for knob in ("jitter", "erase", "mixup", "cutmix"))


@pytest.mark.parametrize(("shift", "flip"), [(0, True), (2, False), (3, True)])
def test_images_and_masks_move_together(shift, flip):
    x_BHWC = images()
    plain = augment.shift_flip(KEY, x_BHWC, shift, flip)
    moved = augment.shift_flip(KEY, {"images": x_BHWC, "mask": x_BHWC[..., 0], "parts": x_BHWC[..., None]}, shift, flip)
    assert (plain != x_BHWC).any((1, 2, 3)).mean() > 0.3
    np.testing.assert_array_equal(moved["images"], plain)
    np.testing.assert_array_equal(moved["mask"], plain[..., 0])
    np.testing.assert_array_equal(moved["parts"], plain[..., None])


@pytest.mark.parametrize("mixing", [{}, {"mixup": 1.0}, {"cutmix": 1.0}])
def test_other_targets_pass(mixing):
    data = config.default().data
    for name, value in mixing.items():
        data[name] = value
    targets = {"labels": jnp.zeros(64, jnp.int32), "boxes": jnp.ones((64, 2, 4))}
    _, augmented_targets = augment.batch(KEY, images(), targets, data, 10, (0.5,) * 3, (0.25,) * 3)
    assert augmented_targets.keys() == targets.keys()
    assert augmented_targets["boxes"] is targets["boxes"]
    assert augmented_targets["labels"].shape == ((64, 10) if mixing else (64,))


@pytest.mark.parametrize("knob", ["jitter", "erase", "mixup", "cutmix"])
def test_the_key_decides(knob):
    (a, _), (again, _), (b, _) = (augmented(key, **{knob: 0.5}) for key in (KEY, KEY, jax.random.key(6)))
    np.testing.assert_array_equal(a, again)
    assert (a != b).any((1, 2, 3)).mean() > 0.2
    assert a.shape == (64, 12, 10, 3)


def test_jitter_scales_brightness_contrast_and_saturation():
    x_BHWC = images() // 4 + 96  # nothing is clipped
    out_BHWC = np.asarray(augment.jitter(KEY, x_BHWC, 0.3))
    weights_C = np.array([0.299, 0.587, 0.114])
    factors = []
    for x_HWC, out_HWC in zip(np.asarray(x_BHWC, np.float64), out_BHWC, strict=True):
        gray, gray_out = x_HWC @ weights_C, out_HWC @ weights_C
        brightness = gray_out.mean() / gray.mean()
        contrast = gray_out.std() / gray.std() / brightness
        color, color_out = x_HWC - gray[..., None], out_HWC - gray_out[..., None]
        saturation = (color * color_out).sum() / (color**2).sum() / brightness / contrast
        np.testing.assert_allclose(color_out, color * saturation * brightness * contrast, atol=1e-3)
        factors.append((brightness, contrast, saturation))
    factors = np.array(factors)
    assert factors.min() > 0.7 - 1e-4
    assert factors.max() < 1.3 + 1e-4
    assert np.all(factors.max(0) - factors.min(0) > 0.5)
    assert np.abs(np.corrcoef(factors.T) - np.eye(3)).max() < 0.5


def test_jitter_keeps_levels_in_range_and_gray_images_gray():
    out = augment.jitter(KEY, images(C=1), 1.0)
    assert out.shape == (64, 12, 10, 1)
    assert out.min() >= 0
    assert out.max() == 255
    gray = jnp.broadcast_to(images(C=1), (64, 12, 10, 3))
    np.testing.assert_allclose(jnp.ptp(augment.jitter(KEY, gray, 0.5), -1), 0, atol=1e-3)


def test_erasing_clears_one_rectangle_of_some_images():
    x_BHWC = jnp.ones((400, 32, 32, 2))
    out = np.asarray(augment.erase(KEY, x_BHWC, 0.5))
    erased_BHW = (out == 0).all(-1)
    assert ((out == 0) | (out == 1)).all()
    hit_B = erased_BHW.any((1, 2))
    assert 0.4 < hit_B.mean() < 0.6
    area = []
    for erased_HW in erased_BHW[hit_B]:
        rows, columns = erased_HW.any(1), erased_HW.any(0)
        assert (erased_HW == rows[:, None] & columns[None]).all()
        assert (np.diff(np.flatnonzero(rows)) == 1).all()
        assert (np.diff(np.flatnonzero(columns)) == 1).all()
        area.append(erased_HW.mean())
    assert 0.01 < min(area) < 0.05
    assert 0.3 < max(area) < 0.45


def test_mixup_averages_two_images_and_their_labels():
    plain, labels_B = augmented()
    mixed, shares_BK = augmented(mixup=1.0)
    np.testing.assert_allclose(shares_BK.sum(1), 1, rtol=1e-6)
    share_B = 1 - np.asarray(shares_BK)[np.arange(64), labels_B]
    other = np.roll(plain, 1, 0)
    np.testing.assert_allclose(mixed, plain + share_B[:, None, None, None] * (other - plain), atol=1e-5)
    np.testing.assert_allclose(np.asarray(shares_BK)[np.arange(64), np.roll(labels_B, 1)], share_B, atol=1e-6)
    assert share_B.min() < 0.1 < 0.9 < share_B.max()


def test_cutmix_pastes_a_rectangle_and_shares_the_label_by_its_area():
    plain, labels_B = augmented()
    mixed, shares_BK = augmented(cutmix=1.0)
    own, other = (np.isclose(mixed, x, atol=1e-5).all(-1) for x in (plain, np.roll(plain, 1, 0)))
    assert (own | other).all()
    share_B = 1 - np.asarray(shares_BK)[np.arange(64), labels_B]
    np.testing.assert_allclose(other.mean((1, 2)), share_B, atol=1e-6)
    assert share_B.min() < 0.1 < 0.6 < share_B.max()


def test_mixup_and_cutmix_take_turns():
    plain, _ = augmented()
    mixed, _ = augmented(mixup=1.0, cutmix=1.0)
    own, other = (np.isclose(mixed, x, atol=1e-5).all(-1) for x in (plain, np.roll(plain, 1, 0)))
    pasted_B = np.all(own | other, axis=(1, 2))
    assert 0.3 < pasted_B.mean() < 0.7


def test_shares_of_labels_give_the_average_loss():
    logits_BK = jax.random.normal(KEY, (4, 10))
    a_B, b_B = jnp.arange(4), jnp.arange(4) + 5
    shares_BK = 0.3 * jax.nn.one_hot(a_B, 10) + 0.7 * jax.nn.one_hot(b_B, 10)
    cfg = config.default()
    targets = ({"labels": a_B}, {"labels": b_B}, {"labels": a_B, "shares": shares_BK})
    losses = [classification.loss(logits_BK, of, cfg, None)[0] for of in targets]
    np.testing.assert_allclose(losses[2], 0.3 * losses[0] + 0.7 * losses[1], rtol=1e-6)
