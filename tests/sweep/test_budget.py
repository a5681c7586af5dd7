"""A budget's arithmetic, and who may start under it."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from analysis.budget import NOTHING, Caps, Spending, stopped, uses
from analysis.estimate import Effort, Estimates
from cluster.node import Node
from energyaware.errors import InputError
from energyaware.precision import Hardware
from sweep.budget import Keeper
from sweep.failures import Policy
from sweep.needs import settle
from sweep.places import Places
from sweep.plan import make_plan
from sweep.schedule import StageSearcher
from sweep.sweep_file import dump, load, parse
from sweep.tries import Tries

KWH, HOUR = 3.6e6, 3600.0

amounts = st.floats(min_value=0, max_value=1e12)
efforts = st.builds(Effort, amounts, amounts, amounts)
limits = st.dictionaries(
    st.sampled_from(["kwh", "gpu_hours", "hours", "cost"]), st.floats(min_value=1e-6, max_value=1e6)
)
times = st.floats(min_value=0, max_value=1e6)
attempts = st.lists(st.tuples(st.none() | amounts, times, times, st.booleans()), max_size=8)


def spent_by(rows):
    spending = Spending()
    for energy_j, duration_s, gpu_s, finished in rows:
        spending = spending.plus(energy_j, duration_s, gpu_s, finished=finished)
    return spending


# -- the sweep file ----------------------------------------------------------------------------------------------------


def asked(tmp_path, budget, energy=None):
    return parse({"precisions": "fp32", "budget": budget, "energy": energy or {}}, tmp_path / "s.yaml")


@pytest.mark.parametrize(
    ("budget", "energy", "problem"),
    [
        ({"cost": 5}, {}, "budget.cost needs energy.price_per_kwh"),
        ({"gpu_hours": 5}, {"components": ["cpu"]}, "budget.gpu_hours needs gpu among energy.components"),
        ({"kwh": 0}, {}, "budget.kwh: 0: input should be greater than 0"),
        ({"hours": float("inf")}, {}, "budget.hours: inf: input should be a finite number"),
        ({"joules": 5}, {}, "budget.joules: unknown key; allowed: kwh, gpu_hours, hours, cost"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused_in_one_line(tmp_path, budget, energy, problem):
    with pytest.raises(InputError, match=problem) as caught:
        asked(tmp_path, budget, energy)
    assert "\n" not in str(caught.value)


def test_a_budget_is_kept_with_the_results_and_is_no_part_of_what_a_stage_is(tmp_path):
    sweep = asked(tmp_path, {"kwh": 2.5, "cost": 100}, {"price_per_kwh": 0.3})
    (tmp_path / "kept.yaml").write_text(dump(sweep))
    kept = load(tmp_path / "kept.yaml")
    assert kept.budget == sweep.budget
    without = parse({"precisions": "fp32"}, tmp_path / "s.yaml")
    ids = [[stage.stage_id for stage in make_plan(each, Hardware("cpu"))] for each in (kept, without)]
    assert ids[0] == ids[1]


# -- arithmetic --------------------------------------------------------------------------------------------------------


def test_caps_are_in_their_units_and_cost_has_the_data_centres_overhead():
    caps = Caps.of_sweep(
        {
            "budget": {"kwh": 2, "gpu_hours": 40, "hours": 12, "cost": 1, "other": 9},
            "energy": {"price_per_kwh": 0.25, "pue": 1.2, "currency": "EUR"},
        }
    )
    used = uses(caps, Effort(KWH, 30 * HOUR, 3 * HOUR))
    assert [(use.name, use.unit, use.limit) for use in used] == [
        *(("kwh", "kWh", 2), ("gpu_hours", "GPU-hours", 40), ("hours", "hours", 12), ("cost", "EUR", 1)),
    ]
    assert [use.used for use in used] == pytest.approx([1, 30, 3, 0.3])
    assert [use.line() for use in used] == [
        *("1 of 2 kWh (50 %)", "30 of 40 GPU-hours (75 %)", "3 of 12 hours (25 %)", "0.3 of 1 EUR (30 %)"),
    ]


@given(limits, efforts, efforts, efforts)
def test_who_asks_for_more_or_comes_later_is_refused_what_others_are_refused(limits, used, need, more):
    caps = Caps(limits, cost_per_kwh=0.3)
    larger = Effort(need.energy_j + more.energy_j, need.gpu_s + more.gpu_s, need.duration_s + more.duration_s)
    later = Effort(used.energy_j + more.energy_j, used.gpu_s + more.gpu_s, used.duration_s + more.duration_s)
    refused = set(caps.exceeded(used, need))
    assert refused <= set(caps.exceeded(used, larger))
    assert refused <= set(caps.exceeded(later, need))
    assert set(caps.exceeded(used, None)) == set(caps.exceeded(used, NOTHING)) <= refused


@given(limits, efforts, efforts)
def test_what_is_let_start_ends_within_every_cap(limits, used, need):
    caps = Caps(limits, cost_per_kwh=0.3)
    if caps.exceeded(used, need):
        return
    for name, limit in limits.items():
        assert caps.amount(name, used) + caps.amount(name, need) <= limit
        assert caps.amount(name, used) < limit


@given(limits)
def test_what_is_used_and_cannot_be_told_is_never_within_a_cap(limits):
    caps = Caps(limits, cost_per_kwh=0.3)
    exceeded = caps.exceeded(Effort(None, 0.0, 0.0), NOTHING)
    assert set(exceeded) == limits.keys() & {"kwh", "cost"}
    assert all(use.share is None for use in uses(caps, Effort(None, 0.0, 0.0)) if use.name in exceeded)


@given(attempts)
@example([(1.0, 2.225073858507e-311, 0.0, False)])
def test_unknown_joules_are_never_counted_as_none_beside_known_ones(rows):
    spending = spent_by(rows)
    known_j = sum(energy_j or 0.0 for energy_j, *_ in rows)
    effort = spending.effort
    assert effort.gpu_s == pytest.approx(sum(gpu_s for _, _, gpu_s, _ in rows))
    if effort.energy_j is None:
        assert any(energy_j is None and finished for energy_j, _, _, finished in rows)
    else:
        assert effort.energy_j >= known_j * (1 - 1e-9)
        if known_j > 1 and spending.known_s > 1e-3 and spending.unknown_s > 1e-3:
            power_w = known_j / spending.known_s
            assert effort.energy_j == pytest.approx(known_j + power_w * spending.unknown_s)


def test_what_was_killed_before_anything_was_known_does_not_hold_up_a_sweep_and_unreadable_meters_do():
    killed = Spending().plus(None, 5.0, 0.0, finished=False)
    assert killed.effort.energy_j == 0.0
    assert killed.plus(None, 50.0, 0.0, finished=True).effort.energy_j is None
    assert killed.plus(100.0, 10.0, 0.0, finished=True).effort.energy_j == 150.0


def test_why_nothing_more_starts_is_one_line():
    caps = Caps({"kwh": 1.0, "hours": 12.0})
    need = Effort(0.25 * KWH, 0.0, 60.0)
    left = [need, Effort(0.15 * KWH, 0.0, 60.0)]
    used = Effort(0.8 * KWH, 0.0, HOUR)
    told = "stopped by the budget: 0.8 of 1 kWh used, 2 stages left, ~0.4 kWh needed"
    assert stopped(caps, used, [need], left) == told
    assert stopped(caps, used, [need, Effort(0.1 * KWH, 0.0, 60.0)], left) is None
    assert stopped(caps, used, [], []) is None
    assert stopped(caps, Effort(1.1 * KWH, 0.0, HOUR), [None], [None]) == (
        "stopped by the budget: 1.1 of 1 kWh used, 1 stage left, unknown kWh needed"
    )
    assert stopped(caps, Effort(0.8 * KWH, 0.0, 13 * HOUR), [need], [*left, None]) == (
        "stopped by the budget: 0.8 of 1 kWh and 13 of 12 hours used, 3 stages left, "
        "~0.4 kWh for 2 of them and ~0.0333 hours of stages for 2 of them needed"
    )


# -- while a sweep runs ------------------------------------------------------------------------------------------------


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def stages(tmp_path):
    """Four fine-tunings of one kind, each with an inference."""
    path = tmp_path / "s.yaml"
    path.write_text("precisions: fp32\nseeds: [0, 1, 2, 3]\nfinetune: {batch_size: 8}")
    return list(make_plan(load(path), Hardware("cpu", None)))


def finetunes(stages):
    return [stage for stage in stages if stage.spec.kind == "finetune"]


def ended(energy_j=100.0, state="finished", duration_s=10.0, **more):
    row = {"state": state, "reason": "why", "energy_j": energy_j, "energy_other_j": 0.0, "duration_s": duration_s}
    return row | {"failure": None if state == "finished" else "refused"} | more


def keeper(limits, spent=None, gpus=0):
    clock = Clock()
    made = Keeper(Caps(limits), spent or Spending(), Estimates(), lambda stage: gpus, clock)
    made.clock = clock
    return made


def test_the_first_stage_teaches_what_the_others_take(stages):
    first, second, third, _ = finetunes(stages)
    budget = keeper({"kwh": 250 / KWH})
    assert budget.may_start(first)
    budget.started(first)
    assert budget.may_start(second), "unknown, and there is something left"
    budget.ended(first, ended(100.0))
    assert budget.may_start(second)
    budget.started(second)
    assert not budget.may_start(third), "100 used, 100 at work"
    budget.ended(second, ended(40.0, energy_other_j=5.0))
    assert budget.may_start(third), "145 used, and the median is 72.5"
    assert not keeper({"kwh": 250 / KWH}, Spending(energy_j=250.0)).may_start(first)


def test_gpu_hours_are_counted_of_running_stages_too_and_not_of_those_that_wait_for_room(stages):
    first, second, third, _ = finetunes(stages)
    budget = keeper({"gpu_hours": 1.0, "hours": 1.0}, Spending(gpu_s=HOUR / 2, wall_s=600.0), gpus=4)
    budget.started(first)
    budget.clock.now_s = 100.0
    budget.saw([{"joules": {first.stage_id: 1.0}}])
    budget.started(second)
    budget.clock.now_s = 400.0
    assert [use.used for use in budget.uses()] == pytest.approx([0.5 + 4 * 300 / HOUR, 1000 / HOUR])
    assert not budget.is_reached()
    assert budget.may_start(third)
    budget.clock.now_s = 560.0
    budget.saw([])
    assert budget.is_reached()
    assert not budget.may_start(third)


def test_wall_time_has_to_suffice_for_the_stage(stages):
    first, second, *_ = finetunes(stages)
    budget = keeper({"hours": 1.0})
    budget.started(first)
    budget.clock.now_s = 2000.0
    budget.ended(first, ended(duration_s=2000.0))
    assert not budget.may_start(second)


def test_running_stages_reach_a_cap_with_what_meters_tell_over_all_nodes(stages):
    first, second, *_ = finetunes(stages)
    budget = keeper({"kwh": 100 / KWH})
    budget.started(first)
    budget.started(second)
    budget.saw([{"joules": {first.stage_id: 30.0, "foreign": 1e9}}, {"joules": {first.stage_id: 30.0}}])
    assert not budget.is_reached()
    budget.saw([{"joules": {first.stage_id: 30.0, second.stage_id: 40.0}}, {"joules": {first.stage_id: 30.0}}])
    assert budget.is_reached()
    budget.saw([{"joules": {second.stage_id: 40.0}}])
    assert budget.is_reached(), "one node is gone, and what was spent there is not"


def test_joules_that_an_earlier_attempt_spent_are_not_spent_again(stages):
    first, second, *_ = finetunes(stages)
    budget = keeper({"kwh": 240 / KWH}, Spending(energy_j=60.0, known_s=6.0))
    budget.started(first)
    budget.ended(first, ended(100.0, energy_spent_j=40.0, duration_s=4.0))
    (use,) = budget.uses()
    assert use.used == pytest.approx(100 / KWH)
    assert budget.may_start(second), "100 used, and the whole of another is 100"


def test_without_a_cap_everything_may_start_and_nothing_is_reached(stages):
    budget = keeper({}, Spending(finished_unknown=True, unknown_s=1.0))
    assert all(budget.may_start(stage) for stage in stages)
    assert (budget.is_reached(), budget.refused, budget.uses()) == (False, False, [])


# -- in the schedule ---------------------------------------------------------------------------------------------------


def searcher_of(sweep, stages, budget):
    """On a machine with room for all; each trial has its workers at once."""

    def listener(event, stage, row):
        (budget.started(stage) if event == "started" else budget.ended(stage, row))

    node = Node("n", "n", "127.0.0.1", cpus=64, gpus_handed_out=0, memory_bytes=1)
    nodes = [node]
    places = Places(settle(sweep.resources, 0, nodes, "s.yaml"), lambda: nodes)
    left, policy = [Tries(stage, 1) for stage in stages], Policy(retries=1, backoff_s=30.0)
    return StageSearcher(left, policy, places, 60.0, listener, print, None, budget.may_start)


def suggested(searcher, trial_id):
    asked = searcher.suggest(trial_id)
    searcher.has_workers([trial_id])
    return asked["stage_id"] if isinstance(asked, dict) else asked


@pytest.fixture
def sweep(tmp_path, stages):
    return load(tmp_path / "s.yaml")


def test_what_would_exceed_the_budget_waits_for_what_runs_and_is_left_after_that(sweep, stages):
    searcher = searcher_of(sweep, stages, keeper({"kwh": 290 / KWH}))
    first, its_inference, second, its_inference_too, *_ = [stage.stage_id for stage in stages]
    assert suggested(searcher, "t1") == first
    searcher.on_trial_complete("t1", ended(100.0))
    assert suggested(searcher, "t2") == its_inference, "it teaches what inferences take"
    assert suggested(searcher, "t3") == second
    assert suggested(searcher, "t4") is None, "100 J used, and 100 and those of an inference at work"
    searcher.on_trial_complete("t2", ended(10.0))
    searcher.on_trial_complete("t3", ended(100.0))
    assert suggested(searcher, "t4") == its_inference_too, "210 J used, this one takes 10"
    assert suggested(searcher, "t5") is None
    searcher.on_trial_complete("t4", ended(10.0))
    assert suggested(searcher, "t5") == "FINISHED"
    assert (searcher.waiting, searcher.stopping) == (4, False)


def test_what_waits_to_be_tried_again_is_not_given_up_for_the_budget(sweep, stages):
    searcher = searcher_of(sweep, stages, keeper({"kwh": 110 / KWH}))
    assert suggested(searcher, "t1") == stages[0].stage_id
    searcher.on_trial_complete("t1", ended(10.0, "failed", failure="error"))
    suggested(searcher, "t2")
    searcher.on_trial_complete("t2", ended(100.0))
    assert suggested(searcher, "t3") is None


def test_a_stage_that_lost_its_place_before_it_had_workers_may_start_elsewhere(sweep, stages):
    searcher = searcher_of(sweep, stages, keeper({"kwh": 210 / KWH}))
    assert suggested(searcher, "t1") == stages[0].stage_id
    searcher.on_trial_complete("t1", ended(100.0))
    assert suggested(searcher, "t2") == stages[1].stage_id
    searcher.on_trial_complete("t2", ended(5.0))
    second = searcher.suggest("t3")
    searcher.on_trial_complete("t3", None)
    assert searcher.suggest("t4") == second
