"""The stand-in itself: its power and counters against the same formulas in Python, and against its peers' calls."""

import ctypes

import pytest

from tests.nvml.scenario import Constant, Gpu, Ramp, Scenario, Sine, Square

pytest_plugins = "tests.nvml.plugin"

MACHINE = Scenario(
    (
        Gpu("GPU-constant", Constant(300.0), ((2.5, Constant(70.5)),)),
        Gpu("GPU-bursts", Square(0.3, 0.25, 600.0, 80.0), ((3.1, Square(0.07, 0.5, 500.0, 100.0)),)),
        Gpu("GPU-sine", Sine(1.7, 700.0, 60.0)),
        Gpu("GPU-ramp", Constant(50.0), ((1.0, Ramp(2.0, 50.0, 400.0)), (6.5, Ramp(1.0, 400.0, 0.0)))),
    )
)
TIMES = (0.0, 0.05, 0.9999, 1.0, 2.5, 3.09, 3.14, 4.0, 6.5, 7.0, 30.0)


@pytest.fixture
def opened(gpus, monkeypatch):
    """The library in this process, for what it says of given times."""

    def open_with(*lines):
        monkeypatch.setenv("NVML_SCENARIO", gpus.environment(*lines)["NVML_SCENARIO"])
        library = ctypes.CDLL(str(gpus.library))
        for function in (library.standin_watts, library.standin_joules, library.standin_counter):
            function.restype = ctypes.c_double
            function.argtypes = ctypes.c_uint, ctypes.c_double
        library.standin_joules.argtypes = ctypes.c_uint, ctypes.c_double, ctypes.c_double
        assert library.nvmlInit_v2() == 0
        used.append(library)
        return library

    used = []
    yield open_with
    for library in used:
        library.nvmlShutdown()


def test_power_in_c_and_in_python_gives_the_same_joules(opened):
    library = opened(*MACHINE.lines())
    for index, gpu in enumerate(MACHINE.gpus):
        for i, from_s in enumerate(TIMES):
            for until_s in TIMES[i:]:
                truth_j = gpu.energy_j(from_s, until_s)
                assert library.standin_joules(index, from_s, until_s) == pytest.approx(truth_j, rel=1e-9, abs=1e-9)


def test_joules_are_the_integral_of_power(opened):
    library, dt = opened(*MACHINE.lines()), 1e-3
    for index, gpu in enumerate(MACHINE.gpus):
        summed_j = sum(dt * library.standin_watts(index, (k + 0.5) * dt) for k in range(8000))
        assert summed_j == pytest.approx(gpu.energy_j(0, 8.0), rel=1e-5)


def test_a_square_a_sine_and_a_ramp_have_the_joules_that_paper_gives():
    assert Square(1.0, 0.25, 400.0, 100.0).energy_j(2.5) == pytest.approx(2 * (100 + 75) + 100 + 25)
    assert Sine(2.0, 300.0, 100.0).energy_j(4.0) == pytest.approx(800)
    assert Sine(2.0, 300.0, 100.0).energy_j(1.0) == pytest.approx(200 + 200 / 3.141592653589793)
    assert Ramp(2.0, 0.0, 100.0).energy_j(1.0) == pytest.approx(25)
    assert Ramp(2.0, 0.0, 100.0).energy_j(3.0) == pytest.approx(200)


def test_a_counter_shows_the_truth_as_of_its_last_movement(opened):
    library = opened("step 0.1", *MACHINE.lines(), "phase 0.03 1", "step 0.02 2", "reset 3 2.0")
    for at_s in (0.0, 0.029, 0.031, 0.12, 0.131, 1.999, 2.05, 9.87):
        for index, (step_s, phase_s) in enumerate([(0.1, 0), (0.1, 0.03), (0.02, 0)]):
            moved_s = phase_s + step_s * ((at_s - phase_s + 1e-9) // step_s)
            expected = MACHINE.gpus[index].energy_j(0, moved_s) if at_s >= phase_s else 0
            assert library.standin_counter(index, at_s) == pytest.approx(expected, abs=1e-6)
    assert library.standin_counter(3, 1.999) > 50
    assert library.standin_counter(3, 2.05) == 0
    assert library.standin_counter(3, 3.05) == pytest.approx(MACHINE.gpus[3].energy_j(2.0, 3.0))


def test_a_sensor_that_sees_the_end_of_each_step_misses_bursts_in_between(opened):
    """The cause of the errors in arXiv 2312.02741: 25 ms of each 100 ms are observed."""
    burst = Gpu("GPU-a", Square(0.1, 0.5, 600.0, 100.0))
    steady = Gpu("GPU-b", Constant(350.0))
    library = opened("sensor 0.025", *Scenario((burst, steady), ("phase 0.05 0",)).lines(), "phase 0.05 1")

    assert library.standin_joules(0, 0.05, 10.05) == pytest.approx(3500)
    assert library.standin_counter(1, 10.05) - library.standin_counter(1, 0.05) == pytest.approx(3500)
    seen_j = library.standin_counter(0, 10.051) - library.standin_counter(0, 0.051)
    assert seen_j == pytest.approx(6000), "all it ever sees is the end of the bursts"
    assert library.standin_counter(0, 5.051) < library.standin_counter(0, 10.051), "also backwards in time"


def test_a_word_that_the_stand_in_does_not_know_ends_the_process(gpus):
    with pytest.raises(AssertionError, match=r"cannot read: voltage 0 1"):
        gpus.call(calls_of_ray, "gpu GPU-a 1", "voltage 0 1")


def calls_of_ray():
    from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager as Gpus

    return [Gpus.get_current_node_num_accelerators(), Gpus.get_current_node_accelerator_type()]


def test_ray_counts_the_gpus_and_names_them(gpus):
    assert gpus.call(calls_of_ray, "gpu GPU-a 1", "gpu GPU-b 2") == [2, "H200"]
    assert gpus.call(calls_of_ray, NVML_SCENARIO="nowhere") == [0, None]


def details_of_codecarbon():
    from codecarbon.core.gpu import AllGPUDevices

    return [
        [gpu["uuid"], gpu["power_usage"], gpu["power_limit"], gpu["temperature"], len(gpu["compute_processes"])]
        for gpu in AllGPUDevices().get_gpu_static_info() and AllGPUDevices().get_gpu_details()
    ]


def test_codecarbon_reads_its_details_of_every_gpu(gpus):
    details = gpus.call(details_of_codecarbon, "gpu GPU-a 100", "gpu GPU-b 250", "processes 1 0 7 8")
    assert [row[0] for row in details] == ["GPU-a", "GPU-b"]
    assert details[1][1:] == [250, 700, 45, 2]
