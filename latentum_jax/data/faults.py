"""Broken samples: named, counted, and passed over.

Among millions of samples some are broken. One of them does not end a run and does not vanish
either: it is written down, and the run ends where there are more than it was told to bear.
"""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class BadSample(ValueError):
    """One sample that cannot be used: `where` it is (file, member or line) and the `reason`."""

    def __init__(self, where: str, reason: str):
        super().__init__(where, reason)  # both, or it could not be pickled
        self.where, self.reason = where, reason

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@contextmanager
def blaming(where: object) -> Iterator[None]:
    """Turns a ValueError of the block into a BadSample of the sample that is `str(where)`."""
    try:
        yield
    except BadSample:
        raise
    except ValueError as error:
        raise BadSample(str(where), str(error)) from error


class Faults:
    """Counts distinct broken samples, from any thread, over all runs that share a log.

    log: a JSONL file, {"where", "reason"} a line, that is appended to; None keeps none.
    most: so many broken samples a run bears.

    Raises ValueError where the log is not one.
    """

    def __init__(self, log: str | os.PathLike[str] | None, most: int):
        self.log, self.most = None if log is None else Path(log), most
        self._lock = threading.Lock()
        self._seen = set() if self.log is None else _read_log(self.log)

    def seen(self) -> set[str]:
        """Where the broken samples were."""
        with self._lock:
            return set(self._seen)

    def note(self, error: BadSample) -> None:
        """Writes a broken sample down the first time. Raises ValueError where there are too many.

        The log is not waited for: a line lost in a crash comes back when its sample does.
        """
        with self._lock:
            if error.where not in self._seen:
                self._seen.add(error.where)
                self._append({"where": error.where, "reason": error.reason})
            count = len(self._seen)
        if count > self.most:
            listed = "" if self.log is None else f", all are in {self.log}"
            raise ValueError(
                f"{count} broken samples, expected at most {self.most}: the last is {error}{listed}"
            ) from error

    def _append(self, fault: dict[str, str]) -> None:
        if self.log is not None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(fault, ensure_ascii=False) + "\n")


def _read_log(log: Path) -> set[str]:
    """The samples of a log, whose last line is taken off where a crash cut it short."""
    if not log.exists():
        return set()
    whole = log.read_bytes()
    kept = whole[: whole.rfind(b"\n") + 1]
    if len(kept) < len(whole):
        os.truncate(log, len(kept))
    try:
        return {json.loads(line)["where"] for line in kept.splitlines()}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{log} is no log of broken samples, one JSON object a line") from error
