"""Which stage runs when: one Ray Tune run whose searcher hands out stages as their inputs become ready.

The only import of Ray Tune's scheduling, and on purpose little of it: results and resuming are not Tune's business
(see `energyaware.store`), so its storage is a temporary folder that nobody reads.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterable
from typing import Any, Final

from ray import tune
from ray.tune.search import Searcher

from energyaware.rows import Row
from sweep.plan import PlannedStage
from sweep.stage_actor import Job, StageTrainable

METRIC: Final = "duration_s"
"""Tune wants a metric to optimise; nothing here is decided by it."""

Listener = Callable[[str, PlannedStage, Row], None]
"""Told of each event ("started", "ended", "blocked"), its stage, and how it ended."""


class StageSearcher(Searcher):  # type: ignore[misc]
    """Hands out stages whose inputs are there.

    Args:
        stages: what is left to run, in order of preference.
        listener: told of every event, in the driver.
    """

    def __init__(self, stages: Iterable[PlannedStage], listener: Listener) -> None:
        super().__init__(metric=METRIC, mode="min")
        self._waiting = {stage.stage_id: stage for stage in stages}
        self._running: dict[str, PlannedStage] = {}
        self._listener = listener

    @property
    def running(self) -> list[PlannedStage]:
        """Stages handed out that have not ended."""
        return list(self._running.values())

    def suggest(self, trial_id: str) -> dict[str, str] | str | None:
        """The next ready stage; None while none is; FINISHED when none will be."""
        unfinished = self._waiting.keys() | {stage.stage_id for stage in self._running.values()}
        for stage in self._waiting.values():
            if unfinished.isdisjoint(stage.spec.needs):
                del self._waiting[stage.stage_id]
                self._running[trial_id] = stage
                self._listener("started", stage, {})
                return {"stage_id": stage.stage_id}
        return None if self._waiting else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: Row | None = None, error: bool = False) -> None:
        """A stage ended; what needs one that failed will not run."""
        stage = self._running.pop(trial_id)
        died: Row = {"state": "failed", "reason": "the stage's actor died", "energy_j": None, "unrecorded": True}
        ended = died if error or not result else result
        self._listener("ended", stage, ended)
        if ended["state"] != "finished":
            self._block(stage.stage_id, str(ended["state"]))

    def _block(self, stage_id: str, state: str) -> None:
        for waiting in [s for s in self._waiting.values() if stage_id in s.spec.needs]:
            del self._waiting[waiting.stage_id]
            self._listener("blocked", waiting, {"state": "blocked", "reason": f"its fine-tuning ended {state}"})

    def __getstate__(self) -> dict[str, Any]:
        """For the snapshot that Tune insists on and nobody reads: without the listener, which holds a terminal."""
        return {name: value for name, value in self.__dict__.items() if name != "_listener"}

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
    # Tune drops an empty head bundle, so that the workers' bundles start at index 0.
    bundles = [{}, *[job.resources.bundle] * job.workers]
    trainable = tune.with_resources(
        tune.with_parameters(StageTrainable, job=job), tune.PlacementGroupFactory(bundles, strategy="PACK")
    )
    with tempfile.TemporaryDirectory(prefix="energyaware-") as storage:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(search_alg=searcher, num_samples=-1, reuse_actors=True),
            run_config=tune.RunConfig(name="sweep", storage_path=storage, verbose=0),
        )
        with contextlib.redirect_stdout(io.StringIO()):  # Tune prints tables of its own even when told not to
            tuner.fit()
