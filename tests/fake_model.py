"""A model that knows the mazes it is shown: what a perfect one would say, with no weights."""

from collections.abc import Callable, Iterable

import numpy as np

from latentum_jax.data.frozenlake.frames import State, draw, start_state, states
from latentum_jax.data.frozenlake.mazes import Maze, shortest_path
from latentum_jax.data.frozenlake.questions import KINDS, ask, parse_caption
from latentum_jax.pixel_decoder import PixelDecoder
from latentum_jax.pretrained import LatentUM
from latentum_jax.prompter import Plan, Prompter
from tests.models_on_disk import random_model


class FakeModel(LatentUM):
    """Plans by `route`. The only code of a picture is its number among all seen, and is its z_q.

    late: it imagines, after each move, the state before that move.
    """

    def __init__(
        self,
        known: Iterable[State],
        route: Callable[[Maze], str] = shortest_path,
        late: bool = False,
    ):
        folder = random_model()
        self.config, self.chat, self.tokenizer = folder.config, folder.chat, folder.tokenizer
        self.prompter = Prompter(folder.config, folder.chat, folder.tokenizer)
        self.route, self.late = route, late
        self.numbers: dict[bytes, int] = {}
        self.shows: dict[int, State] = {}
        self.calls: list[tuple[str, int, dict]] = []
        for state in known:
            self.code(state)

    def code(self, state: State) -> int:
        """The code of a state's picture, which is known from now on."""
        number = int(self.encode([draw(state)])[1][0, 0, 0])
        self.shows[number] = state
        return number

    def encode(self, images):
        numbers = [self.numbers.setdefault(i.tobytes(), len(self.numbers)) for i in images]
        codes = np.array(numbers, np.int32).reshape(-1, 1, 1)
        return codes.astype(np.float32), codes

    def z_q(self, codes):
        return codes.astype(np.float32)

    def plan(self, images, *, mode="fine", **options):
        self.calls.append((mode, len(images), options))
        modes = [mode] * len(images) if isinstance(mode, str) else mode
        shown = [self.shows[int(code)].maze for code in self.encode(images)[1].flat]
        return [self._plan(*pair) for pair in zip(shown, modes, strict=True)]

    def _plan(self, maze: Maze, mode: str) -> Plan:
        moves = self.route(maze)
        walk = states(maze, moves)
        if mode == "coarse":
            steps, shown = ("A maze.\nPlan:", f"Action plan: {','.join(moves)}"), walk[-1:]
        else:
            steps, shown = (*moves, "Done!"), walk[:-1] if self.late else walk[1:]
        codes = np.array([self.code(state) for state in shown], np.int32).reshape(-1, 1, 1)
        return Plan("<img></img>".join(steps), steps, codes, True)

    def describe(self, codes, questions, **options):
        asked = [questions] * len(codes) if isinstance(questions, str) else questions
        self.calls.append(("describe", len(codes), options))
        states_shown = (self.shows[int(code)] for code in codes.flat)
        return [reply(state, q) for state, q in zip(states_shown, asked, strict=True)]

    def answer(self, images, questions, **options):
        self.calls.append(("answer", len(images), options))
        return self.describe(self.encode(images)[1], questions)

    def generate(self, prompts, **options):
        found = parse_caption(prompts)
        rows = [["F"] * found["level"] for _ in range(found["level"])]
        for cell in found["holes"]:
            rows[cell[0]][cell[1]] = "H"
        for letter, cell in (("S", found["player"]), ("G", found["goal"])):
            rows[cell[0]][cell[1]] = letter
        maze = Maze(tuple("".join(row) for row in rows))
        return np.array([[[self.code(start_state(maze))]]], np.int32)


class FakeDecoder(PixelDecoder):
    """Draws exactly what the codes of a `FakeModel` show; `still`: the start of that maze."""

    def __init__(self, model: FakeModel, still: bool = False):
        self.model, self.still = model, still

    def decode(self, z_q, *, steps, guidance, seeds):
        assert len(seeds) == len(z_q) == len(set(seeds))
        shown = [self.model.shows[int(number)] for number in z_q[:, 0, 0]]
        return [draw(start_state(s.maze) if self.still else s) for s in shown]


def reply(state: State, question: str) -> str:
    """The right answer, found by asking until the question comes up."""
    for seed in range(1000):
        for kind in KINDS:
            turn = ask(kind, state, np.random.default_rng(seed))
            if turn.question == question:
                return turn.answer
    raise AssertionError(f"{question} never came up")
