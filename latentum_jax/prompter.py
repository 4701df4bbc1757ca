"""Between words and token ids: what a model is asked, and what it has said and drawn."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from latentum_jax.config import ChatConfig, LatentUMConfig
from latentum_jax.generate.prompt import with_slots
from latentum_jax.generate.rows import Limits
from latentum_jax.tokenizer import Tokenizer, user_turn

STEP_TEXT = 8  # tokens before each image of a fine plan, where the caller does not say
PLAN_TEXT = 144  # tokens before and after the image of a coarse one
PROMPT_STEP = 32  # prompts are padded to a multiple of this, so that few programs are compiled
Mode = Literal["fine", "coarse"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a planner said and imagined: `text` with `<img></img>` where it drew `codes[i]`.

    steps: the text before each image and after the last; codes: int32 [images, L, C];
    finished: whether it ended by itself.
    """

    text: str
    steps: tuple[str, ...]
    codes: np.ndarray
    finished: bool


@dataclasses.dataclass(frozen=True)
class Prompter:
    """The words of a model: its tokenizer, its system prompt and instructions."""

    config: LatentUMConfig
    chat: ChatConfig
    tokenizer: Tokenizer

    def question(self, question: str) -> str:
        """The turn that asks about the image in its `<image>`. Raises ValueError for none."""
        if not question.strip():
            raise ValueError("the question is empty")
        return user_turn(f"<image>\n{question}", self.chat.system)

    def planning(
        self, mode: Mode, prompt: str | None, max_steps: int, max_text: int | None
    ) -> tuple[str, Limits]:
        """The turn that asks for a plan, and how far the answer may go: see `LatentUM.plan`."""
        if mode not in ("fine", "coarse"):
            raise ValueError(f"mode is {mode!r}, expected 'fine' or 'coarse'")
        own = self.chat.fine_prompt if mode == "fine" else self.chat.coarse_prompt
        prompt = own if prompt is None else prompt
        if not prompt.strip():
            raise ValueError(f"the prompt is empty: this model has none of its own for {mode!r}")
        fine = mode == "fine"
        limits = Limits(
            steps=max_steps if fine else 2,
            images=max_steps if fine else 1,
            text=max_text or (STEP_TEXT if fine else PLAN_TEXT),
        )
        return user_turn(f"{prompt}<image>", self.chat.system), limits

    def tokens(self, prompt: str, counts: Sequence[int] = (1,)) -> tuple[int, ...]:
        """Ids of a prompt, each `<image>` standing for `<img>`, L slots a tile and `</img>`."""
        length = self.config.vision.num_tokens
        return self.tokenizer.encode(with_slots(prompt, [length * count for count in counts]))

    def pad(
        self, texts: Sequence[Sequence[int]], room: int | Sequence[int], to: int = PROMPT_STEP
    ) -> tuple[jax.Array, jax.Array]:
        """Rows of ids [B T], padded on the right to a multiple of `to`, and their lengths [B].

        Raises ValueError where the context has no room for a text and `room`, of all or of each,
        more.
        """
        lengths = [len(text) for text in texts]
        rooms = [room] * len(texts) if isinstance(room, int) else room
        width = max(self.width(*pair, to) for pair in zip(lengths, rooms, strict=True))
        tokens = np.full((len(texts), width), self.tokenizer.ids.pad, np.int32)
        for row, text in zip(tokens, texts, strict=True):
            row[: len(text)] = text
        return jnp.asarray(tokens), jnp.asarray(lengths, jnp.int32)

    def width(self, longest: int, room: int, to: int = PROMPT_STEP) -> int:
        """What prompts of at most `longest` tokens are padded to. Raises ValueError as `pad`."""
        most = self.config.language.max_positions
        if longest + room > most:
            raise ValueError(
                f"the prompt has {longest} tokens and {room} more are asked for, "
                f"the context has {most}"
            )
        return -(-longest // to) * to

    def text(self, said: Sequence[int]) -> str:
        """An answer's words."""
        return self.tokenizer.decode([i for i in said if i != self.tokenizer.ids.im_end]).strip()

    def plan(self, said: Sequence[int], codes: np.ndarray) -> Plan:
        """A plan of all tokens said and images [J L C] drawn."""
        finished = bool(said) and said[-1] == self.tokenizer.ids.im_end
        text = self.tokenizer.decode(said[:-1] if finished else said, keep_special=True)
        pieces = text.replace("<img>", "").split("</img>")
        return Plan(text, tuple(piece.strip() for piece in pieces), codes, finished)
