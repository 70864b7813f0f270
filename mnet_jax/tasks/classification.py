"""Image classification: the loss, and the sums that its metrics are made of."""

import jax
import jax.numpy as jnp
import optax


def loss(logits_BK: jax.Array, labels: jax.Array, label_smoothing: float) -> jax.Array:
    """Mean cross-entropy in nats against labels smoothed towards uniform (Szegedy et al. 2016, section 7).

    `labels` are classes, int32 [B], or each class's share of a mixed image, float32 [B, K].
    """
    shares_BK = jax.nn.one_hot(labels, logits_BK.shape[-1], dtype=logits_BK.dtype) if labels.ndim == 1 else labels
    targets_BK = optax.losses.smooth_labels(shares_BK.astype(logits_BK.dtype), label_smoothing)
    return optax.softmax_cross_entropy(logits_BK, targets_BK).mean()


def summed(classes: int) -> tuple[str, ...]:
    """The names of `sums`: "correct_top5" only where there are more than 10 classes."""
    return ("correct", "nll", "correct_top5") if classes > 10 else ("correct", "nll")


def sums(logits_BK: jax.Array, labels_B: jax.Array, mask_B: jax.Array) -> dict[str, jax.Array]:
    """Those of `summed`, over the images where `mask_B` is 1."""
    logits_BK = logits_BK.astype(jnp.float32)
    nll_B = optax.softmax_cross_entropy_with_integer_labels(logits_BK, labels_B)
    correct_B = (jnp.argmax(logits_BK, -1) == labels_B).astype(jnp.float32)
    found = {"correct": jnp.sum(correct_B * mask_B), "nll": jnp.sum(jnp.where(mask_B > 0, nll_B, 0.0))}
    if "correct_top5" in summed(logits_BK.shape[-1]):
        _, best_B5 = jax.lax.top_k(logits_BK, 5)
        found["correct_top5"] = jnp.sum(jnp.any(best_B5 == labels_B[:, None], -1).astype(jnp.float32) * mask_B)
    return found
