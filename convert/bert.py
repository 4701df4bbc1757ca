"""Sentence encoders as sentence-transformers keeps them: BERT's weights and a tokenizer."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from tokenizers import Tokenizer

from latentum_jax.config import SentenceConfig
from latentum_jax.convert.table import LINEAR, Row, Table, layer_norm, linear, mlp
from latentum_jax.convert.weights import open_weights
from latentum_jax.latentumm.sentences import expected_shapes
from latentum_jax.models.folder import read_config
from latentum_jax.models.latentum import Params

PREFIX = "bert."
IGNORED = {
    r"pooler\..*": "of next-sentence prediction; sentences are averaged",
    r"cls\..*": "of word prediction",
    r"embeddings\.position_ids": "0, 1, 2, ...",
}


@dataclasses.dataclass(frozen=True)
class Sentences:
    """An encoder, its parameters, and how it is given words: at most `length` tokens of each."""

    config: SentenceConfig
    params: Params
    tokenizer: Tokenizer
    length: int


def table(config: SentenceConfig) -> Table:
    """The rows of a BERT."""
    layer, ours = "encoder.layer.{}", "layers"
    self_attention = [f"{layer}.attention.self.{name}" for name in ("query", "key", "value")]
    qkv = tuple(f"{key}.weight" for key in self_attention)
    biases = tuple(f"{key}.bias" for key in self_attention)
    rows = [
        Row("embeddings.word_embeddings.weight", "words"),
        Row("embeddings.position_embeddings.weight", "positions"),
        Row("embeddings.token_type_embeddings.weight", "types"),
        *layer_norm("embeddings.LayerNorm", "norm"),
        Row(qkv, f"{ours}/qkv/kernel", LINEAR),
        Row(biases, f"{ours}/qkv/bias"),
        *linear(f"{layer}.attention.output.dense", f"{ours}/proj"),
        *layer_norm(f"{layer}.attention.output.LayerNorm", f"{ours}/norm1"),
        *mlp(f"{layer}.intermediate.dense", f"{layer}.output.dense", f"{ours}/mlp"),
        *layer_norm(f"{layer}.output.LayerNorm", f"{ours}/norm2"),
    ]
    return Table("the sentence encoder", rows, IGNORED)


def read_sentences(folder: str | Path) -> Sentences:
    """Reads a folder of sentence-transformers or transformers that holds a BERT.

    Raises ValueError, one sentence, where it is of another kind, lacks a part or is broken.
    """
    folder = Path(folder)
    config = sentence_config(read_config(folder), folder)
    pooling = _json(folder / "1_Pooling/config.json")
    if pooling and not pooling.get("pooling_mode_mean_tokens"):
        raise ValueError(f"{folder}: sentences are not averaged over their words (1_Pooling)")
    state = open_weights(folder, rename=lambda key: key.removeprefix(PREFIX))
    flat = table(config).import_flat(state, expected_shapes(config))
    params = {path: jnp.asarray(np.asarray(x, np.float32)) for path, x in flat.items()}
    file = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exception for a missing or broken file
        raise ValueError(f"{file} cannot be read as a tokenizer: {error}") from error
    asked = _json(folder / "sentence_bert_config.json").get("max_seq_length")
    length = min(asked or config.max_positions, config.max_positions)
    tokenizer.enable_truncation(length)
    tokenizer.no_padding()
    return Sentences(config, unflatten_dict(params, sep="/"), tokenizer, length)


def sentence_config(values: Mapping[str, Any], folder: Path) -> SentenceConfig:
    """Of a BERT's config.json. Raises ValueError for another architecture."""
    expected = {"model_type": "bert", "hidden_act": "gelu", "type_vocab_size": 2}
    for key, value in expected.items():
        if values.get(key) != value:
            raise ValueError(
                f"{folder}: {key} is {values.get(key)!r}, expected {value!r}, a BERT of sentences"
            )
    if values.get("position_embedding_type", "absolute") != "absolute":
        raise ValueError(f"{folder}: position_embedding_type is not 'absolute'")
    try:
        return SentenceConfig(
            vocab_size=values["vocab_size"],
            hidden_size=values["hidden_size"],
            num_layers=values["num_hidden_layers"],
            num_heads=values["num_attention_heads"],
            mlp_size=values["intermediate_size"],
            max_positions=values["max_position_embeddings"],
            layer_norm_eps=values["layer_norm_eps"],
        )
    except KeyError as error:
        raise ValueError(f"{folder}: config.json lacks {error}") from error


def _json(file: Path) -> dict[str, Any]:
    """An object, {} of a file that is not there."""
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is no JSON object: {error}") from error
