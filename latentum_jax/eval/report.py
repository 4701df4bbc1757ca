"""One page that shows what a maze model does: it solves, imagines, answers, draws and describes."""

import base64
import html
import io
import itertools
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from latentum_jax.data.frozenlake.frames import (
    TILE,
    State,
    advance,
    draw,
    simulate,
    start_state,
    states,
)
from latentum_jax.data.frozenlake.mazes import (
    LONGEST_PATH,
    Maze,
    shortest_path,
    unique_mazes,
)
from latentum_jax.data.frozenlake.questions import Question, ask, caption, parse_caption
from latentum_jax.eval.batches import padded_batches
from latentum_jax.eval.frames import decode_frames, write_frames
from latentum_jax.eval.strip import Strip
from latentum_jax.eval.vsp import Mode, read_moves, step_limit
from latentum_jax.files import whole
from latentum_jax.generate.sampling import Sampling
from latentum_jax.pixel_decoder import PixelDecoder
from latentum_jax.pretrained import LatentUM, Plan

LEVELS = (3, 4, 5, 6)
ASKED = ("player", "goal", "beside", "safe", "next", "remaining", "holes", "path", "map", "moves")
DESCRIBE = "Describe the maze."
PAPER = Sampling(temperature=0.5, top_k=32, top_p=0.95)  # of the published benchmarks
GUIDANCE = 3.0
SIDE = 168  # pixels of a picture on the page, twice that on fine screens


@dataclass(frozen=True)
class Walk:
    """A plan for a maze, and what the model says of each image it drew on the way.

    imagined: these images as the pixel decoder draws them [h w 3], none without a decoder.
    """

    maze: Maze
    mode: Mode
    plan: Plan
    described: tuple[str, ...]
    imagined: tuple[np.ndarray, ...] = ()

    @property
    def moves(self) -> str:
        """The moves read from the plan."""
        return read_moves(self.plan, self.mode)

    @property
    def shows(self) -> list[State]:
        """The true states that its images should show, as far as there are moves."""
        walked = states(self.maze, self.moves)
        return walked[1:] if self.mode == "fine" else walked[-1:]

    @property
    def success(self) -> bool:
        """Whether they reach the goal in the simulator."""
        return simulate(self.maze, self.moves)


@dataclass(frozen=True)
class Shown:
    """Everything on the page. `answers` are about `state`, `described` about the image drawn."""

    walks: tuple[Walk, ...]
    state: State
    answers: tuple[tuple[Question, str], ...]
    drawn: State
    described: str
    imagined: np.ndarray | None = None
    strip: Strip | None = None


def gather(model: LatentUM, seed: int, decoder: PixelDecoder | None = None) -> Shown:
    """Lets the model work: few kinds of calls, so that little is compiled.

    With a `decoder` everything imagined is drawn too, while the model answers.
    """
    mazes = [_maze(level, seed) for level in LEVELS]
    pictures = [draw(start_state(maze)) for maze in mazes]
    limit = step_limit(model, mazes)
    modes: list[Mode] = ["fine"] * len(mazes) + ["coarse"]
    mazes.append(mazes[1])
    plans = model.plan([*pictures, pictures[1]], mode=modes, max_steps=limit)

    drawn = start_state(_maze(4, seed + 1))
    codes = model.generate(caption(drawn), guidance=GUIDANCE, sampling=PAPER, seeds=[seed])
    images = np.concatenate([*(plan.codes for plan in plans), codes])
    of = [maze for maze, plan in zip(mazes, plans, strict=True) for _ in plan.codes]
    sizes = [(maze.level * TILE,) * 2 for maze in [*of, drawn.maze]]
    state = advance(start_state(mazes[2]), shortest_path(mazes[2])[0])
    rng = np.random.default_rng(seed)
    asked = [ask(kind, state, rng) for kind in ASKED]
    with ThreadPoolExecutor(1) as pool:
        given = (model, decoder, images, sizes)
        decoding = pool.submit(decode_frames, *given, seed=seed) if decoder else None
        answers = model.answer([draw(state)] * len(asked), [turn.question for turn in asked])
        said = iter(_described(model, images, len(asked)))
    pictures = iter(decoding.result() if decoding else ())
    walks = [
        Walk(
            maze,
            mode,
            plan,
            tuple(next(said) for _ in plan.codes),
            tuple(itertools.islice(pictures, len(plan.codes))),
        )
        for maze, mode, plan in zip(mazes, modes, plans, strict=True)
    ]
    pairs = tuple(zip(asked, answers, strict=True))
    return Shown(tuple(walks), state, pairs, drawn, next(said), next(pictures, None))


def _described(model: LatentUM, images: np.ndarray, rows: int) -> list[str]:
    """What the model says of latent images, so many at once as it was asked questions: the program
    is that of its answers."""
    said: list[str] = []
    for batch, real in padded_batches(list(images), rows):
        said += model.describe(np.stack(batch), DESCRIBE)[:real]
    return said


def write_page(shown: Shown, out: str | Path, metrics: str | Path) -> Path:
    """Writes `out`/index.html, with the numbers of the JSON file `metrics` where there is one.

    Beside it, for each walk whose images were decoded, what the simulator shows and what the model
    imagined: frames/4x4-fine.png and .gif.
    """
    path, metrics = Path(out) / "index.html", Path(metrics)
    for walk in shown.walks:
        if walk.imagined:
            size = f"{walk.maze.level}x{walk.maze.level}"
            true = [draw(state) for state in walk.shows]
            write_frames(path.parent / "frames" / f"{size}-{walk.mode}", true, walk.imagined)
    numbers = json.loads(metrics.read_text("utf-8")) if metrics.is_file() else {}
    if shown.strip is not None:
        imagined = list(shown.strip.imagined)
        size = imagined[0].shape[1::-1]
        true = [np.asarray(Image.fromarray(frame).resize(size)) for frame in shown.strip.true]
        write_frames(path.parent / "frames" / "walk", true, imagined)
    text = page(shown, numbers)
    with whole(path) as unfinished:
        unfinished.write_text(text, "utf-8")
    return path


def summary(shown: Shown) -> str:
    """The page in a few lines of text."""
    lines = []
    for walk in shown.walks:
        outcome = "reaches the goal" if walk.success else "does not reach the goal"
        moves = ",".join(walk.moves) or "no moves"
        lines.append(f"{walk.maze.level}x{walk.maze.level} {walk.mode}: {moves} {outcome}")
    judged = [_player_is_right(*pair) for walk in shown.walks for pair in _imagined(walk)]
    right = sum(turn.answer == answer for turn, answer in shown.answers)
    drawn = "as asked" if shown.described == caption(shown.drawn) else "otherwise than asked"
    return "\n".join(
        [
            *lines,
            f"imagined states with the player in the right cell: {sum(judged)} of {len(judged)}",
            f"questions answered rightly: {right} of {len(shown.answers)}",
            f"image drawn from a caption: described {drawn}",
        ]
    )


def page(shown: Shown, metrics: dict[str, Any]) -> str:
    """The page as one HTML text that refers to nothing outside it."""
    fine = [_walk(walk) for walk in shown.walks if walk.mode == "fine"]
    coarse = [_walk(walk) for walk in shown.walks if walk.mode == "coarse"]
    framed = FRAMED if any(walk.imagined for walk in shown.walks) else ""
    sections = [
        _section("Solving a maze step by step", FINE.format(framed=framed), fine),
        _section("Solving a maze with one imagined plan", COARSE, coarse),
        _section("Answering questions about a picture", QUESTIONS, [_questions(shown)]),
        _section("Drawing from words", DRAWING, [_drawing(shown)]),
    ]
    if shown.strip is not None:
        sections.append(_section("Imagining a walk", WALKING, [_strip(shown.strip)]))
    if metrics:
        sections.append(_section("Measured", MEASURED, [_metrics(metrics)]))
    return PAGE.substitute(style=STYLE, body="\n".join(sections))


def _maze(level: int, seed: int) -> Maze:
    """A held-out maze that takes a few steps."""
    window = (3, LONGEST_PATH[level])
    return unique_mazes(seed, level, 1, "test", path_lengths=window)[0]


def _imagined(walk: Walk) -> list[tuple[State, str]]:
    """The true state behind each image with the model's description of what it drew."""
    return list(
        zip(walk.shows, walk.described, strict=False)
    )  # images may lack moves, or moves them


def _player_is_right(state: State, described: str) -> bool:
    found = parse_caption(described)
    return found is not None and found["player"] == state.player


def _section(title: str, text: str, parts: Iterable[str]) -> str:
    return f"<section><h2>{title}</h2><p>{text}</p>{''.join(parts)}</section>"


def _walk(walk: Walk) -> str:
    imagined = _imagined(walk)
    cards = [_card(draw(start_state(walk.maze)), "Start", "what the model is shown")]
    names = [f"{i}. {move}" for i, move in enumerate(walk.moves, 1)]
    if walk.mode == "coarse":
        names = [f"After {', '.join(walk.moves)}"] if walk.moves else []
    told = [_told(*pair) for pair in imagined]
    rows = itertools.zip_longest(names, told, walk.imagined)
    for state, (name, text, seen) in zip(walk.shows, rows, strict=False):
        if name:
            cards.append(_card(draw(state), name, text or "", seen))
    size = f"{walk.maze.level} × {walk.maze.level}"
    moves = html.escape(", ".join(walk.moves) or "no moves")
    outcome = _badge(walk.success, "reaches the goal", "does not reach the goal")
    said = html.escape(walk.plan.text.replace("<img></img>", " ▦ "))
    return (
        f"<article><h3>{size} <span class=moves>{moves}</span> {outcome}</h3>"
        f"<div class=strip>{''.join(cards)}</div><pre>{said}</pre></article>"
    )


def _told(state: State, described: str) -> str:
    badge = _badge(_player_is_right(state, described), "player right", "player wrong")
    return f"{badge}<q>{html.escape(described)}</q>"


def _questions(shown: Shown) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(turn.question)}</td><td class=text>{html.escape(answer)}</td>"
        f"<td>{_badge(answer == turn.answer, 'right', 'wrong')}</td>"
        f"<td class=text>{'' if answer == turn.answer else html.escape(turn.answer)}</td></tr>"
        for turn, answer in shown.answers
    )
    head = "<tr><th>Question</th><th>Answer</th><th></th><th>Instead of</th></tr>"
    card = _card(draw(shown.state), "The picture", "")
    return (
        f"<article class=beside>{card}<div class=wide><table>{head}{rows}</table></div></article>"
    )


def _drawing(shown: Shown) -> str:
    asked = caption(shown.drawn)
    badge = _badge(shown.described == asked, "as asked", "not quite as asked")
    about = "drawn by the simulator" + (
        "; below, as imagined" if shown.imagined is not None else ""
    )
    card = _card(draw(shown.drawn), "What was asked for", about, shown.imagined)
    return (
        f"<article class=beside>{card}<dl><dt>Prompt</dt><dd>{html.escape(asked)}</dd>"
        f"<dt>The model about the latent image it drew {badge}</dt>"
        f"<dd>{html.escape(shown.described)}</dd></dl></article>"
    )


def _strip(strip: Strip) -> str:
    cards = [_card(strip.seen, "Last seen", "before it, three frames more")]
    taken = zip(strip.actions, strip.true, strip.imagined, strict=True)
    for i, (action, true, imagined) in enumerate(taken, 1):
        told = f"{action.dx:.2f} m ahead, {action.dyaw:+.0f}°"
        cards.append(_card(true, f"Step {i}", told, imagined))
    return f"<article><div class=strip>{''.join(cards)}</div></article>"


def _metrics(metrics: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>"
        for name, value in _flat(metrics)
    )
    return f"<article class=wide><table>{rows}</table></article>"


def _flat(values: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested numbers as lines ("a, b, c", "0.93")."""
    if isinstance(values, dict):
        joined = [(f"{name}, {key}" if name else str(key), value) for key, value in values.items()]
        return [line for key, value in joined for line in _flat(value, key)]
    if isinstance(values, list):
        return [(name, " to ".join(text for value in values for _, text in _flat(value)))]
    return [(name, f"{values:.4g}" if isinstance(values, float) else str(values))]


def _card(picture: np.ndarray, title: str, text: str, seen: np.ndarray | None = None) -> str:
    """A picture over its caption; `seen`, what the model imagined, stands between."""
    imagined = "" if seen is None else f"<div class=seen>{_image(seen)}</div>"
    return (
        f"<figure>{_image(picture)}{imagined}<figcaption><b>{title}</b>{text}</figcaption></figure>"
    )


def _image(picture: np.ndarray) -> str:
    side, file = 2 * SIDE, io.BytesIO()
    small = Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS)
    small.save(file, format="JPEG", quality=90)  # a PNG of so few colours takes 60 times as long
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="" width={SIDE} height={SIDE} src="data:image/jpeg;base64,{data}">'


def _badge(ok: bool, yes: str, no: str) -> str:
    return f"<span class=yes>✓ {yes}</span>" if ok else f"<span class=no>✗ {no}</span>"


FINE = (
    "Shown the first picture alone, the model says a move, imagines the state after it as a latent "
    "image, looks at what it imagined, and says the next. It is never shown another picture: the "
    "ones below are the simulator's, of the moves it made.{framed} Under them comes the model's "
    "description of its own latent image, read from the codes with no pixels in between, and "
    "whether the player is in that cell. All mazes on this page were held out from training."
)
FRAMED = " Framed are the latent images, drawn by the pixel decoder for you alone."
COARSE = (
    "The model describes the maze, imagines one picture of the whole walk, and lists the moves. ▦ "
    "stands for the latent image."
)
QUESTIONS = "The model looks at the picture through continuous features."
DRAWING = "From a caption the model draws a latent image, and then describes what it drew."
WALKING = (
    "Another model of the same kind, nav-tiny, has seen four frames of a walk through a room that "
    "it was never trained in, and is told the next actions. It imagines every frame from those "
    "before, its own latent images among them, and no pixel is drawn on the way. Above are the "
    "true frames; framed, what it imagined, drawn afterwards for you."
)
MEASURED = "Figures that come with this model, over many held-out mazes."

STYLE = """
:root{color-scheme:light dark;--ink:#17202c;--soft:#5d6878;--page:#f4f6f9;--card:#fff;
 --line:#dde3ea;--yes:#0b7a4b;--no:#b3382c;--code:#eef2f6}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf2;--soft:#97a3b4;--page:#0f141b;--card:#18202a;
 --line:#2a3542;--yes:#4fd39a;--no:#ff8b7d;--code:#111820}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main{max-width:1120px;margin:0 auto;padding:48px 20px 80px}
h1{font-size:2.1rem;line-height:1.15;letter-spacing:-.02em;margin:0 0 .4em}
h2{font-size:1.3rem;letter-spacing:-.01em;margin:2.6em 0 .3em}
h3{font-size:1rem;margin:0 0 14px;display:flex;flex-wrap:wrap;gap:6px 14px;align-items:baseline}
p{max-width:72ch;margin:0 0 18px;color:var(--soft)}
article{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:20px;
 margin:0 0 16px}
.strip{display:grid;grid-template-columns:repeat(auto-fill,minmax(168px,1fr));gap:18px}
.seen{margin-top:6px;padding:3px;border:2px dashed var(--soft);border-radius:11px;max-width:190px}
.beside{display:flex;flex-wrap:wrap;gap:20px}
.beside>figure{flex:0 0 190px}
.beside>div,.beside>dl{flex:1 1 380px;margin:0;min-width:0}
.wide{overflow-x:auto}
figure{margin:0;max-width:190px}
img{display:block;width:100%;height:auto;max-width:190px;border-radius:8px}
figcaption{font-size:.8rem;line-height:1.45;color:var(--soft);margin-top:8px}
figcaption b{display:block;color:var(--ink);font-size:.9rem}
q{display:block;quotes:none}
.moves{font-weight:400;letter-spacing:.04em}
.yes,.no{font-size:.8rem;font-weight:600;white-space:nowrap}
.yes{color:var(--yes)}.no{color:var(--no)}
pre{margin:16px 0 0;padding:10px 14px;background:var(--code);border-radius:8px;font-size:.8rem;
 white-space:pre-wrap;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%;font-size:.88rem}
th{text-align:left;color:var(--soft);font-weight:600}
td,th{padding:7px 14px 7px 0;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}
.text{white-space:pre-wrap;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
dt{font-weight:600;font-size:.88rem}
dd{margin:0 0 16px;color:var(--soft)}
"""

PAGE = Template("""<!doctype html>
<html lang=en>
<head>
<meta charset=utf-8>
<meta name=viewport content="width=device-width,initial-scale=1">
<title>LatentUM on FrozenLake</title>
<style>$style</style>
</head>
<body>
<main>
<h1>LatentUM on FrozenLake</h1>
<p>One model that reads pictures, answers, draws in latent space and thinks in both.</p>
$body
</main>
</body>
</html>
""")
