"""GPUs of a node from NVML's energy counters, by UUID."""

from typing import Any, Final

from energyaware.energy.base import Channel, Reading

JOULES_PER_MILLIJOULE: Final = 1e-3


class NvmlSource:
    """Joules of every GPU since the driver was loaded (Volta and newer, a step about every 100 ms).

    UUIDs and not indices: NVML orders by PCI bus and ignores CUDA_VISIBLE_DEVICES.

    Raises:
        pynvml.NVMLError: there is no NVIDIA driver on this node.
    """

    def __init__(self) -> None:
        import pynvml

        self._nvml: Any = pynvml
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        self.uuids: list[str] = [_text(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles]
        self._gpus = {
            Channel("gpu", uuid, "nvml energy counter", measured=True): handle
            for uuid, handle in zip(self.uuids, handles, strict=True)
        }

    def read(self) -> dict[Channel, Reading]:
        """Joules on each GPU's counter; a GPU whose counter cannot be read says why."""
        return {channel: self._read(handle) for channel, handle in self._gpus.items()}

    def _read(self, handle: Any) -> Reading:
        try:
            return Reading(self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle) * JOULES_PER_MILLIJOULE)
        except self._nvml.NVMLError as problem:
            return Reading(None, f"NVML: {problem}")

    def carbon_g_per_kwh(self) -> float | None:
        """NVML knows no emission factor."""
        return None

    def close(self) -> None:
        """Let go of the driver."""
        self._nvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
