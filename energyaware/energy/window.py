"""A window as the ledger keeps it, and the rows that it becomes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import fmean
from typing import Any, Final

from energyaware.energy.accounts import Account
from energyaware.energy.base import SHORT_S, Channel, GpuState
from energyaware.energy.baseline import Baseline
from energyaware.energy.carbon import Factors
from energyaware.rows import Row

OTHER: Final = "other"
CHECKPOINT: Final = "checkpoint"

AROUND: Final = frozenset({OTHER, CHECKPOINT})
"""What surrounds an attempt's work: in `energy_other_j`, and in no comparison."""

IDLE: Final = "idle"
UNATTRIBUTED: Final = "unattributed"

OVER_LIMIT: Final = 1.05
"""Times the limit; a mean power over it is not believed. Drivers keep the limit on average, not at each moment."""

UNDER_IDLE: Final = 0.8
"""Times idle power of the same GPU; nor is a mean power under it."""

DISAGREEMENT: Final = 0.1
"""Counter and sampled power agree within about 1 % under load (zeus issue 12), and much less when idle (issue 181)."""


@dataclass
class GpuContext:
    """What was seen of a GPU while a window was open."""

    states: list[GpuState] = field(default_factory=list)
    others: list[int | None] = field(default_factory=list)

    def see(self, state: GpuState, own_pids: Iterable[int]) -> None:
        """Take note of its state, for a window whose processes are these."""
        self.states.append(state)
        self.others.append(None if state.pids is None else len(set(state.pids) - set(own_pids)))

    def columns(self) -> Row:
        """As columns of the energy table."""
        reasons = [state.throttle_reasons for state in self.states if state.throttle_reasons is not None]
        return {
            "power_integral_j": self._power_integral_j(),
            "power_limit_w": min(self._values("power_limit_w"), default=None),
            "temperature_c": max(self._values("temperature_c"), default=None),
            "clock_sm_mhz": _mean(self._values("clock_sm_mhz")),
            "clock_memory_mhz": _mean(self._values("clock_memory_mhz")),
            "throttle_reasons": sorted({reason for some in reasons for reason in some}) if reasons else None,
            "other_processes": max((count for count in self.others if count is not None), default=None),
        }

    def _values(self, name: str) -> list[float]:
        return [value for state in self.states if (value := getattr(state, name)) is not None]

    def _power_integral_j(self) -> float | None:
        integrals = [state.power_integral_j for state in self.states]
        if len(integrals) < 2 or len({state.power_gaps for state in self.states}) > 1:  # noqa: PLR2004
            return None
        first, last = integrals[0], integrals[-1]
        return None if first is None or last is None else last - first


@dataclass
class Window:
    """A stretch of time on a node; one without a stage is the node's own."""

    name: str
    stage_id: str | None = None
    attempt: int | None = None
    epoch: int | None = None
    repeat: int | None = None
    from_step: int | None = None
    requests: int | None = None
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    duration_s: float = 0.0
    accounts: dict[Channel, Account] = field(default_factory=dict)
    gpus: dict[str, GpuContext] = field(default_factory=dict)

    def account(self, channel: Channel) -> Account:
        """Of this channel, opened when first asked for."""
        return self.accounts.setdefault(channel, Account())

    def see(self, uuid: str, state: GpuState, own_pids: Iterable[int]) -> None:
        """Take note of the state of a GPU that the window holds."""
        self.gpus.setdefault(uuid, GpuContext()).see(state, own_pids)

    def rows(self, common: Mapping[str, Any], baseline: Baseline, factors: Factors, *, kept: bool | None) -> list[Row]:
        """Rows of the energy table, one a channel; `common` goes into each."""
        return [
            {
                **common,
                "stage_id": self.stage_id,
                "attempt": self.attempt,
                "window": self.name,
                "epoch": self.epoch,
                "repeat": self.repeat,
                "from_step": self.from_step,
                "requests": self.requests,
                "duration_s": self.duration_s,
                "kept": kept,
                "started_at": self.started_at,
                **self._of_channel(channel, account, baseline, factors),
            }
            for channel, account in sorted(self.accounts.items(), key=lambda item: _order(item[0]))
        ]

    def _of_channel(self, channel: Channel, account: Account, baseline: Baseline, factors: Factors) -> Row:
        energy_j = None if account.reason else account.energy_j
        context = self.gpus.get(channel.device or "", GpuContext()).columns() if channel.component == "gpu" else {}
        power_w = energy_j / self.duration_s if energy_j is not None and self.duration_s > 0 else None
        return {
            "component": channel.component,
            "device": channel.device,
            "source": channel.source,
            "measured": channel.measured,
            "energy_j": energy_j,
            "energy_net_j": self._net_j(channel, account, baseline),
            "power_w": power_w,
            "reason": account.reason,
            "carbon_g": factors.carbon_g(energy_j),
            "cost": factors.cost(energy_j),
            **context,
            "marks": list(self._marks(channel, energy_j, power_w, context, baseline)),
        }

    def _net_j(self, channel: Channel, account: Account, baseline: Baseline) -> float | None:
        """Beyond idle: a GPU is held whole, of CPU and DRAM the account knows its part."""
        idle_w = baseline.trusted_w(channel)
        if account.reason or idle_w is None or self.stage_id is None:
            return None
        return account.energy_j - (idle_w * self.duration_s if channel.component == "gpu" else account.idle_j)

    def _marks(
        self, channel: Channel, energy_j: float | None, power_w: float | None, context: Row, baseline: Baseline
    ) -> Iterable[str]:
        if self.stage_id is None or self.name == OTHER:
            return
        if self.duration_s < SHORT_S:
            yield "short"
        if channel.component != "gpu" or energy_j is None or power_w is None:
            return
        limit_w, idle_w = context["power_limit_w"], baseline.trusted_w(channel)
        if limit_w and power_w > OVER_LIMIT * limit_w:
            yield f"implausible: mean {power_w:.0f} W over the limit of {limit_w:.0f} W"
        elif self.duration_s >= SHORT_S and idle_w and power_w < UNDER_IDLE * idle_w:
            yield f"implausible: mean {power_w:.0f} W under idle power, {idle_w:.0f} W"
        sampled_j = context["power_integral_j"]
        if (
            self.duration_s >= SHORT_S
            and sampled_j is not None
            and abs(sampled_j - energy_j) > DISAGREEMENT * max(sampled_j, energy_j)
        ):
            yield f"disagrees: counter {energy_j:.0f} J, sampled power {sampled_j:.0f} J"
        if context["throttle_reasons"]:
            yield f"throttled: {', '.join(context['throttle_reasons'])}"
        if others := context["other_processes"]:
            yield f"shared: {others} other processes"


def _mean(values: list[float]) -> float | None:
    return fmean(values) if values else None


def _order(channel: Channel) -> tuple[str, str]:
    return channel.component, channel.device or ""


def worked_j(windows: Iterable[Window]) -> float | None:
    """Joules of windows of work, without those around it; None if a part is not known."""
    accounts = [account for window in windows if window.name not in AROUND for account in window.accounts.values()]
    return None if any(account.reason for account in accounts) else sum(account.energy_j for account in accounts)
