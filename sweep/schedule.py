"""Which stage runs when: one Ray Tune run, whose searcher hands out stages as their inputs become ready.

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
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, Final

from ray import tune
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from energyaware.rows import Row
from sweep.failures import Again, Failure, Policy, micro_batch_of
from sweep.pending import Pending
from sweep.placement import Need, Place
from sweep.places import Places, number_of, numbered
from sweep.plan import PlannedStage
from sweep.stage_actor import Job, StageTrainable
from sweep.tries import Tries
from sweep.waiting import Waiting

FINISHED: Final[str] = Searcher.FINISHED

METRIC: Final = "duration_s"
"""Tune wants a metric to optimise; nothing here is decided by it."""

Listener = Callable[[str, PlannedStage, Row], None]
"""Told of each event ("started", "ended", "again", "blocked"), its stage, and how it ended."""


class StageSearcher(Searcher):  # type: ignore[misc]
    """Hands out attempts at stages whose inputs are there, and again at what may yet succeed.

    Once the machines are full, one trial of each need at most waits for room: what can run beside it is not held up.

    Args:
        left: what is to run, in order of preference.
        policy: what follows from failures.
        places: where trials go.
        wait_s: how long machines are waited for when there are none for any trial.
        listener: told of every event, in the driver.
        tell: tells the user a line.
        recorded: how an attempt ended whose actor can no longer say so; records it where that is still to be done.
        may_start: asked before a stage is handed out. What may not start waits for what runs, and is left after that.
        next_round: asked once all is done for what else is to run, until there is nothing.
    """

    def __init__(
        self,
        left: Iterable[Tries],
        policy: Policy,
        places: Places,
        wait_s: float,
        listener: Listener,
        tell: Callable[[str], None],
        recorded: Callable[[PlannedStage, int], Row],
        may_start: Callable[[PlannedStage], bool] = lambda _: True,
        next_round: Callable[[], Sequence[Tries]] = tuple,
    ) -> None:
        super().__init__(metric=METRIC, mode="min")
        stages = list(left)
        self.needs = {places.need_of(tries.stage.spec) for tries in stages}
        self._waiting = Waiting(stages, places.need_of)
        self._running: dict[str, Tries] = {}
        self._pending = Pending()
        self._at_work = Counter[Need]()
        self._policy, self._places, self._wait_s = policy, places, wait_s
        self._listener, self._tell, self._recorded, self._may_start = listener, tell, recorded, may_start
        self._next_round = next_round
        self._refused = set[Need]()
        self._without_result: dict[str, str] = {}
        self._stopping = False
        self._without_machines_since_s: float | None = None
        self.stopped_by: str | None = None

    @property
    def most_pending(self) -> int:
        """Trials that may wait for workers at once: as many as the machines hold, and one more of each need."""
        return sum(max(1, self._places.at_once(need)) + 1 for need in self.needs)

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
        now_s = time.monotonic()
        self.look_for_machines(now_s)
        if self._stopping:
            return FINISHED
        heads = self._waiting.heads(now_s)
        for need, _ in heads:
            is_full = self._at_work[need] >= self._places.at_once(need)
            if self._pending.holds_up(need, now_s, is_full=is_full) or (place := self._places.place(need)) is None:
                continue
            if tries := self._first_that_may_start(need):
                return self._hand_out(trial_id, tries, need, place, now_s)
        # What runs may have to be tried again; machines may come back.
        short = any(self._places.place(need) is None for need, _ in heads)
        if self._running or self._waiting.for_later or short:
            return None
        return None if not self._waiting and self._begin_round() else FINISHED

    def _begin_round(self) -> bool:
        """Whether there is another round. What needs a stage of an earlier one that has no result is blocked."""
        more = self._next_round()
        self._waiting.add(more)
        for stage_id in self._without_result:
            self._block(stage_id)
        return bool(more)

    def on_trial_complete(self, trial_id: str, result: Row | None = None, error: bool = False) -> None:
        """An attempt ended; what needs a stage that has no result will not run."""
        self._refused.clear()
        tries = self._running[trial_id]
        self._at_work[self._places.need_of(tries.stage.spec)] -= 1
        if self._pending.remove(trial_id) and not error and not result:
            if not self._stopping:  # its machines are others now
                self._waiting.put_back(self._running.pop(trial_id))
            return
        del self._running[trial_id]
        ended = self._recorded(tries.stage, tries.attempt) if error or not result else result
        if ended["state"] == "finished":
            self._waiting.finished(tries.stage.stage_id)
            self._listener("ended", tries.stage, ended)
        elif again := self._again(tries, ended["failure"], ended["reason"]):
            self._listener("again", tries.stage, ended | {"again": again})
        else:
            self._listener("ended", tries.stage, ended)
            if ended["state"] != "interrupted":
                self._without_result[tries.stage.stage_id] = ended["state"]
                self._block(tries.stage.stage_id)

    def has_workers(self, trial_ids: Iterable[str]) -> None:
        """These trials wait for room no longer."""
        for trial_id in trial_ids:
            self._pending.remove(trial_id)

    def to_withdraw(self) -> list[str]:
        """Trials that wait for machines that are gone, or where others have joined meanwhile; all, once stopping."""
        return self._pending.out_of_place(self._places, anyway=self._stopping)

    def look_for_machines(self, now_s: float) -> None:
        """Say so when nothing can run on the machines that are left, and stop when that has lasted."""
        needs = [need for need, _ in self._waiting.heads(now_s)] + self._pending.needs
        short = [need for need in needs if self._places.place(need) is None]
        if self._stopping or len(self._running) > len(self._pending) or len(short) < len(needs) or not short:
            self._without_machines_since_s = None
            return
        why = self._places.why_nowhere(short[0])
        if self._without_machines_since_s is None:
            self._without_machines_since_s = now_s
            self._tell(f"waiting for machines: {why}; the run stops in {self._wait_s / 60:g} min if none join")
        elif now_s - self._without_machines_since_s > self._wait_s:
            self.stopped_by = f"no machines for {self._wait_s / 60:g} min: {why}"
            self.stop()

    def _first_that_may_start(self, need: Need) -> Tries | None:
        if need in self._refused:  # what may not start may not until something has ended
            return None
        for tries in self._waiting.ready(need):
            if self._may_start(tries.stage):
                return tries
        if self._running:
            self._refused.add(need)
        return None

    def _hand_out(self, trial_id: str, tries: Tries, need: Need, place: Place, now_s: float) -> Row:
        self._waiting.take(need, tries)
        self._running[trial_id] = tries
        self._at_work[need] += 1
        self._pending.add(trial_id, need, place, now_s)
        self._listener("started", tries.stage, {})
        return {
            "stage_id": tries.stage.stage_id,
            "attempt": tries.attempt,
            "micro_batch_size": tries.micro_batch_size,
            "shape": list(place.shape),
            "place": number_of(place),
        }

    def _again(self, tries: Tries, failure: Failure, reason: str) -> Again | None:
        """Whether the stage waits for another attempt, and which."""
        if failure == "storage":
            self.stopped_by = reason
            self.stop()
        if self._stopping:
            return None
        tries.failures.append(failure)
        workers = self._places.need_of(tries.stage.spec).workers
        micro_batch_size = tries.micro_batch_size or micro_batch_of(tries.stage.spec, workers)
        again = self._policy.again(tries.failures, micro_batch_size)
        if again:
            tries.attempt += 1
            tries.micro_batch_size = again.micro_batch_size or tries.micro_batch_size
            tries.not_before_s = time.monotonic() + again.delay_s
            self._waiting.put_back(tries)
        return again

    def _block(self, stage_id: str) -> None:
        ended = self._without_result[stage_id]
        row = {"state": "stopped" if ended == "stopped" else "blocked", "reason": f"its fine-tuning ended {ended}"}
        for stage in self._waiting.drop_after(stage_id):
            self._listener("blocked", stage, row)

    def __getstate__(self) -> dict[str, Any]:
        """For the snapshot that Tune insists on and nobody reads: without what holds a terminal or a lock."""
        live = {"_listener", "_tell", "_recorded", "_may_start", "_next_round", "_places", "_waiting"}
        return {name: value for name, value in self.__dict__.items() if name not in live}

    def set_search_properties(self, metric: str | None, mode: str | None, config: Any, **spec: Any) -> bool:
        """Nothing to set: the plan is the search space."""
        return True

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the plan minus the finished rows is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class _Placer(FIFOScheduler):  # type: ignore[misc]
    """Takes back trials that wait for room in the wrong place. Tune starts the others in their order by itself."""

    def __init__(self, searcher: StageSearcher) -> None:
        super().__init__()
        self._searcher = searcher

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Names the trial's folder, which Tune asks for at the end of a run; it names that of a started one only."""
        super().on_trial_add(tune_controller, trial)
        trial.init_local_path()

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """Called at every turn of Tune's loop. Chooses none: to go through all trials each time is not needed."""
        trials = {trial.trial_id: trial for trial in tune_controller.get_live_trials()}
        self._searcher.has_workers(name for name, trial in trials.items() if trial.status != Trial.PENDING)
        self._searcher.look_for_machines(time.monotonic())
        for trial_id in self._searcher.to_withdraw():
            if trial := trials.get(trial_id):
                tune_controller.stop_trial(trial)
                if trial in tune_controller._staged_trials:  # or Tune keeps idle gangs for it, which hold their GPUs
                    tune_controller._unstage_trial_with_resources(trial)


@cache
def _group_at(number: int) -> tune.PlacementGroupFactory:
    """One object for all trials of a place: Tune reuses actors, and their warm gangs, between equal ones."""
    place = numbered(number)
    # Tune drops an empty head bundle, so that the workers' bundles start at index 0.
    bundles = [{}, *place.bundles]
    return tune.PlacementGroupFactory(bundles, strategy=place.strategy, bundle_label_selector=place.selectors)


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
        "TUNE_MAX_PENDING_TRIALS_PG": str(searcher.most_pending),
    }
    # Keys of object storage that Tune hands to actors stand in a log of Ray's that all users of a node can read.
    class_cache.ENV_VARS_TO_PROPAGATE -= {name for name in class_cache.ENV_VARS_TO_PROPAGATE if "AWS_" in name}
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what becomes of stages is ours to tell
    trainable = tune.with_resources(
        tune.with_parameters(StageTrainable, job=job), lambda config: _group_at(config["place"])
    )
    with tempfile.TemporaryDirectory(prefix="energyaware-") as storage:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher, scheduler=_Placer(searcher), num_samples=-1, reuse_actors=True
            ),
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
