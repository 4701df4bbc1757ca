"""Checkpoints of a run: orbax for the state, beside it where the data iterator stood and of what
config it is."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict

from latentum_jax.train.state import TrainState

# What a run that goes on may have otherwise than before: where and how it is computed, how long,
# where things lie.
FREE = (
    "mesh.",
    "accumulate",
    "remat",
    "loss_chunk",
    "steps",
    "epochs",
    "checkpoint_every",
    "keep",
    "max_skipped",
    "wandb",
    "profile",
    "init_from",
    "latentum",
    "alignment.teacher",
    "tokenizer",
    "data.path",
    "data.root",
    "data.embeddings",
    "data.cache",
    "data.threads",
    "data.workers",
    "data.max_bad",
)


class Checkpoints:
    """Saves every so often in the background, keeps the newest few, restores the newest."""

    def __init__(self, folder: Path, *, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self.manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def save(
        self, step: int, state: TrainState, data: dict[str, Any], config: dict[str, Any]
    ) -> None:
        """Begins to write a checkpoint unless this step has one.

        What is frozen is not in it: a run that goes on has it from where it began.

        Raises OSError where this one, or the one begun before it, cannot be written.
        """
        if self.manager.latest_step() == step:
            return
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state.replace(frozen={})),
            data=ocp.args.JsonSave(data),
            config=ocp.args.JsonSave(config),
        )
        try:
            self.manager.save(step, args=args)
        except Exception as error:  # whatever orbax and tensorstore raise
            raise self._not_written(error) from error

    def restore(
        self, state: TrainState, config: dict[str, Any]
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint in the shape of `state`, and the iterator's state; None if none.

        It comes to lie as `state` does, whatever mesh it was saved from.

        Raises ValueError where it is of another config, but for what is `FREE`.
        """
        step = self.manager.latest_step()
        if step is None:
            return None
        where = f"{self.manager.directory}: the checkpoint of step {step}"
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state.replace(frozen={}))
        begin = ocp.args.Composite(config=ocp.args.JsonRestore(), data=ocp.args.JsonRestore())
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        try:
            saved = self.manager.restore(step, args=begin)
            for key, (before, now) in differing(saved["config"], config).items():
                raise ValueError(f"{key} was {before!r}, the config has {now!r}")
            restored = self.manager.restore(step, args=args)["state"]
        except (ValueError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0][:200]
            raise ValueError(f"{where} does not fit this config ({reason})") from error
        return restored.replace(frozen=state.frozen), saved["data"]

    def close(self) -> None:
        """Waits for what is being written. Raises OSError where it cannot be."""
        try:
            self.manager.wait_until_finished()
        except Exception as error:  # whatever orbax and tensorstore raise
            raise self._not_written(error) from error
        finally:
            self.manager.close()

    def _not_written(self, error: Exception) -> OSError:
        kept = self.manager.latest_step()
        last = "there is none yet" if kept is None else f"that of step {kept} is there"
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        return OSError(
            f"{self.manager.directory}: a checkpoint cannot be written, {last} ({reason})"
        )


def differing(saved: dict[str, Any], config: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys that matter whose values differ, with both."""
    a, b = (flatten_dict(c, sep=".") for c in (saved, config))
    keys = [key for key in sorted({*a, *b}) if not key.startswith(FREE)]
    return {key: (a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)}
