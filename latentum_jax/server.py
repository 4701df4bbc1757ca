"""Questions and plans that come one by one, answered together: events of words and images.

server = Server(LatentUM.from_pretrained("frozenlake-tiny"), rows=8)
number = server.plan("maze.png")
for event in server.events():
    match event:
        case Words(request, text): ...
        case Drawn(request, image, first, codes): ...
        case Finished(request, result, cancelled): ...
"""

import dataclasses
from collections.abc import Iterator

from latentum_jax.generate.engine import Done, Drawn, Engine, Said
from latentum_jax.generate.rows import Limits
from latentum_jax.generate.sampling import GREEDY, Sampling
from latentum_jax.images import ImageLike
from latentum_jax.pretrained import LatentUM
from latentum_jax.prompter import Mode, Plan

QUESTION = 64  # tokens of a question, where the caller does not say
UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a decoder makes of half a letter


@dataclasses.dataclass(frozen=True)
class Words:
    """What a request has said since it was last told, special tokens (`<img>`) among it."""

    request: int
    text: str


@dataclasses.dataclass(frozen=True)
class Finished:
    """All that a request has come to: a question's answer, or a plan."""

    request: int
    result: str | Plan
    cancelled: bool


Event = Words | Drawn | Finished


class Server:
    """Up to `rows` requests at once share every step, others wait; nothing is compiled for later
    ones. What a request gets does not depend on the others."""

    def __init__(
        self,
        model: LatentUM,
        *,
        rows: int = 8,
        max_steps: int = 16,
        max_new_tokens: int = 128,
        max_question: int = QUESTION,
        text: Sampling = GREEDY,
        codes: Sampling = GREEDY,
    ):
        """For plans of at most `max_steps` steps, and answers of at most `max_new_tokens` tokens to
        questions of at most `max_question`.

        Raises ValueError where that does not fit into the context, or the rows into memory.
        """
        self.model, prompter = model, model.prompter
        self.max_steps, self.max_new_tokens = max_steps, max_new_tokens
        asked = len(prompter.tokens(prompter.question("?"))) + max_question
        kinds = [(asked, self._answer_limits(max_new_tokens))]
        for mode in ("fine", "coarse"):
            if getattr(model.chat, f"{mode}_prompt").strip():
                turn, limits = prompter.planning(mode, None, max_steps, None)
                kinds.append((len(prompter.tokens(turn)), limits))
        visual = model.config.vision.num_tokens
        self.engine = Engine(
            model.model,
            model.params,
            ids=model.ids,
            rows=rows,
            width=max(prompter.width(longest, own.room(visual)) for longest, own in kinds),
            limits=[own for _, own in kinds],
            text=text,
            codes=codes,
        )
        self._plans: dict[int, bool] = {}  # whether a request under way is one
        self._tokens: dict[int, list[int]] = {}
        self._told: dict[int, str] = {}

    def ask(
        self, image: ImageLike, question: str, *, max_new_tokens: int | None = None, seed: int = 0
    ) -> int:
        """Queues a question about an image; the number that its events carry.

        Raises ValueError for what `LatentUM.answer` refuses, or more than there is room for.
        """
        limits = self._answer_limits(max_new_tokens or self.max_new_tokens)
        turn = self.model.prompter.question(question)
        return self._submit(turn, image, "bicubic", limits, seed, plan=False)

    def plan(
        self,
        image: ImageLike,
        *,
        mode: Mode = "fine",
        max_steps: int | None = None,
        seed: int = 0,
    ) -> int:
        """Queues a plan, see `LatentUM.plan`; the number that its events carry."""
        steps = max_steps or self.max_steps
        turn, limits = self.model.prompter.planning(mode, None, steps, None)
        return self._submit(turn, image, "bilinear", limits, seed, plan=True)

    def cancel(self, request: int) -> None:
        """Ends a request, waiting or running; its last event follows. ValueError for others."""
        self.engine.cancel(request)

    def events(self) -> Iterator[Event]:
        """What happens until nothing is left to do. Requests may come in between."""
        for event in self.engine.events():
            match event:
                case Said(request, tokens):
                    self._tokens[request].extend(tokens)
                    yield from self._words(request, last=False)
                case Drawn():
                    yield event
                case Done(request):
                    yield from self._words(request, last=True)
                    yield self._finished(event)

    def _submit(
        self, turn: str, image: ImageLike, resample: str, limits: Limits, seed: int, *, plan: bool
    ) -> int:
        prompt = self.model.embed_turn(turn, image, resample, limits)
        request = self.engine.submit(prompt, limits, seed=seed)
        self._plans[request], self._tokens[request], self._told[request] = plan, [], ""
        return request

    def _words(self, request: int, *, last: bool) -> Iterator[Words]:
        """What is new in a request's text, letters that are not whole yet left for later."""
        ids = [i for i in self._tokens[request] if i != self.model.ids.im_end]
        text = self.model.tokenizer.decode(ids, keep_special=True)
        text = text if last else text.rstrip(UNFINISHED)
        told = self._told[request]
        if len(text) > len(told):
            self._told[request] = text
            yield Words(request, text[len(told) :])

    def _finished(self, done: Done) -> Finished:
        prompter, tokens = self.model.prompter, list(done.tokens)
        for kept in (self._tokens, self._told):
            del kept[done.request]
        is_plan = self._plans.pop(done.request)
        result = prompter.plan(tokens, done.codes) if is_plan else prompter.text(tokens)
        return Finished(done.request, result, done.cancelled)

    @staticmethod
    def _answer_limits(tokens: int) -> Limits:
        return Limits(steps=1, images=0, text=tokens)
