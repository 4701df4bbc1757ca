"""`LatentUM.from_pretrained(...)`: a folder in, a model that answers, draws and plans out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from PIL import Image

from latentum_jax.convert.published import open_model, write_published
from latentum_jax.cores import side_by_side
from latentum_jax.data.navigation import words
from latentum_jax.files import BUNDLED
from latentum_jax.generate.image import generate
from latentum_jax.generate.interleave import interleave
from latentum_jax.generate.prompt import (
    embed_images,
    embed_prompt,
    encode_images,
    look_up_codes,
    show_codes,
)
from latentum_jax.generate.rows import Limits, Rows
from latentum_jax.generate.sampling import GREEDY, SAMPLED, Sampling, row_seeds
from latentum_jax.images import ImageLike, see, tiles
from latentum_jax.models import latentum as net
from latentum_jax.models.folder import CHECKPOINT, ModelFolder, write_folder
from latentum_jax.models.stored import Lazy
from latentum_jax.pixel_decoder import STEPS, PixelDecoder
from latentum_jax.prompter import STEP_TEXT, Mode, Plan, Prompter
from latentum_jax.tokenizer import user_turn

TILE_STEP = 4  # and batches of tiles to a multiple of this
Features = Literal["continuous", "quantized"]
Interleaving = Callable[..., Rows]  # called as `generate.interleave.interleave` is


class LatentUM:
    """A model with its tokenizer and its parameters, batched in every call."""

    def __init__(self, folder: ModelFolder, *, dtype: str = "float32", weights: str | None = None):
        self.config, self.chat = folder.config, folder.chat
        self.tokenizer, self.ids = folder.tokenizer, folder.tokenizer.ids
        self.prompter = Prompter(folder.config, folder.chat, folder.tokenizer)
        self.usage = None if folder.usage is None else np.asarray(folder.usage)
        self.beside = folder.beside
        self.model = net.LatentUM(folder.config, jnp.dtype(dtype))
        self.rounded = weights is not None
        self.params = net.ready(self.model, net.hold(folder.params, dtype, weights))

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, dtype: str = "float32", weights: str | None = None
    ) -> "LatentUM":
        """A model folder (ours, a published LatentUM, an InternVL), a training workdir that has
        finished, or the name of a bundled model; parameters are held and used in `dtype`, but for
        the quantizer's, which stay in fp32. With `weights` "int8" or "fp8" the kernels of the
        language model's layers and of the vision head's are held in 8 bits, a scale an output.

        Raises ValueError where there is no such model or it is broken.
        """
        return cls(open_model(find_model(path)), dtype=dtype, weights=weights)

    def save_pretrained(
        self,
        path: str | Path,
        *,
        layout: Literal["ours", "published"] = "ours",
        dtype: str = "float32",
    ) -> None:
        """Writes the folder that `from_pretrained` reads, our own or a published LatentUM's.

        Weights are written in `dtype`, but for the quantizer's, which stay in fp32.

        Raises ValueError where the published layout has no such model, or weights are in 8 bits.
        """
        if self.rounded:
            raise ValueError("weights in 8 bits are for running, save the model as it was stored")
        if layout not in ("ours", "published"):
            raise ValueError(f"layout is {layout!r}, expected 'ours' or 'published'")
        write = write_folder if layout == "ours" else write_published
        goes_along = self.usage, self.beside
        params = net.stack_layers(self.params, Lazy.stack)
        folder = ModelFolder(self.config, self.chat, params, self.tokenizer, *goes_along)
        write(path, folder, dtype=dtype)

    def answer(
        self,
        images: ImageLike | Sequence[ImageLike],
        questions: str | Sequence[str],
        *,
        features: Features = "continuous",
        sampling: Sampling = GREEDY,
        max_new_tokens: int = 128,
        max_tiles: int = 1,
        seeds: Sequence[int] | None = None,
    ) -> list[str]:
        """Answers one question about each image, from mlp1's features or from quantized ones.

        With `max_tiles` above 1 an image is seen as InternVL sees it, as up to so many tiles and a
        thumbnail; the published LatentUM squeezes it into one.
        """
        if max_tiles == 1:
            shown = self.look(images, features)
            counts = [1] * len(shown)
        else:
            pixels, counts = self._tiles(images, max_tiles)
            shown = self._look(pixels, features)
        return self._answer(shown, counts, questions, sampling, max_new_tokens, seeds)

    def look(
        self, images: ImageLike | Sequence[ImageLike], features: Features = "continuous"
    ) -> Float[jax.Array, "N L D"]:
        """Embeddings of images as `answer` reads them, each squeezed into one tile."""
        return self._look(self.pixels(images, "bicubic"), features)

    def describe(
        self,
        codes: np.ndarray,
        questions: str | Sequence[str],
        *,
        sampling: Sampling = GREEDY,
        max_new_tokens: int = 128,
        seeds: Sequence[int] | None = None,
    ) -> list[str]:
        """Answers one question about each latent image [B L C], with no pixels in between."""
        shown = show_codes(self.model, self.params, jnp.asarray(codes))
        return self._answer(shown, [1] * len(shown), questions, sampling, max_new_tokens, seeds)

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        guidance: float = 3.0,
        sampling: Sampling = SAMPLED,
        seeds: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Draws an image for each prompt: codes int32 [B L C]."""
        return self._generate(prompts, guidance, sampling, seeds)[0]

    def generate_images(
        self,
        prompts: str | Sequence[str],
        decoder: PixelDecoder,
        *,
        guidance: float = 3.0,
        sampling: Sampling = SAMPLED,
        seeds: Sequence[int] | None = None,
        steps: int = STEPS,
    ) -> list[Image.Image]:
        """Draws an image for each prompt and decodes it to pixels in `steps` Euler steps."""
        _, z_q = self._generate(prompts, guidance, sampling, seeds)
        pictures = decoder.decode(z_q, steps=steps, seeds=seeds)
        return [Image.fromarray(picture) for picture in pictures]

    def predict(
        self,
        frames: Sequence[Sequence[ImageLike]],
        actions: Sequence[Sequence[words.Action | str]],
        *,
        guidance: float = 1.0,
        sampling: Sampling = SAMPLED,
        seeds: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Draws the frame that follows each row's frames (appendix D): codes int32 [B L C].

        A row has an action for each of its frames: those between them, and the one to come.
        `Action(dx, dy, dyaw)`, in meters and degrees, may be a string; other words are taken as
        they are. A published world model knows 4 frames.
        """
        sizes = [len(row) for row in frames]
        if sizes != [len(row) for row in actions]:
            told = [len(row) for row in actions]
            raise ValueError(f"rows of {sizes} frames and {told} actions, expected as many of both")
        pixels = self.pixels([frame for row in frames for frame in row], "bilinear")
        shown = embed_images(self.model, self.params, pixels, False)
        prompts = [user_turn(words.prompt(row), self.chat.system) for row in actions]
        counts = [[1] * size for size in sizes]
        embedded, lengths = self._embed(prompts, shown, counts, self.config.vision.num_tokens)
        return self._draw(embedded, lengths, guidance, sampling, seeds)[0]

    def plan(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        mode: Mode | Sequence[Mode] = "fine",
        prompt: str | None = None,
        max_steps: int = 16,
        max_text: int | None = None,
        text: Sampling = GREEDY,
        codes: Sampling = GREEDY,
        seeds: Sequence[int] | None = None,
        by: Interleaving | None = None,
    ) -> list[Plan]:
        """Reasons about each image in text and latent images until the model says it is done.

        `mode` picks the instruction the model was trained on: "fine", at most `max_steps` steps of
        one move and one image, or "coarse", describe, draw the plan, answer; one for all images
        or one for each. `prompt` says something else instead. A step's text has at most `max_text`
        tokens. `by` puts a program of `generate.ablations` in the place of the model's own way.
        """
        listed = _listed(images)
        modes = [mode] * len(listed) if isinstance(mode, str) else list(mode)
        if len(modes) != len(listed):
            raise ValueError(f"{len(modes)} modes for {len(listed)} images, expected as many")
        turns = [self.prompter.planning(one, prompt, max_steps, max_text) for one in modes]
        prompts, limits = zip(*turns, strict=True)
        shown = embed_images(self.model, self.params, self.pixels(listed, "bilinear"), False)
        rows = self._interleave(prompts, shown, [[1]] * len(shown), limits, text, codes, seeds, by)
        return [self.prompter.plan(*_said(rows, i)) for i in range(len(shown))]

    def steps_that_fit(self, max_text: int = STEP_TEXT) -> int:
        """How many steps of a fine plan, with `max_text` tokens each, the context has room for."""
        turn, a_step = self.prompter.planning("fine", None, 1, max_text)
        room = self.config.language.max_positions - len(self.prompter.tokens(turn))
        return room // a_step.room(self.config.vision.num_tokens)

    def embed_turn(
        self, turn: str, image: ImageLike, resample: str, limits: Limits
    ) -> Float[np.ndarray, "T D"]:
        """One turn about one image, embedded, for an answer within these limits."""
        shown = embed_images(self.model, self.params, self.pixels(image, resample), False)
        room = limits.room(self.config.vision.num_tokens)
        embedded, lengths = self._embed([turn], shown, [[1]], room)
        return np.asarray(embedded[0, : int(lengths[0])])

    def encode(self, images: ImageLike | Sequence[ImageLike]) -> tuple[np.ndarray, np.ndarray]:
        """Features V [B L F] and codes [B L C] of images, as the planner reads them."""
        features, codes = encode_images(self.model, self.params, self.pixels(images, "bilinear"))
        return np.asarray(features), np.asarray(codes)

    def z_q(self, codes: np.ndarray) -> np.ndarray:
        """De-quantized features [... E] of codes [... C]."""
        return np.asarray(look_up_codes(self.model, self.params, jnp.asarray(codes)))

    def _generate(
        self,
        prompts: str | Sequence[str],
        guidance: float,
        sampling: Sampling,
        seeds: Sequence[int] | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Codes and z_q of an image for each prompt."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        for prompt in prompts:
            if not prompt.strip():
                raise ValueError("the prompt is empty, expected a description of the image")
        texts = [self.tokenizer.encode(prompt) for prompt in prompts]
        tokens, lengths = self.prompter.pad(texts, self.config.vision.num_tokens)
        return self._draw(tokens, lengths, guidance, sampling, seeds)

    def _draw(
        self,
        prompt: jax.Array,
        lengths: jax.Array,
        guidance: float,
        sampling: Sampling,
        seeds: Sequence[int] | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same after token ids or embeddings, see `generate.image.generate`."""

        def drawn(*rows: Any) -> tuple[np.ndarray, np.ndarray]:
            kinds = {"ids": self.ids, "sampling": sampling, "guidance": guidance}
            return jax.device_get(generate(self.model, self.params, *rows, **kinds))

        return side_by_side(drawn, prompt, lengths, row_seeds(seeds, len(prompt)))

    def _answer(
        self,
        shown: jax.Array,
        counts: Sequence[int],
        questions: str | Sequence[str],
        sampling: Sampling,
        max_new_tokens: int,
        seeds: Sequence[int] | None,
    ) -> list[str]:
        """Answers about images, each of which is the next `counts[i]` of the `shown` [N L D]."""
        asked = [questions] * len(counts) if isinstance(questions, str) else list(questions)
        if len(asked) != len(counts):
            raise ValueError(f"{len(asked)} questions about {len(counts)} images, expected as many")
        prompts = [self.prompter.question(question) for question in asked]
        limits = [Limits(steps=1, images=0, text=max_new_tokens)] * len(asked)
        places = [[count] for count in counts]
        rows = self._interleave(prompts, shown, places, limits, sampling, GREEDY, seeds)
        return [self.prompter.text(_said(rows, i)[0]) for i in range(len(asked))]

    def _interleave(
        self,
        prompts: Sequence[str],
        shown: jax.Array,
        counts: Sequence[Sequence[int]],
        limits: Sequence[Limits],
        text: Sampling,
        codes: Sampling,
        seeds: Sequence[int] | None,
        by: Interleaving | None = None,
    ) -> Rows:
        alike = len(set(limits)) == 1
        room = [own.room(self.config.vision.num_tokens) for own in limits]
        embedded, lengths = self._embed(prompts, shown, counts, room)

        def reasoned(*given: Any) -> Rows:
            rows = (by or interleave)(
                self.model,
                self.params,
                *given,
                ids=self.ids,
                limits=limits[0] if alike else tuple(limits),
                text=text,
                codes=codes,
            )
            return jax.device_get(rows.replace(caches=None, keys=None, logits=None))

        # Limits are part of a program: rows of several kinds of them would be several programs.
        given = embedded, lengths, row_seeds(seeds, len(prompts))
        return side_by_side(reasoned, *given, apart=alike)

    def _embed(
        self,
        prompts: Sequence[str],
        shown: jax.Array,
        counts: Sequence[Sequence[int]],
        room: int | Sequence[int],
    ) -> tuple[jax.Array, jax.Array]:
        """Prompts [B T D] and their lengths; `counts` as in `_tokens`, a list for each row."""
        texts = [self.prompter.tokens(text, n) for text, n in zip(prompts, counts, strict=True)]
        tokens, lengths = self.prompter.pad(texts, room)
        is_slot = tokens == self.ids.img_context
        return embed_prompt(self.model, self.params, tokens, is_slot, shown), lengths

    def _look(self, pixels: jax.Array, features: Features) -> jax.Array:
        if features not in ("continuous", "quantized"):
            raise ValueError(f"features is {features!r}, expected 'continuous' or 'quantized'")
        return embed_images(self.model, self.params, pixels, features == "quantized")

    def pixels(self, images: ImageLike | Sequence[ImageLike], resample: str) -> jax.Array:
        """Images as the vision encoder takes them: uint8 [N P P 3]."""
        vision = self.config.vision
        return jnp.asarray(np.stack([see(i, vision, resample=resample) for i in _listed(images)]))

    def _tiles(
        self, images: ImageLike | Sequence[ImageLike], max_tiles: int
    ) -> tuple[jax.Array, list[int]]:
        """Tiles of all images [N P P 3], black ones at the end, and how many each image has."""
        vision = self.config.vision
        if vision.canvas is not None:
            raise ValueError(
                f"max_tiles is {max_tiles}, but this model sees an image whole, on a canvas of "
                f"{vision.canvas} pixels"
            )
        cut = [tiles(i, vision.image_size, max_tiles=max_tiles) for i in _listed(images)]
        counts = [len(part) for part in cut]
        pixels = np.concatenate(cut)
        return jnp.asarray(np.pad(pixels, [(0, -len(pixels) % TILE_STEP), *[(0, 0)] * 3])), counts


def _said(rows: Rows, index: int) -> tuple[list[int], np.ndarray]:
    """Tokens and images of a row."""
    tokens = rows.tokens[index, : rows.count[index]].tolist()
    return tokens, rows.codes[index, : rows.images[index]]


def find_model(path: str | Path) -> Path:
    """The folder of a model given by folder, finished workdir, or bundled name."""
    path = Path(path)
    for folder in (path, path / "model"):
        weights = any(folder.glob("model*.safetensors*")) or (folder / CHECKPOINT).is_dir()
        if (folder / "config.json").is_file() and weights:
            return folder
    if (BUNDLED / path / "config.json").is_file() and path.name == str(path):
        return BUNDLED / path
    known = sorted(p.name for p in BUNDLED.iterdir()) if BUNDLED.is_dir() else []
    raise ValueError(f"there is no model at {path}, and the bundled ones are {known}")


def _listed(images: ImageLike | Sequence[ImageLike]) -> Sequence[ImageLike]:
    many = images if isinstance(images, list | tuple) else [images]
    if not many:
        raise ValueError("no images, expected at least one")
    return many
