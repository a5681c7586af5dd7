"""Which stage runs when: one Ray Tune run whose searcher hands out stages as their inputs become ready.

The only import of Ray Tune's scheduling, and on purpose little of it: results and resuming are not Tune's business
(see `energyaware.store`), so its storage is a temporary folder that nobody reads.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from ray import tune
from ray.tune.search import Searcher

from energyaware.rows import Row
from sweep.failures import Again, Failure, Policy, micro_batch_of
from sweep.plan import PlannedStage
from sweep.stage_actor import Job, StageTrainable
from sweep.tries import Tries

FINISHED: Final[str] = Searcher.FINISHED

METRIC: Final = "duration_s"
"""Tune wants a metric to optimise; nothing here is decided by it."""

Listener = Callable[[str, PlannedStage, Row], None]
"""Told of each event ("started", "ended", "again", "blocked"), its stage, and how it ended."""


class StageSearcher(Searcher):  # type: ignore[misc]
    """Hands out attempts at stages whose inputs are there, and again at what may yet succeed.

    Args:
        left: what is to run, in order of preference.
        policy: what follows from failures.
        workers: of a gang.
        listener: told of every event, in the driver.
        recorded: how an attempt ended whose actor can no longer say so; records it where that is still to be done.
    """

    def __init__(
        self,
        left: Iterable[Tries],
        policy: Policy,
        workers: int,
        listener: Listener,
        recorded: Callable[[PlannedStage, int], Row],
    ) -> None:
        super().__init__(metric=METRIC, mode="min")
        self._waiting = {tries.stage.stage_id: tries for tries in left}
        self._running: dict[str, Tries] = {}
        self._policy, self._workers = policy, workers
        self._listener, self._recorded = listener, recorded
        self._stopping = False
        self.stopped_by: str | None = None

    @property
    def running(self) -> list[Tries]:
        """Attempts handed out that have not ended."""
        return list(self._running.values())

    @property
    def waiting(self) -> int:
        """How many stages have not been handed out, or wait to be tried again."""
        return len(self._waiting)

    @property
    def stopping(self) -> bool:
        """Whether nothing more is handed out."""
        return self._stopping

    def stop(self) -> None:
        """Hand out nothing more; what is running ends."""
        self._stopping = True

    def suggest(self, trial_id: str) -> Row | str | None:
        """The next ready stage; None while none is; FINISHED when none will be."""
        if self._stopping:
            return FINISHED
        now_s = time.monotonic()
        unfinished = self._waiting.keys() | {tries.stage.stage_id for tries in self._running.values()}
        for tries in self._waiting.values():
            if tries.not_before_s <= now_s and unfinished.isdisjoint(tries.stage.spec.needs):
                del self._waiting[tries.stage.stage_id]
                self._running[trial_id] = tries
                self._listener("started", tries.stage, {})
                return {
                    "stage_id": tries.stage.stage_id,
                    "attempt": tries.attempt,
                    "micro_batch_size": tries.micro_batch_size,
                }
        return None if self._waiting or self._running else FINISHED  # what runs may have to be tried again

    def on_trial_complete(self, trial_id: str, result: Row | None = None, error: bool = False) -> None:
        """An attempt ended; what needs a stage that has no result will not run."""
        tries = self._running.pop(trial_id)
        ended = self._recorded(tries.stage, tries.attempt) if error or not result else result
        if ended["state"] == "finished":
            self._listener("ended", tries.stage, ended)
        elif again := self._again(tries, ended["failure"], ended["reason"]):
            self._listener("again", tries.stage, ended | {"again": again})
        else:
            self._listener("ended", tries.stage, ended)
            if ended["state"] != "interrupted":
                self._block(tries.stage.stage_id, str(ended["state"]))

    def _again(self, tries: Tries, failure: Failure, reason: str) -> Again | None:
        """Whether the stage waits for another attempt, and which."""
        if failure == "storage":
            self.stopped_by = reason
            self.stop()
        if self._stopping:
            return None
        tries.failures.append(failure)
        micro_batch_size = tries.micro_batch_size or micro_batch_of(tries.stage.spec, self._workers)
        again = self._policy.again(tries.failures, micro_batch_size)
        if again:
            tries.attempt += 1
            tries.micro_batch_size = again.micro_batch_size or tries.micro_batch_size
            tries.not_before_s = time.monotonic() + again.delay_s
            self._waiting[tries.stage.stage_id] = tries
        return again

    def _block(self, stage_id: str, state: str) -> None:
        for waiting in [tries.stage for tries in self._waiting.values() if stage_id in tries.stage.spec.needs]:
            del self._waiting[waiting.stage_id]
            self._listener("blocked", waiting, {"state": "blocked", "reason": f"its fine-tuning ended {state}"})

    def __getstate__(self) -> dict[str, Any]:
        """For the snapshot that Tune insists on and nobody reads: without what holds a terminal or a lock."""
        return {name: value for name, value in self.__dict__.items() if name not in {"_listener", "_recorded"}}

    def set_search_properties(self, metric: str | None, mode: str | None, config: Any, **spec: Any) -> bool:
        """Nothing to set: the plan is the search space."""
        return True

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the plan minus the finished rows is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


def dispatch(job: Job, searcher: StageSearcher) -> None:
    """Run all stages of the searcher; returns when none is left.

    Raises:
        KeyboardInterrupt: the user or the system asked to stop; the searcher knows what was running.
    """
    os.environ |= {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # an interrupt is ours to handle: attempts have to be recorded
        "TUNE_GLOBAL_CHECKPOINT_S": "3600",
        "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
    }
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what becomes of stages is ours to tell
    # Tune drops an empty head bundle, so that the workers' bundles start at index 0.
    bundles = [{}, *[job.resources.bundle] * job.workers]
    trainable = tune.with_resources(
        tune.with_parameters(StageTrainable, job=job), tune.PlacementGroupFactory(bundles, strategy="PACK")
    )
    with tempfile.TemporaryDirectory(prefix="energyaware-") as storage:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(search_alg=searcher, num_samples=-1, reuse_actors=True),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=storage,
                verbose=0,
                # Actors on other nodes have no such folder; one that fails to save there would be started anew.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        with contextlib.redirect_stdout(io.StringIO()):  # Tune prints tables of its own even when told not to
            tuner.fit()
