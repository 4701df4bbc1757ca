"""Signals that ask a run to end: it finishes its step, keeps a checkpoint, and ends then."""

import signal
from types import FrameType, TracebackType

ASKS = (signal.SIGTERM, signal.SIGINT)  # a scheduler that wants its machine back; Ctrl-C


class Stopped(Exception):
    """A run that a signal has ended after `step`; its checkpoint is there."""

    def __init__(self, number: int, step: int):
        self.number = number
        name = signal.Signals(number).name
        super().__init__(f"{name}: stopped after step {step}, the same command goes on from there")


class Requests:
    """Notes the first of these signals while it is entered; a second one does what it always does.

    Only the main thread can be asked; elsewhere nothing is noted.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Requests":
        try:
            self._before = {number: signal.signal(number, self._note) for number in ASKS}
        except ValueError:  # not the main thread
            self._before = {}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}
