"""The world model's words (appendix D): a trajectory of frames and actions, and one action more.

Nothing here runs a model: `prompt` is what it is asked, with `<image>` in the place of each frame.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

ASKED = (
    "You are a navigation agent predicting future first-person observations. "
    "Here is the trajectory you have traveled so far:"
)
FIRST = "First observation: <image>"
NEXT = "You then {} over 0.25 seconds.\nNext observation: <image>"
PREDICT = (
    "Given this history, predict the next observation if you {} over 0.25 seconds. "
    "Return exactly one image."
)
NUMBER = re.compile(r"(?:(d\w+)\s*=)?\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")


@dataclasses.dataclass(frozen=True)
class Action:
    """A motion over 0.25 seconds: dx, dy in meters along the axes, dyaw in degrees."""

    dx: float
    dy: float
    dyaw: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in (self.dx, self.dy, self.dyaw)):
            raise ValueError(f"{self}: expected finite numbers")

    @classmethod
    def parse(cls, text: str) -> "Action":
        """Reads `Action(dx, dy, dyaw)`, each number with its name (`dyaw=3`) or without.

        Raises ValueError where it is something else.
        """
        inside = re.fullmatch(r"\s*Action\((.*)\)\s*", text, re.DOTALL)
        parts = inside[1].split(",") if inside else []
        found = [NUMBER.fullmatch(part.strip()) for part in parts]
        names = [field.name for field in dataclasses.fields(cls)]
        if len(found) == 3 and all(found):
            given = {
                match[1] or name: float(match[2]) for match, name in zip(found, names, strict=True)
            }
            if set(given) == set(names):
                return cls(**given)
        raise ValueError(f"the action is {text!r}, expected Action(dx, dy, dyaw)")


def action_text(action: Action | str) -> str:
    """An action as the prompt says it: whole numbers bare, others to two decimals.

    `Action(dx, dy, dyaw)` may be a string; any other text passes through.

    Raises:
      ValueError: the text is empty, or begins like an `Action` and is none.
    """
    if isinstance(action, str):
        if not action.strip():
            raise ValueError("the action is empty, expected Action(dx, dy, dyaw) or words")
        if not action.lstrip().startswith("Action("):
            return action
        action = Action.parse(action)
    dx, dy, dyaw = (
        str(int(value)) if float(value).is_integer() else f"{value:.2f}"
        for value in (action.dx, action.dy, action.dyaw)
    )
    return (
        f"move {dx} meters along the X-axis and {dy} meters along the Y-axis, "
        f"rotating by {dyaw} degrees"
    )


def prompt(actions: Sequence[Action | str]) -> str:
    """The question about as many frames as there are actions, the last of which is to come.

    The chat template is not part of it. Raises ValueError where there is no action.
    """
    if not actions:
        raise ValueError("no actions, expected one for each frame")
    *observed, future = (action_text(action) for action in actions)
    walked = [FIRST, *(NEXT.format(action) for action in observed)]
    return "\n\n".join([ASKED, *walked, PREDICT.format(future)])
