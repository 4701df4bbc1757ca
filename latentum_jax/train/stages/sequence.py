"""The dual sequence of section 3.3, built on the device from a batch of rows (`data.interleaved`).

U is everything as it is read, through the understanding branch. G holds, for each target picture,
`<img>` and its visual tokens but the last (whose output nothing needs), through the generation
branch; its positions continue those of U from the place of U's own `<img>`.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import struct

from latentum_jax.images import normalise
from latentum_jax.kernels.placement import Placement
from latentum_jax.models.latentum import LatentUM, Params
from latentum_jax.models.mome import UND_BLIND, Stream

Batch = Mapping[str, jax.Array]
FIRST_G_BLOCK = 1 << 16  # above every question block of U


class Pictures(struct.PyTreeNode):
    """What a batch's pictures [B J ...] became: features V, z_q and codes (None if not needed); of
    pictures that were encoded before there are codes alone."""

    features: jax.Array | None = None
    z_q: jax.Array | None = None
    codes: jax.Array | None = None


def read_pictures(model: LatentUM, params: Params, batch: Batch, *, quantize: bool) -> Pictures:
    """Encodes every picture of a batch once, and quantizes it where `quantize`.

    Pixels beside codes are those of the first pictures, which are read alone.

    Raises ValueError where features are wanted of pictures that the batch has as codes.
    """
    if "codes" in batch and "pixels" in batch:
        features = read_pictures(
            model, params, {"pixels": batch["pixels"]}, quantize=False
        ).features
        rest = batch["codes"].shape[1] - features.shape[1]
        return Pictures(
            jnp.pad(features, [(0, 0), (0, rest), (0, 0), (0, 0)]), codes=batch["codes"]
        )
    if "codes" in batch:
        if not quantize:
            raise ValueError("the data has pictures as codes, this stage reads their features")
        return Pictures(codes=batch["codes"])
    b, j = batch["pixels"].shape[:2]
    pixels = normalise(batch["pixels"].reshape(b * j, *batch["pixels"].shape[2:]))
    features = apply(model, params, "encode_image", pixels)
    split = lambda x: x.reshape(b, j, *x.shape[1:])  # noqa: E731
    if not quantize:
        return Pictures(split(features))
    quantized = apply(model, params, "quantize", features)
    return Pictures(split(features), split(quantized.z_q), split(quantized.codes))


def random_codes(key: jax.Array, codes: jax.Array, num_codes: int, ratio: float) -> jax.Array:
    """Replaces a share of the codes by random ones: the robustness noise of section 3.3."""
    if not ratio:
        return codes
    where, what = jax.random.split(key)
    noise = jax.random.randint(what, codes.shape, 0, num_codes)
    return jnp.where(jax.random.bernoulli(where, ratio, codes.shape), noise, codes)


def understanding_inputs(
    model: LatentUM, params: Params, batch: Batch, pictures: jax.Array
) -> jax.Array:
    """x_u [B T D]: text embeddings, with the picture embeddings [B J L D] in their slots."""
    b, d = pictures.shape[0], pictures.shape[-1]
    index = batch["image_index"][..., None]
    slots = jnp.take_along_axis(pictures.reshape(b, -1, d), jnp.maximum(index, 0), axis=1)
    return jnp.where(index >= 0, slots, apply(model, params, "embed", batch["tokens"]))


def shown_pictures(
    model: LatentUM, params: Params, batch: Batch, pictures: Pictures, codes: jax.Array | None
) -> jax.Array:
    """Embeddings [B J L D] as U reads them: mlp1's, or visual_projector's of `codes`."""
    if pictures.features is None:
        return apply(model, params, "show", codes)
    b, j = pictures.features.shape[:2]
    flat = pictures.features.reshape(b * j, *pictures.features.shape[2:])
    continuous = apply(model, params, "understand", flat)
    continuous = continuous.reshape(b, j, *continuous.shape[1:])
    if codes is None:
        return continuous
    return jnp.where(
        batch["as_codes"][:, :, None, None], apply(model, params, "show", codes), continuous
    )


def understanding_placement(batch: Batch) -> Placement:
    """Placement of U as the rows state it."""
    names = ("position", "block", "context", "valid", "base")
    return Placement(*(batch[name] for name in names))


def earlier_tokens(
    key: jax.Array, codes: jax.Array, target: jax.Array, slots: jax.Array, ratio: float
) -> jax.Array:
    """Replaces visual tokens of targets [B G L C] by those in the same place of earlier pictures.

    Teacher forcing lets a G block read off its own first tokens what has changed since the picture
    before; at inference these are its own guesses. With stale tokens among them it must work out
    the change from U. The share of each block is uniform up to twice `ratio`.
    """
    if not ratio:
        return target
    share, where, which = jax.random.split(key, 3)
    b, g, length, _ = target.shape
    shares = jax.random.uniform(share, (b, g, 1), maxval=2 * ratio)
    stale = jax.random.uniform(where, (b, g, length)) < shares
    before = jax.random.uniform(which, (b, g, length)) * slots[:, :, None]
    index = (jnp.arange(b)[:, None, None], before.astype(jnp.int32), jnp.arange(length))
    return jnp.where(stale[..., None], codes[index], target)


def generation_inputs(
    model: LatentUM,
    params: Params,
    batch: Batch,
    codes: jax.Array,
    img: int,
    key: jax.Array,
    stale: float,
) -> tuple[jax.Array, jax.Array]:
    """x_g [B G*L D] and the target codes [B G L C] of every G block."""
    slots = batch["target_slot"][:, :, None, None]
    target = jnp.take_along_axis(codes, slots, axis=1)
    b, g, length, _ = target.shape
    boi = apply(model, params, "embed", jnp.full((b, g), img))[:, :, None]
    given = earlier_tokens(key, codes, target, batch["target_slot"], stale)
    shown = apply(model, params, "show", given[:, :, :-1])
    x = jnp.concatenate([boi, shown], axis=2)
    return x.reshape(b, g * length, -1), target


def generation_placement(batch: Batch, length: int, cut: str) -> Placement:
    """Placement of the G blocks.

    `cut` "exclusive": a block sees U before its own `<img>`, as at inference; "inclusive": U's
    `<img>` too, as in the published training code. A block that answers a question of U (one of
    several futures of one past, say) stands in that question's own block, and so sees it whole.
    """
    if cut not in ("exclusive", "inclusive"):
        raise ValueError(f"cut is {cut!r}, expected 'exclusive' or 'inclusive'")
    start = batch["target_position"][:, :, None]
    b, g, _ = start.shape
    shape = (b, g, length)
    asked = batch["target_block"][..., None]
    block = jnp.where(asked > 0, asked, FIRST_G_BLOCK + jnp.arange(g)[None, :, None])
    seen = start - 1 if cut == "exclusive" else start
    flat = lambda x: jnp.broadcast_to(x, shape).reshape(b, g * length)  # noqa: E731
    return Placement(
        flat(start + jnp.arange(length)),
        flat(block),
        flat(seen),
        flat(batch["target_valid"][..., None]),
        flat(batch["target_base"][..., None]),
    )


def dual_sequence(
    model: LatentUM,
    params: Params,
    batch: Batch,
    key: jax.Array,
    *,
    img: int,
    noise: float = 0.0,
    stale: float = 0.0,
    cut: str = "exclusive",
    und_learns: bool = True,
) -> tuple[dict[str, jax.Array], jax.Array | None]:
    """One pass over U and G: hidden states of both branches and the target codes [B G L C].

    Rows without room for targets have no G: the codes are None then. Where nothing in U learns, it
    takes no part in the backward pass.
    """
    pictures = read_pictures(model, params, batch, quantize=True)
    codes = jax.lax.stop_gradient(pictures.codes)
    seen = random_codes(key, codes, model.config.quantizer.codebook_size, noise)
    und = understanding_inputs(
        model, params, batch, shown_pictures(model, params, batch, pictures, seen)
    )
    und = und if und_learns else jax.lax.stop_gradient(und)
    x, at = {"und": und}, {"und": understanding_placement(batch)}
    target = None
    if batch["target_slot"].shape[1]:
        stale_key = jax.random.fold_in(key, 1)
        x["gen"], target = generation_inputs(model, params, batch, codes, img, stale_key, stale)
        at["gen"] = generation_placement(batch, target.shape[2], cut)
    hidden, _ = apply(model, params, "hidden", x, Stream(at, UND_BLIND))
    return hidden, target


def text_count(batch: Batch) -> jax.Array:
    """What the words of a batch that are learnt weigh in all, see `losses.over_words`."""
    return jnp.sum((batch["weights"] * (batch["labels"] >= 0))[:, 1:])


def apply(model: LatentUM, params: Params, method: str, *args: object) -> object:
    """`model.method(*args)` with these parameters."""
    return model.apply({"params": params}, *args, method=method)
