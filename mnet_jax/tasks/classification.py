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


def sums(logits_BK: jax.Array, labels_B: jax.Array, mask_B: jax.Array) -> dict[str, jax.Array]:
    """{"correct", "nll"}: summed over the images where `mask_B` is 1."""
    logits_BK = logits_BK.astype(jnp.float32)
    nll_B = optax.softmax_cross_entropy_with_integer_labels(logits_BK, labels_B)
    correct_B = (jnp.argmax(logits_BK, -1) == labels_B).astype(jnp.float32)
    return {"correct": jnp.sum(correct_B * mask_B), "nll": jnp.sum(jnp.where(mask_B > 0, nll_B, 0.0))}
