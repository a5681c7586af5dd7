"""What a node's joules are read from: counters where there are any, CodeCarbon's estimate elsewhere."""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from energyaware.energy.base import Channel, Component, MeterSettings, Source
from energyaware.energy.codecarbon import CodeCarbonSource
from energyaware.energy.nvml import MIG_IS_ON, NvmlSource
from energyaware.energy.rapl import RaplSource
from energyaware.errors import MeterError

State = Literal["ok", "unreadable", "absent", "left out"]

TITLES: Final[dict[Component, str]] = {"cpu": "processors", "dram": "memory", "gpu": "GPUs"}

GPU_FILES: Final = (Path("/dev/nvidia0"), Path("/proc/driver/nvidia"), Path("/dev/dxg"))
"""Where a machine shows NVIDIA GPUs even if their driver's library is out of reach; the last is WSL's."""

REACH_DRIVER: Final = (
    "this machine has NVIDIA GPUs, whose driver cannot be asked here: see whether `nvidia-smi` works; in a container, "
    "start it with the NVIDIA container toolkit, such as `docker run --gpus all …`"
)


LEAVE_MIG: Final = "to measure it, turn MIG off: `sudo nvidia-smi -mig 0`, with `-i` for one GPU alone"


@dataclass(frozen=True)
class Line:
    """What one component or device is read from, for people.

    Attributes:
        component: cpu, dram or gpu.
        device: UUID of a GPU; None where the component is the node's.
        name: what people call it.
        source: where its joules come from; None where they are not read.
        measured: True for hardware, False for an estimate; None where it is not read.
        state: ok, there and unreadable, absent, or left out because nobody asked for it.
        reason: why it is not read, or not from hardware.
        advice: what can be done about that.
        power_w: mean power; None until somebody has looked for a while.
        step_s: seconds between two movements of its counter; 0 where it moves all the time, None where it is not read.
    """

    component: Component
    device: str | None
    name: str
    source: str | None = None
    measured: bool | None = None
    state: State = "ok"
    reason: str | None = None
    advice: str | None = None
    power_w: float | None = None
    step_s: float | None = None


@dataclass(frozen=True)
class NodeSources:
    """All that reads joules on a node.

    Attributes:
        sources: no two of them share a channel.
        gpus: that of the GPUs, which is among `sources`; None without an NVIDIA driver.
        lines: every component, wanted or not.
    """

    sources: tuple[Source, ...]
    gpus: NvmlSource | None
    lines: tuple[Line, ...]

    @property
    def missing(self) -> tuple[Line, ...]:
        """Wanted components that every node has and that nothing reads here."""
        return tuple(line for line in self.lines if line.component != "gpu" and line.state in {"unreadable", "absent"})

    def close(self) -> None:
        """Close the sources."""
        for source in self.sources:
            source.close()


def find_sources(settings: MeterSettings) -> NodeSources:
    """Start what reads the wanted components: RAPL, CodeCarbon for what RAPL does not give, and NVML."""
    wanted = settings.components
    host, host_lines = _host([component for component in wanted if component != "gpu"])
    gpus, gpu_lines = _gpus() if "gpu" in wanted else (None, [])
    left_out = [
        Line(component, None, title, state="left out", reason="left out of energy.components")
        for component, title in TITLES.items()
        if component not in wanted
    ]
    lines = sorted([*host_lines, *gpu_lines, *left_out], key=lambda line: list(TITLES).index(line.component))
    return NodeSources(tuple(host) if gpus is None else (*host, gpus), gpus, tuple(lines))


def count_gpus() -> int:
    """GPUs of this machine, whether or not they can be read; 0 without an NVIDIA driver."""
    import pynvml

    count = 0
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        pynvml.nvmlShutdown()
    return count


def _host(wanted: list[Component]) -> tuple[list[Source], list[Line]]:
    """Sources and lines of processors and memory."""
    rapl = RaplSource(wanted)
    sources: list[Source] = [rapl] if rapl.channels else []
    lines = [_line(channel, rapl) for channel in rapl.channels]
    if not rapl.lacking:
        return sources, lines
    try:
        estimate = CodeCarbonSource(rapl.lacking)
    except MeterError as problem:
        for component, lack in rapl.lacking.items():
            reason = f"RAPL: {lack.reason}; {problem}"
            line = Line(component, None, TITLES[component], state="unreadable", reason=reason, advice=lack.advice)
            lines.append(line)
        return sources, lines
    for channel in estimate.channels:
        lack = rapl.lacking[channel.component]
        lines.append(replace(_line(channel, estimate), reason=f"RAPL: {lack.reason}", advice=lack.advice))
    return [*sources, estimate], lines


def _gpus() -> tuple[NvmlSource | None, list[Line]]:
    """Source and lines of the GPUs."""
    import pynvml

    try:
        nvml = NvmlSource()
    except pynvml.NVMLError as problem:
        there = any(path.exists() for path in GPU_FILES)
        lack: State = "unreadable" if there else "absent"
        line = Line("gpu", None, TITLES["gpu"], state=lack, reason=f"NVML: {problem}")
        return None, [replace(line, advice=REACH_DRIVER) if there else line]
    names = {uuid: f"GPU {index}" for index, uuid in enumerate(nvml.uuids) if uuid is not None}
    lines = []
    for channel, reading in nvml.read().items():
        line = replace(_line(channel, nvml), name=names.get(channel.device or "", TITLES["gpu"]))
        if reading.energy_j is None:
            line = replace(line, source=None, measured=None, state="unreadable", reason=reading.reason, step_s=None)
        lines.append(line)
    known = {line.device for line in lines}
    for label, reason in nvml.unreadable.items():
        if label not in known:
            line = Line("gpu", label if label in names else None, names.get(label, label))
            advice = LEAVE_MIG if reason == MIG_IS_ON else None
            lines.append(replace(line, state="unreadable", reason=reason, advice=advice))
    return nvml, lines or [Line("gpu", None, TITLES["gpu"], state="absent", reason="NVML: the driver shows no GPU")]


def _line(channel: Channel, source: Source) -> Line:
    return Line(
        channel.component,
        channel.device,
        TITLES[channel.component],
        channel.source,
        channel.measured,
        step_s=source.step_s(channel),
    )
