"""Where trials go: on how many machines, on which, and why on none. Arithmetic alone, without a cluster."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cluster.node import Gpu, Node, named
from energyaware.errors import InputError
from energyaware.precision import Hardware
from sweep.needs import refuse_idle_gpus, refused_by_machines, settle
from sweep.placement import Need, place, why_nowhere
from sweep.places import Places, number_of, numbered
from sweep.plan import make_plan
from sweep.settings import Resources
from sweep.sweep_file import load

H100, A100, A100_80 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-80GB"


def node(name, cpus=8, gpus=4, kind=H100, others=(), capability=None):
    kinds = [kind] * gpus + list(others)
    found = tuple(Gpu(f"GPU-{name}{index}", each, None, capability, None) for index, each in enumerate(kinds))
    return Node(f"id-{name}", name, "10.0.0.1", cpus, len(kinds), 2**33, found)


THREE = (node("host1"), node("host2"), node("host3"))


def on_gpus(workers, **more):
    return Need(workers=workers, cpus=1, gpus=1, gpu_kind=H100, **more)


@pytest.mark.parametrize(
    ("need", "shape"),
    [
        (on_gpus(1), (1,)),
        (on_gpus(4), (4,)),
        (on_gpus(5), (3, 2)),  # on as few as can hold them, and there evenly
        (on_gpus(8), (4, 4)),
        (on_gpus(12), (4, 4, 4)),
        (on_gpus(2, placement="spread"), (1, 1)),
        (on_gpus(4, placement="spread"), (2, 1, 1)),
        (on_gpus(6, placement="spread"), (2, 2, 2)),
        (on_gpus(4, nodes=2), (2, 2)),
        (on_gpus(5, nodes=2), (3, 2)),
        (Need(workers=16, cpus=0.5), (16,)),
        (Need(workers=17, cpus=0.5), (9, 8)),
    ],
)
def test_a_trial_has_a_shape_that_follows_from_the_machines_and_not_from_what_runs(need, shape):
    found = place(need, THREE)
    assert found.shape == shape
    assert found.node_ids == ("id-host1", "id-host2", "id-host3")
    assert found.bundles == [
        {"CPU": workers * need.cpus} | ({"GPU": workers} if need.gpus else {}) for workers in shape
    ]
    assert found.strategy == ("STRICT_PACK" if len(shape) == 1 else "STRICT_SPREAD")
    assert found.selectors == [{"ray.io/node-id": "in(id-host1,id-host2,id-host3)"}] * len(shape)


def test_unlike_machines_are_dealt_out_to_evenly_as_far_as_they_have_room():
    unlike = (node("small", gpus=1), node("large", gpus=8), node("middle", gpus=3))
    assert place(on_gpus(8), unlike).shape == (8,)
    assert place(on_gpus(10), unlike).shape == (7, 3)
    assert place(on_gpus(12, placement="spread"), unlike).shape == (8, 3, 1)
    assert place(on_gpus(3, nodes=3), unlike).shape == (1, 1, 1)
    assert place(on_gpus(13), unlike) is None


def test_on_whole_nodes_a_trial_holds_all_cores_of_machines_on_which_it_is_then_alone():
    need = Need(workers=2, cpus=1, whole_nodes=True)
    assert place(need, (node("a", cpus=8), node("b", cpus=8))).bundles == [{"CPU": 8}]
    unlike = place(need, (node("a", cpus=8), node("b", cpus=12), node("c", cpus=64)))
    assert (unlike.cpus, unlike.node_ids) == ((8,), ("id-a", "id-b")), "two trials of 8 cores would fit on 64"
    two = place(Need(workers=2, cpus=1, gpus=1, nodes=2, whole_nodes=True), (node("a", cpus=8), node("b", cpus=8)))
    assert two.bundles == [{"CPU": 8, "GPU": 1}] * 2


@given(
    cpus=st.lists(st.integers(1, 16), min_size=1, max_size=6),
    gpus=st.lists(st.integers(0, 8), min_size=6, max_size=6),
    workers=st.integers(1, 24),
    placement=st.sampled_from(["pack", "spread"]),
    nodes=st.none() | st.integers(1, 4),
    whole=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_what_is_placed_fits_and_what_fits_is_placed(cpus, gpus, workers, placement, nodes, whole):
    assume(nodes is None or nodes <= workers)  # the sweep file refuses it
    machines = [node(f"n{index}", cpus=count, gpus=gpus[index]) for index, count in enumerate(cpus)]
    need = Need(workers, 1, 1, H100, placement, nodes, whole)
    found = place(need, machines)
    rooms = sorted((need.room(machine) for machine in machines), reverse=True)
    enough = sum(rooms[:nodes]) >= workers and sum(room > 0 for room in rooms) >= (nodes or 1)
    assert whole or (found is not None) == enough
    if found is None:
        assert "\n" not in why_nowhere(need, machines)
        return
    assert sum(found.shape) == workers
    assert min(found.shape) >= 1
    assert all(share <= room for share, room in zip(found.shape, rooms, strict=False))
    if nodes is not None:
        assert len(found.shape) == nodes
    if whole:
        of = {machine.node_id: machine.cpus for machine in machines}
        assert all(held <= of[name] < 2 * held for name in found.node_ids for held in found.cpus)


def test_what_does_not_fit_says_what_the_nearest_is_that_does():
    machines = (node("host1", gpus=2), node("host2", gpus=2))
    said = why_nowhere(on_gpus(5), machines)
    assert said == (
        f"needs 5 workers with 1 CPU and 1 {H100} each for one trial; the largest that fits is 4 workers "
        "(host1 has 8 CPUs and 2 GPUs, host2 has 8 CPUs and 2 GPUs)"
    )
    assert "the largest that fits is 2 workers" in why_nowhere(on_gpus(4, nodes=1), machines)
    assert "not even one worker fits" in why_nowhere(Need(1, 9), machines)
    assert "not even 3 workers on as many machines fit" in why_nowhere(on_gpus(4, nodes=3), machines)
    many = [node(f"h{index}", gpus=0) for index in range(128)]
    assert why_nowhere(Need(1, 9), many).endswith("h3 has 8 CPUs and 124 more)")
    assert "(no machines)" in why_nowhere(Need(1, 1), ())


@pytest.fixture
def stages_of(tmp_path):
    def stages_of(resources):
        path = tmp_path / "mine.yaml"
        path.write_text(f"precisions: fp32\nfinetune: {{batch_size: 64}}\nresources: {resources}")
        sweep = load(path)
        return sweep.resources, make_plan(sweep, Hardware("cuda")).stages

    return stages_of


def settled(stages_of, resources, nodes, gpus=1):
    asked, stages = stages_of(resources)
    needs = settle(asked, gpus, nodes, "mine.yaml")
    return needs, stages, refused_by_machines(stages, needs, nodes, "mine.yaml")


MIXED = (node("host1"), node("host2"), node("host3", kind=A100))


def test_where_there_are_several_kinds_of_gpu_one_must_be_named(stages_of):
    with pytest.raises(InputError) as refused:
        settled(stages_of, "{workers: 1}", MIXED)
    assert str(refused.value) == (
        "mine.yaml: resources.gpu_kind: must be given where there are several kinds of GPU, here "
        f"{A100} (host3) and {H100} (host1, host2): one of them, such as {A100}, or a list, to measure everything on "
        "each"
    )
    needs, stages, refused = settled(stages_of, "{gpu_kind: h100}", MIXED)
    assert not refused
    assert place(needs.of(stages[0].spec), MIXED).node_ids == ("id-host1", "id-host2")
    needs, stages, _ = settled(stages_of, "{workers: 2}", MIXED, gpus=0)
    assert place(needs.of(stages[0].spec), MIXED).node_ids == ("id-host1", "id-host2", "id-host3"), "holds no GPU"


def test_several_kinds_are_an_axis_and_one_that_is_not_here_is_infeasible(stages_of):
    needs, stages, refused = settled(stages_of, "{gpu_kind: [H100, A100]}", MIXED)
    assert not refused
    where = {stage.spec.gpu_kind: place(needs.of(stage.spec), MIXED).node_ids for stage in stages}
    assert where == {"H100": ("id-host1", "id-host2"), "A100": ("id-host3",)}
    _, stages, refused = settled(stages_of, "{gpu_kind: [H100, L40S]}", THREE)
    assert refused.keys() == {stage.stage_id for stage in stages if stage.spec.gpu_kind == "L40S"}
    assert set(refused.values()) == {f"there is no L40S here, but {H100} (host1, host2, host3)"}


def test_a_machine_that_joins_with_another_kind_is_not_used(stages_of):
    needs, stages, _ = settled(stages_of, "{workers: 1}", THREE)
    assert (
        place(needs.of(stages[0].spec), (*THREE, node("later", kind=A100))).node_ids
        == place(needs.of(stages[0].spec), THREE).node_ids
    )


@pytest.mark.parametrize(
    ("resources", "nodes", "gpus", "says"),
    [
        ("{gpu_kind: A100}", (node("a", kind=A100), node("b", kind=A100_80)), 1, "write more of the name"),
        ("{gpu_kind: [H100, 80GB HBM3]}", THREE, 1, "names NVIDIA H100 80GB HBM3 twice"),
        ("{workers: 1}", (node("a", others=[A100]),), 1, "a has GPUs of several kinds, NVIDIA A100-SXM4-40GB and"),
        ("{gpu_kind: H100}", THREE, 0, "is for stages that hold GPUs"),
        ("{gpu_kind: L40S}", THREE, 1, "there is no L40S here, but NVIDIA H100"),
        ("{workers: 32}", THREE, 1, "the largest that fits is 12 workers"),
    ],
)
def test_what_is_unclear_or_fits_nowhere_is_refused_in_one_line(stages_of, resources, nodes, gpus, says):
    with pytest.raises(InputError) as refused:
        settled(stages_of, resources, nodes, gpus)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("mine.yaml: resources")


def test_a_whole_product_name_is_itself_where_it_begins_another(stages_of):
    both = (node("a", kind="NVIDIA H200"), node("b", kind="NVIDIA H200 NVL"))
    needs, stages, _ = settled(stages_of, "{gpu_kind: nvidia h200}", both)
    assert place(needs.of(stages[0].spec), both).node_ids == ("id-a",)


def test_kinds_of_stages_may_differ_in_size(stages_of):
    needs, stages, _ = settled(stages_of, "{workers: 4, inference_workers: 1, nodes: 2}", THREE)
    assert {stage.spec.kind: place(needs.of(stage.spec), THREE).shape for stage in stages} == {
        "finetune": (2, 2),
        "inference": (1,),
    }


def places_of(stages_of, nodes, resources="{workers: 2}"):
    now = list(nodes)
    asked, stages = stages_of(resources)
    needs = settle(asked, 1, nodes, "mine.yaml")
    seen = {"nodes": tuple(now)}
    return Places(needs, lambda: seen["nodes"]), needs.of(stages[0].spec), seen


def test_a_place_is_the_same_one_until_machines_join_so_that_gangs_stay_warm(stages_of):
    places, need, seen = places_of(stages_of, THREE)
    first = places.place(need)
    seen["nodes"] = THREE[:2]
    assert places.place(need) == first, "a machine that is gone does no harm in the list"
    seen["nodes"] = (*THREE[:2], node("host4"))
    joined = places.place(need)
    assert set(joined.node_ids) == {"id-host1", "id-host2", "id-host3", "id-host4"}
    seen["nodes"] = ()
    assert places.place(need) is None
    assert "no machines" in places.why_nowhere(need) or "there is no" in places.why_nowhere(need)
    seen["nodes"] = THREE
    assert places.place(need).shape == first.shape
    assert numbered(number_of(first)) == first
    assert number_of(first) == number_of(places_of(stages_of, THREE)[0].place(need))


def test_a_shape_is_kept_while_it_fits_and_another_taken_when_it_does_not(stages_of):
    places, need, seen = places_of(stages_of, THREE[:2], "{workers: 4, placement: spread}")
    assert places.place(need).shape == (2, 2)
    seen["nodes"] = THREE
    assert places.place(need).shape == (2, 2), "what was measured before stays comparable"
    seen["nodes"] = THREE[:1]
    assert places.place(need).shape == (4,)


def test_gpus_are_known_by_index_uuid_and_the_beginning_of_one():
    gpus = node("a", gpus=3).gpus
    assert named(["2", "0"], gpus) == (gpus[2], gpus[0])
    assert named(["GPU-a1"], gpus) == (gpus[1],)
    assert named(["7", "", "MIG-x"], gpus) == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{nodes: 3, workers: 2}", "nodes 3 is more than workers 2"),
        ("{gpu_kind: [H100, H100]}", "entry 1 says the same as entry 0"),
        ("{exclusive: rack}", "none"),
    ],
)
def test_resources_that_cannot_be_are_refused_by_the_file(tmp_path, text, problem):
    path = tmp_path / "s.yaml"
    path.write_text(f"precisions: fp32\nresources: {text}")
    with pytest.raises(InputError, match=problem):
        load(path)
    assert Resources().gpu_kinds == (None,)


def test_workers_of_several_machines_that_share_weights_need_one_folder(stages_of):
    asked, stages = stages_of("{workers: 2, nodes: 2}")
    needs = settle(asked, 1, THREE, "mine.yaml")
    assert refused_by_machines(stages, needs, THREE, "mine.yaml") == {}
    refused = refused_by_machines(stages, needs, THREE, "mine.yaml", one_folder=False)
    _, inference = stages
    assert refused.keys() == {inference.stage_id}, "the adapter is merged for all; the fine-tuning shares nothing"
    assert refused[inference.stage_id].startswith("its workers on 2 machines share weights, which object storage")
    asked, stages = stages_of("{workers: 2}")
    needs = settle(asked, 1, THREE, "mine.yaml")
    assert refused_by_machines(stages, needs, THREE, "mine.yaml", one_folder=False) == {}


def test_what_the_clusters_gpus_cannot_do_is_refused_by_their_own_capability(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("precisions: {finetune: bf16, inference: [bf16, fp8]}\nfinetune: {batch_size: 64}")
    sweep = load(path)
    stages = make_plan(sweep, Hardware("cuda")).stages

    def refused(capability, on_gpus=True):
        nodes = (node("host1", kind=A100, capability=capability), node("host2", gpus=0))
        return refused_by_machines(stages, settle(sweep.resources, 1, nodes, path), nodes, path, on_gpus=on_gpus)

    _, in_bf16, in_fp8 = stages
    assert (in_bf16.spec.precision, in_fp8.spec.precision) == ("bf16", "fp8")
    assert refused((9, 0)) == refused(None) == refused((8, 0), on_gpus=False) == {}
    assert refused((8, 0)).keys() == {in_fp8.stage_id}
    assert "this GPU has 8.0" in refused((8, 0))[in_fp8.stage_id]


def test_a_machine_without_a_gpu_does_not_decide_for_a_cluster_that_has_some():
    with pytest.raises(InputError, match=r"^mine.yaml: resources.device: auto took cpu.*host1, host2, host3 have some"):
        refuse_idle_gpus(Resources(), "cpu", THREE, "mine.yaml")
    refuse_idle_gpus(Resources(), "cuda", THREE, "mine.yaml")
    refuse_idle_gpus(Resources(device="cpu"), "cpu", THREE, "mine.yaml")
    refuse_idle_gpus(Resources(), "cpu", [node("host1", gpus=0)], "mine.yaml")


def test_why_a_trial_fits_nowhere_is_told_at_once_however_many_workers_it_has():
    assert "the largest that fits is 12 workers" in why_nowhere(on_gpus(10**12), THREE)
    assert "the largest that fits is 16 workers" in why_nowhere(Need(workers=10**12, cpus=1, nodes=2), THREE)
