"""GPUs of a node through NVML, by UUID: energy counters where there are any, integrated power elsewhere."""

import threading
import time
from collections.abc import Callable, Collection
from typing import Any, Final, Self

from energyaware.energy.base import Channel, GpuState, Reading
from energyaware.energy.gpu_power import PowerMeter, PowerSampler, power_meter
from energyaware.energy.gpu_state import read_state
from energyaware.energy.gpu_step import find_steps_s

JOULES_PER_MILLIJOULE: Final = 1e-3

COUNTER: Final = "nvml energy counter"
INTEGRATED: Final = "nvml power, integrated"

MIG_IS_ON: Final = "MIG is on: a GPU's counter does not tell its instances apart"
NOTHING_TO_READ: Final = "NVML: neither the energy counter nor power can be read"


class NvmlSource:
    """Joules of a node's GPUs since the driver was loaded (Volta and newer) or, integrated, since the source's start.

    UUIDs and not indices: NVML orders by PCI bus and ignores CUDA_VISIBLE_DEVICES. A GPU that cannot be read has no
    channel and a line in `unreadable`; the others are read all the same. Starting takes half a second, in which the
    counters are watched for their steps. Nothing is ever set: no clock, no limit, no mode.

    Attributes:
        uuids: in NVML's order; None at the index of a GPU that cannot be opened.
        unreadable: why a GPU has no channel, by UUID, or by "GPU 1" where not even that is known.

    Raises:
        pynvml.NVMLError: there is no NVIDIA driver on this node.
    """

    prompt = True

    def __init__(self) -> None:
        import pynvml

        self._nvml: Any = pynvml
        self.uuids: list[str | None] = []
        self.unreadable: dict[str, str] = {}
        self._handles: dict[str, Any] = {}
        self._power: dict[str, PowerMeter] = {}
        self._read_by: dict[Channel, Callable[[], Reading]] = {}
        pynvml.nvmlInit()
        for index in range(pynvml.nvmlDeviceGetCount()):
            self._open(index)
        self._sampler = PowerSampler(list(self._power.values()))
        self._steps_s = self._find_steps_s()
        self._closing, self._closed = threading.Lock(), False

    @property
    def channels(self) -> tuple[Channel, ...]:
        return tuple(self._read_by)

    def read(self, channels: Collection[Channel] | None = None) -> dict[Channel, Reading]:
        """Joules so far on each channel, or on these alone, each with the moment at which it was asked for.

        Integrated power is for one reader, which takes differences of consecutive readings (`PowerMeter.reading`).
        """
        return {channel: self._read_by[channel]() for channel in (self._read_by if channels is None else channels)}

    def step_s(self, channel: Channel) -> float:
        return self._steps_s.get(channel, 0.0)

    def state(self, uuid: str) -> GpuState:
        """The GPU now; nothing is known of one that NVML does not have."""
        handle = self._handles.get(uuid)
        return GpuState() if handle is None else read_state(self._nvml, handle, self._power.get(uuid))

    def uuid_of(self, name: str) -> str:
        """UUID of the GPU that goes by this name; the name itself where it stands for no GPU, or not for one alone.

        Args:
            name: an index of NVML (CUDA counts in the same order only where GPUs are alike, or where CUDA_DEVICE_ORDER
                is PCI_BUS_ID), a UUID, the beginning of one as CUDA_VISIBLE_DEVICES takes it, or a MIG instance.
        """
        if name.isdecimal():
            return (self.uuids[int(name)] if int(name) < len(self.uuids) else None) or name
        found = self._beginning_with(name)
        return found[0] if len(found) == 1 else name

    def reason_for(self, name: str) -> str:
        """Why a device, by any of the names that `uuid_of` takes, has no channel."""
        label = f"GPU {name}" if name.isdecimal() else name
        if reason := self.unreadable.get(self.uuid_of(name)) or self.unreadable.get(label):
            return reason
        if name.startswith("MIG-"):
            return MIG_IS_ON
        found = self._beginning_with(name)
        return f"{name} stands for {len(found)} GPUs" if len(found) > 1 else f"NVML knows no {label}"

    def close(self) -> None:
        """Let go of the driver, once."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self._sampler.close()
        self._nvml.nvmlShutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _beginning_with(self, name: str) -> list[str]:
        return [uuid for uuid in self._handles if name.startswith("GPU-") and uuid.startswith(name)]

    def _open(self, index: int) -> None:
        try:
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = _text(self._nvml.nvmlDeviceGetUUID(handle))
        except self._nvml.NVMLError as problem:
            self.uuids.append(None)
            self.unreadable[f"GPU {index}"] = f"NVML: {problem}"
            return
        self.uuids.append(uuid)
        self._handles[uuid] = handle
        if self._mig_is_on(handle):
            self.unreadable[uuid] = MIG_IS_ON
            return
        power = power_meter(self._nvml, handle)
        if power is not None:
            self._power[uuid] = power
        self._choose(uuid, handle, power)

    def _choose(self, uuid: str, handle: Any, power: PowerMeter | None) -> None:
        """The counter wherever there is one, also where it fails for the moment."""
        nvml = self._nvml
        try:
            nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        except nvml.NVMLError as problem:
            if problem.value == nvml.NVML_ERROR_GPU_IS_LOST:
                self.unreadable[uuid] = f"NVML: {problem}"
                return
            if problem.value in {nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND}:
                if power is None:
                    self.unreadable[uuid] = NOTHING_TO_READ
                else:
                    self._read_by[Channel("gpu", uuid, INTEGRATED, measured=True)] = power.reading
                return
        self._read_by[Channel("gpu", uuid, COUNTER, measured=True)] = lambda: self._count(handle)

    def _mig_is_on(self, handle: Any) -> bool:
        try:
            current, _ = self._nvml.nvmlDeviceGetMigMode(handle)
        except self._nvml.NVMLError:  # a GPU that has no MIG
            return False
        return bool(current == self._nvml.NVML_DEVICE_MIG_ENABLE)

    def _find_steps_s(self) -> dict[Channel, float]:
        counters = {channel: read for channel, read in self._read_by.items() if channel.source == COUNTER}
        return dict(zip(counters, find_steps_s(lambda: [read().energy_j for read in counters.values()]), strict=True))

    def _count(self, handle: Any) -> Reading:
        energy_j, reason = None, None
        before_s = time.monotonic()
        try:
            energy_j = self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle) * JOULES_PER_MILLIJOULE
        except self._nvml.NVMLError as problem:
            reason = f"NVML: {problem}"
        return Reading(energy_j, reason, (before_s + time.monotonic()) / 2)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
