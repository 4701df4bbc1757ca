"""Checkpoints of a run: orbax for the state, beside it where the data iterator stood."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from latentum_jax.train.state import TrainState


class Checkpoints:
    """Saves every so often in the background, keeps the newest few, restores the newest."""

    def __init__(self, folder: Path, *, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self.manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def save(self, step: int, state: TrainState, data: dict[str, Any]) -> None:
        """Begins to write a checkpoint unless this step has one."""
        if self.manager.latest_step() != step:
            args = ocp.args.Composite(
                state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data)
            )
            self.manager.save(step, args=args)

    def restore(self, state: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint in the shape of `state`, and the iterator's state; None if none.

        Raises ValueError where the checkpoint is of another architecture or stage.
        """
        step = self.manager.latest_step()
        if step is None:
            return None
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
        )
        try:
            restored = self.manager.restore(step, args=args)
        except (ValueError, KeyError, TypeError) as error:
            where = self.manager.directory
            reason = str(error).splitlines()[0][:200]
            raise ValueError(
                f"{where}: the checkpoint of step {step} does not fit this config ({reason})"
            ) from error
        return restored["state"], restored["data"]

    def close(self) -> None:
        """Waits for what is being written."""
        self.manager.wait_until_finished()
        self.manager.close()
