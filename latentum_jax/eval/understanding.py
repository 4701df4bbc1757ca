"""Questions about pictures, by the features they are seen through: what POPE, MME and multiple
choice have in common (section 4: continuous against quantized features)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tqdm import tqdm

from latentum_jax.eval.batches import padded_batches
from latentum_jax.eval.runs import Run
from latentum_jax.images import ImageLike
from latentum_jax.pretrained import Features, LatentUM

BATCH = 16
ONE_WORD = "Answer the question using a single word or phrase."
WAYS: dict[str, tuple[Features, ...]] = {
    "continuous": ("continuous",),
    "quantized": ("quantized",),
    "both": ("continuous", "quantized"),
}


@dataclass(frozen=True)
class Asked:
    """A question about a picture; `key` tells it from all others of its benchmark."""

    key: str
    image: ImageLike
    question: str


Item = TypeVar("Item", bound=Asked)


def key_of(way: Features, item: Asked) -> str:
    """Under which a finished answer is kept."""
    return f"{way}/{item.key}"


def answer_all(
    items: Sequence[Item],
    features: str,
    run: Run,
    answer: Callable[[list[Item], Features], Sequence[dict[str, Any]]],
) -> dict[Features, list[dict[str, Any]]]:
    """What `answer` finds for each item, by features; what the run has finished is not asked again.

    `answer` gets batches of one size and gives for each item of one what is to be kept of it. Where
    it raises ValueError, that names the batch: a picture of it is broken, or a question too long.
    """
    ways = WAYS[features]
    with tqdm(total=len(items) * len(ways), desc="questions", unit="question") as bar:
        for way in ways:
            todo = [item for item in items if key_of(way, item) not in run.done]
            bar.update(len(items) - len(todo))
            for batch, real in padded_batches(todo, max(1, min(BATCH, len(todo)))):
                try:
                    found = answer(batch, way)
                except ValueError as error:
                    first, last = batch[0].key, batch[-1].key
                    raise ValueError(f"in questions {first} to {last}: {error}") from error
                pairs = list(zip(batch, found, strict=True))[:real]
                run.add({"key": key_of(way, item), **kept} for item, kept in pairs)
                bar.update(real)
    return {way: [run.done[key_of(way, item)] for item in items] for way in ways}


def speaker(
    model: LatentUM, max_new_tokens: int
) -> Callable[[list[Asked], Features], list[dict[str, Any]]]:
    """An `answer` that keeps what the model says, greedily."""

    def answer(batch: list[Asked], way: Features) -> list[dict[str, Any]]:
        images, questions = [item.image for item in batch], [item.question for item in batch]
        said = model.answer(images, questions, features=way, max_new_tokens=max_new_tokens)
        return [{"said": text} for text in said]

    return answer
