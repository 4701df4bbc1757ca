"""The language model once more, slow and plain: numpy in float64, tokens in sequence order.

Both branches are computed for every token and a mask selects one, as the public code does.
"""

import numpy as np

from latentum_jax.config import LanguageConfig


def twin(params, config: LanguageConfig, x, is_gen, position, sees):
    """Final-normed hidden states [B T D].

    x: embeddings [B T D]; is_gen: bool [B T]; position: int [B T]; sees: bool [B T T], whose rows
    for tokens that count must not be empty.
    """
    x = np.asarray(x, np.float64)

    def choose(und, gen):
        return np.where(is_gen.reshape(*is_gen.shape, *[1] * (und.ndim - 2)), gen, und)

    for i in range(config.num_layers):
        layer = _layer(params["layers"], i)
        both = layer["und"], layer["gen"]
        h = _rms(x, layer["input_norm"], config.rms_eps)
        q, k, v = (
            choose(*(_project(h, branch, name, position, config) for branch in both))
            for name in ("q", "k", "v")
        )
        mixed = _attend(q, k, v, sees)
        x = x + choose(*(mixed @ branch["o_proj"]["kernel"] for branch in both))
        h = _rms(x, layer["post_attention_norm"], config.rms_eps)
        x = x + choose(*(_swiglu(h, branch["mlp"]) for branch in both))
    return _rms(x, _layer(params["norm"]), config.rms_eps)


def _layer(tree, index=None):
    if isinstance(tree, dict):
        return {name: _layer(value, index) for name, value in tree.items()}
    return np.asarray(tree, np.float64)[... if index is None else index]


def _rms(x, norm, eps):
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + eps) * norm["scale"]


def _project(h, branch, name, position, config):
    out = h @ branch[f"{name}_proj"]["kernel"]
    out = out.reshape(*h.shape[:2], -1, config.head_dim)
    if name == "v":
        return out
    out = _rms(out, branch[f"{name}_norm"], config.rms_eps)
    half = config.head_dim // 2
    angle = position[..., None, None] * config.rope_theta ** (-np.arange(half) / half)
    turned = (out[..., :half] + 1j * out[..., half:]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], -1)


def _attend(q, k, v, sees):
    group = q.shape[2] // k.shape[2]
    k, v = np.repeat(k, group, axis=2), np.repeat(v, group, axis=2)
    scores = np.einsum("btnh,bsnh->bnts", q, k) * q.shape[-1] ** -0.5
    scores = np.where(sees[:, None], scores, -1e30)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out = np.einsum("bnts,bsnh->btnh", weights, v)
    return out.reshape(*out.shape[:2], -1)


def _swiglu(h, mlp):
    gate = h @ mlp["gate_proj"]["kernel"]
    mixed = gate / (1 + np.exp(-gate)) * (h @ mlp["up_proj"]["kernel"])
    return mixed @ mlp["down_proj"]["kernel"]


def branch_major(values, is_gen, fill=0):
    """Sequence order [B T ...] to {"und": [B U ...], "gen": [B G ...]}, rows padded with `fill`."""
    out = {}
    for name, mine in (("und", ~is_gen), ("gen", is_gen)):
        width = max(mine.sum(1))
        out[name] = np.full((len(values), width, *values.shape[2:]), fill, values.dtype)
        for row, (value, pick) in enumerate(zip(values, mine, strict=True)):
            out[name][row, : pick.sum()] = value[pick]
    return out


def sequence_order(branches, is_gen):
    """The inverse of `branch_major`."""
    und, gen = np.asarray(branches["und"]), np.asarray(branches["gen"])
    out = np.zeros((*is_gen.shape, *und.shape[2:]), und.dtype)
    for row, pick in enumerate(is_gen):
        out[row, pick] = gen[row, : pick.sum()]
        out[row, ~pick] = und[row, : (~pick).sum()]
    return out
