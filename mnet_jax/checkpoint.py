"""Save and restore of a job in progress (Orbax), in the job's own folder, or that folder's place on a bucket."""

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from mnet_jax import bucket

SPARE = 2
"""Bytes that must be free on the disk, for each byte of a checkpoint."""


class Checkpoints:
    """The checkpoints of one job; Orbax is imported only when one is written or found."""

    def __init__(self, folder: Path):
        self.folder: Any = bucket.of(folder) or folder
        self.manager: Any = None

    def _open(self) -> Any:
        if self.manager is None:
            import orbax.checkpoint as ocp

            options = ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True, create=True)
            self.manager = ocp.CheckpointManager(self.folder.absolute(), options=options)
        return self.manager

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Starts to write `state` (arrays) and `meta` (JSON); the write goes on while training does.

        OSError where the disk has no room for it, or the save before this one failed.
        """
        import orbax.checkpoint as ocp

        self.folder.mkdir(parents=True, exist_ok=True)
        if isinstance(self.folder, Path):
            needed, free = sum(leaf.nbytes for leaf in jax.tree.leaves(state)), shutil.disk_usage(self.folder).free
            if free < SPARE * needed:
                raise OSError(
                    f"no checkpoint can be written to {self.folder}: {needed:,} bytes, and {free:,} are free there"
                )
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        with self._naming():
            self._open().save(step, args=args)

    def restore(self, state: Any) -> tuple[Any, dict[str, Any]] | None:
        """The newest checkpoint that can be read, shaped like `state`, with its meta; None if there is none.

        One that cannot be read is reported and the one before it taken.
        """
        if not self.folder.exists():
            return None
        import orbax.checkpoint as ocp

        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
        )
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore())
        for step in sorted(self._open().all_steps(), reverse=True):
            try:
                restored = self._open().restore(step, args=args)
                return restored["state"], restored["meta"]
            except Exception as error:  # Orbax has no common type for a damaged checkpoint
                logging.warning("checkpoint %s/%d cannot be read (%s); trying the one before", self.folder, step, error)
        return None

    def wait(self) -> None:
        """Returns when what was saved is whole on disk."""
        if self.manager is not None:
            with self._naming():
                self.manager.wait_until_finished()

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        """Turns whatever keeps Orbax from writing into one OSError."""
        try:
            yield
        except Exception as error:  # Orbax has no common type for it either
            reason = str(error).split("\n")[0][:300]
            raise OSError(f"the checkpoint in {self.folder} cannot be written: {reason}") from error

    def close(self, delete: bool) -> None:
        """Ends the writing; with `delete`, also removes every checkpoint, as a finished job does."""
        if self.manager is not None:
            self.manager.close()
        if delete and jax.process_index() == 0:
            if isinstance(self.folder, Path):
                shutil.rmtree(self.folder, ignore_errors=True)
            else:
                self.folder.rmtree(missing_ok=True)
