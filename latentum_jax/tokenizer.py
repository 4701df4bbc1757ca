"""Words: a byte-level BPE from a checkpoint folder, its special tokens, the chat template."""

import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as BaseTokenizer

SPECIAL = {
    "pad": "<|endoftext|>",
    "im_start": "<|im_start|>",
    "im_end": "<|im_end|>",
    "img": "<img>",
    "img_end": "</img>",
    "img_context": "<IMG_CONTEXT>",
}


WORD = re.compile(r" ?\S+")
WORDS = 1 << 18  # whose ids are kept
# What text is cut into before byte pairs are merged.
GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Where there is no tokenizer.json: Qwen's own files, which transformers puts together.
SLOW_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")


@dataclasses.dataclass(frozen=True)
class SpecialIds:
    """Ids of the tokens that the model's loops act on; hashable, so programs may be keyed by it."""

    pad: int
    im_start: int
    im_end: int
    img: int
    img_end: int
    img_context: int


@dataclasses.dataclass(frozen=True)
class Wordless:
    """Stands for a tokenizer where rows are wanted for their shapes."""

    ids: SpecialIds = SpecialIds(*range(6))

    def encode(self, text: str) -> list[int]:
        """Nothing."""
        return []


class Tokenizer:
    """Text to ids and back. Special ids are read from the folder, never assumed."""

    def __init__(self, base: BaseTokenizer):
        self.base = base
        missing = [text for text in SPECIAL.values() if base.token_to_id(text) is None]
        if missing:
            raise ValueError(f"tokenizer lacks the special tokens {missing}")
        self.ids = SpecialIds(**{name: base.token_to_id(text) for name, text in SPECIAL.items()})
        self.by_words = _by_words(base)
        self._first, self._further = _Words(self._ids, ""), _Words(self._ids, " ")

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Tokenizer":
        """Reads `tokenizer.json` or, where there is none, Qwen's slow files, through transformers.

        Raises ValueError, one sentence, where both are missing or broken.
        """
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            return cls(_read_slow(Path(folder)))
        try:
            return cls(BaseTokenizer.from_file(str(path)))
        except Exception as error:  # tokenizers raises bare Exception for a broken file
            raise ValueError(f"{path} cannot be read as a tokenizer: {error}") from error

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, phrases: Sequence[str] = ()
    ) -> "Tokenizer":
        """A byte-level BPE over `texts` with at most `vocab_size` tokens, special ones included.

        `phrases` are tokens of their own wherever they stand.
        """
        base = BaseTokenizer(models.BPE())
        base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        base.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - len(phrases),
            special_tokens=[AddedToken(text, special=True) for text in SPECIAL.values()],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        base.train_from_iterator(texts, trainer)
        base.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
        return cls(base)

    def save(self, folder: str | Path) -> None:
        """Writes `tokenizer.json`."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.base.save(str(Path(folder) / "tokenizer.json"))

    def __len__(self) -> int:
        return self.base.get_vocab_size()

    @functools.lru_cache(maxsize=65536)  # noqa: B019  (a tokenizer lives as long as the program)
    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of text; special tokens written in it become their ids."""
        words = text.split() if self.by_words else ()
        if len(words) > 1 and " ".join(words) == text:  # there is no other white space
            first, further = self._first[words[0]], map(self._further.__getitem__, words[1:])
            return tuple(itertools.chain(first, *further))
        return self._ids(text)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.base.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    def decode(self, ids: Sequence[int], *, keep_special: bool = False) -> str:
        """Text of ids."""
        return self.base.decode([int(i) for i in ids], skip_special_tokens=not keep_special)


class _Words(dict[str, tuple[int, ...]]):
    """Ids of words with something `ahead` of them, kept: captions are made of words seen before."""

    def __init__(self, ids: Callable[[str], tuple[int, ...]], ahead: str):
        super().__init__()
        self.ids, self.ahead = ids, ahead

    def __missing__(self, word: str) -> tuple[int, ...]:
        if len(self) >= WORDS:
            self.clear()
        self[word] = found = self.ids(self.ahead + word)
        return found


def _by_words(base: BaseTokenizer) -> bool:
    """Whether a text's ids are those of its words, each with the space ahead of it.

    So it is where byte pairs are merged inside the matches of Qwen's or of GPT-2's expression, in
    none of which a space follows anything but white space; where normalising joins nothing to
    a space; and where no added token takes one in.
    """
    before = json.loads(base.pre_tokenizer.__getstate__()) if base.pre_tokenizer else {"type": ""}
    parts = before.get("pretokenizers", [before])
    cuts = [p.get("pattern", {}).get("Regex") for p in parts if p["type"] == "Split"]
    cuts += [GPT_2 for p in parts if p["type"] == "ByteLevel" and p["use_regex"]]
    return (
        cuts in ([QWEN], [GPT_2])
        and {p["type"] for p in parts} <= {"Split", "ByteLevel"}
        and isinstance(base.model, models.BPE)
        and not base.model.dropout
        and (base.normalizer is None or isinstance(base.normalizer, normalizers.NFC))
        and not (base.truncation or base.padding)
        and not any(
            token.lstrip or token.rstrip or not WORD.fullmatch(token.content)
            for token in base.get_added_tokens_decoder().values()
        )
    )


def _read_slow(folder: Path) -> BaseTokenizer:
    """A tokenizer from `SLOW_FILES` and, where it lies beside them, `added_tokens.json`."""
    missing = [name for name in SLOW_FILES if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} has no tokenizer.json, and without it lacks {missing}")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ValueError(
            f"{folder} has no tokenizer.json: reading its vocab.json needs `pip install "
            "transformers`"
        ) from error
    try:
        read = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        base, stated = read.backend_tokenizer, _stated_ids(folder)
    except Exception as error:  # whatever a broken file leads transformers to
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{folder} cannot be read as a tokenizer: {reason[0]}") from error
    # transformers numbers added tokens as they come, whatever their file says.
    for text, number in stated.items():
        if base.token_to_id(text) != number:
            raise ValueError(
                f"{folder}: the token {text} became {base.token_to_id(text)}, expected {number}"
            )
    return base


def _stated_ids(folder: Path) -> dict[str, int]:
    """The added tokens and their ids, as the files state them."""
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    added = folder / "added_tokens.json"
    stated = json.loads(added.read_text(encoding="utf-8")) if added.is_file() else {}
    decoder = config.get("added_tokens_decoder", {})
    return stated | {token["content"]: int(number) for number, token in decoder.items()}


def user_turn(content: str, system: str) -> str:
    """The internvl2_5 template up to the assistant's first token; no system turn where it is ""."""
    head = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    return f"{head}<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"
