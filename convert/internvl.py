"""InternVL3.5: what a checkpoint's shapes do not tell is the same for all its sizes."""

import math
from collections.abc import Mapping
from typing import Any

FAMILY = "InternVL3_5"  # in the name of every size, 1B to 38B
VIT_HEAD_DIM = 64


def config_from_shapes(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> dict[str, Any]:
    """config.json of an InternVL3.5 by the shapes of its weights, whose keys begin with `prefix`.

    Raises ValueError naming the key that is missing.
    """
    vision, language = f"{prefix}vision_model", f"{prefix}language_model"
    layer = f"{language}.model.layers.0"
    try:
        embedding = shapes[f"{vision}.embeddings.patch_embedding.weight"]
        positions = shapes[f"{vision}.embeddings.position_embedding"][1]
        vocab, hidden = shapes[f"{language}.model.embed_tokens.weight"]
        head_dim = shapes[f"{layer}.self_attn.q_norm.weight"][0]
        queries = shapes[f"{layer}.self_attn.q_proj.weight"][0]
        keys = shapes[f"{layer}.self_attn.k_proj.weight"][0]
        mlp = shapes[f"{layer}.mlp.gate_proj.weight"][0]
        vit_mlp = shapes[f"{vision}.encoder.layers.0.mlp.fc1.weight"][0]
    except KeyError as error:
        raise ValueError(f"the checkpoint lacks {error.args[0]}") from error
    return {
        "select_layer": -1,
        "ps_version": "v2",
        "downsample_ratio": 0.5,
        "vision_config": {
            "image_size": math.isqrt(positions - 1) * embedding[2],
            "patch_size": embedding[2],
            "hidden_size": embedding[0],
            "num_hidden_layers": _layers(shapes, f"{vision}.encoder.layers."),
            "num_attention_heads": embedding[0] // VIT_HEAD_DIM,
            "intermediate_size": vit_mlp,
            "layer_norm_eps": 1e-6,
            "qk_normalization": False,
            "norm_type": "layer_norm",
            "qkv_bias": True,
        },
        "llm_config": {
            "vocab_size": vocab,
            "hidden_size": hidden,
            "num_hidden_layers": _layers(shapes, f"{language}.model.layers."),
            "num_attention_heads": queries // head_dim,
            "num_key_value_heads": keys // head_dim,
            "head_dim": head_dim,
            "intermediate_size": mlp,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "attention_bias": False,
            "max_position_embeddings": 40960,
            "tie_word_embeddings": f"{language}.lm_head.weight" not in shapes,
        },
    }


def _layers(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    return len({key[len(prefix) :].split(".")[0] for key in shapes if key.startswith(prefix)})
