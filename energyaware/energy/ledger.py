"""A node's ledger: whose joules they are.

At both ends of every window, and at every heartbeat in between, the node's counters are read together with a monotonic
clock, and the joules since the last reading are given away:

- those of a GPU to the attempt that holds it, whatever else runs on the node; to `idle` while nobody holds it;
- those of CPU and DRAM in two parts. What the idle machine would have drawn goes to the attempts on the node by the
  share of its GPUs that each holds (of its cores, where it holds no GPU), the rest to `idle`. What comes on top goes to
  them by the share of the machine's busy CPU time that their process trees used, the rest to `unattributed`.

An attempt has one open window at most; between its windows its joules go to its window `other`. So stages + idle +
unattributed = node, always. A reading that failed, went backwards or is not a number gives null to every window open at
that time, with the reason, and never a joule.

The ledger holds no thread and reads nothing by itself: `energyaware.energy.service` does.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from energyaware.energy.accounts import Account, ExclusiveTrack, Part, Segment, SharedTrack
from energyaware.energy.base import Channel, GpuState, Reading, Source
from energyaware.energy.baseline import Baseline
from energyaware.energy.carbon import Factors
from energyaware.energy.holder import Holder, Key, Shares, Times
from energyaware.energy.node_rows import node_row
from energyaware.energy.window import IDLE, OTHER, UNATTRIBUTED, Window, worked_j
from energyaware.errors import MeterLost, StageError
from energyaware.rows import Row


class Ledger:
    """Keeps the accounts of one node.

    Args:
        common: columns that stand in all its rows: run, node.
        sources: what is read; their channels do not overlap.
        times: CPU time of processes.
        cores: CPU cores of the node.
        baseline: idle power.
        factors: of carbon and cost.
        why_not: why no source reads a GPU of this name.
        now_s: monotonic clock.
        gpus_left_out: how many GPUs the node has, where their joules are in no figure; None where they are.
    """

    def __init__(
        self,
        common: Row,
        sources: Sequence[Source],
        times: Times,
        cores: float,
        baseline: Baseline,
        factors: Factors,
        why_not: Callable[[str], str],
        now_s: float,
        gpus_left_out: int | None = None,
    ) -> None:
        self._common, self._times, self._baseline, self._factors = common, times, baseline, factors
        self._why_not, self._gpus_left_out = why_not, gpus_left_out
        self._idle, self._unattributed = Window(IDLE), Window(UNATTRIBUTED)
        self._holders: dict[Key, Holder] = {}
        self._ended: dict[Key, Holder] = {}
        self._forgotten: dict[Channel, Account] = {}
        self._tokens = 0
        self._boundary_s = now_s
        self._gpus: dict[str, tuple[Source, Channel, ExclusiveTrack]] = {}
        self._shared: dict[Channel, tuple[Source, SharedTrack]] = {}
        for source in sources:
            for channel, reading in source.read().items():
                at_s = now_s if reading.at_s is None else reading.at_s
                if channel.device is None:
                    track = SharedTrack(reading, at_s, baseline.power_w.get(channel))
                    self._shared[channel] = source, track
                else:
                    owner = self._idle.account(channel)
                    alone = ExclusiveTrack(source.step_s(channel), reading, at_s, owner)
                    self._gpus[channel.device] = source, channel, alone
        self._shares = Shares(times, cores, len(self._gpus) if gpus_left_out is None else gpus_left_out)
        self._at_tick: Row = self._totals(now_s)

    # -- attempts and their windows --------------------------------------------------------------------------------

    def begin(self, about: Row, pids: Sequence[int], gpus: Sequence[str], cores: float, now_s: float) -> None:
        """An attempt starts on this node; nothing happens where it is at work already, and the call was repeated."""
        if (about["stage_id"], about["attempt"]) in self._holders:
            return
        self._boundary(now_s)
        windows = [Window(OTHER, about["stage_id"], about["attempt"])]
        holder = Holder(about, tuple(pids), tuple(gpus), cores, windows, cpu_time_s=self._times.cpu_time_s(pids))
        self._holders[holder.key] = holder
        self._gpus_move(holder, now_s)

    def open(self, key: Key, window: Window, now_s: float) -> int:
        """Open a window of an attempt. Returns its token.

        Raises:
            MeterLost: the attempt did not begin here.
            StageError: it has a window open.
        """
        holder = self._holders.get(key)
        if holder is None:
            raise MeterLost("the node's meter does not know this attempt: it was started anew")
        if holder.token:
            raise StageError(f"window {window.name} opened inside window {holder.current.name}")
        self._boundary(now_s)
        self._tokens += 1
        holder.token = self._tokens
        holder.windows.append(window)
        self._gpus_move(holder, now_s)
        return self._tokens

    def close(self, token: int, requests: int | None, now_s: float) -> None:
        """Close a window.

        Raises:
            MeterLost: no such window is open.
        """
        key = self.key_of(token)
        if key is None:
            raise MeterLost("the node's meter does not know this window: it was started anew")
        self._boundary(now_s)
        holder = self._holders[key]
        holder.current.requests = requests
        holder.token = 0
        self._gpus_move(holder, now_s)

    def end(self, key: Key, now_s: float) -> None:
        """An attempt ends on this node, whatever window is open. Its rows are there once the ledger is settled."""
        if key not in self._holders:
            return
        self._boundary(now_s)
        holder = self._ended[key] = self._holders.pop(key)
        for uuid in self._gpus.keys() & holder.gpus:
            heir = self._owner(uuid)
            self._give(uuid, heir.current if heir else self._idle, now_s)

    def forget(self, key: Key) -> None:
        """The rows of an attempt that ended are safe elsewhere."""
        if (holder := self._ended.pop(key, None)) is not None:
            for window in holder.windows:
                _add_up(self._forgotten, window)

    # -- readings --------------------------------------------------------------------------------------------------

    def tick(self, now_s: float) -> None:
        """A heartbeat: read all that is prompt, and take the shares of CPU time anew."""
        self._boundary(now_s)
        for source, channel, track in self._gpus.values():
            _look(source, channel, track, now_s)
        self._at_tick = self._totals(now_s)

    def poll(self, now_s: float) -> bool:
        """Look at the counters of GPUs that changed hands. Returns whether any is still to move."""
        for source, channel, track in self._gpus.values():
            if track.pending:
                _look(source, channel, track, now_s)
        return any(track.pending for _, _, track in self._gpus.values())

    def slow_readings(self, readings: Mapping[Channel, Reading], now_s: float) -> None:
        """Take readings of sources that are not prompt, made a moment ago."""
        self._boundary(now_s)
        for channel, reading in readings.items():
            self._shared[channel][1].read(reading, now_s if reading.at_s is None else reading.at_s)

    def see(self, states: Mapping[str, GpuState]) -> None:
        """Take note of the states of GPUs that attempts hold."""
        for holder in self._holders.values():
            for uuid in holder.gpus:
                if uuid in states:
                    holder.current.see(uuid, states[uuid], holder.pids)

    def held(self, key: Key | None = None) -> list[str]:
        """UUIDs of the GPUs that this attempt holds, or any."""
        holders = [holder for holder in self._holders.values() if key in {None, holder.key}]
        return [uuid for holder in holders for uuid in holder.gpus if uuid in self._gpus]

    def key_of(self, token: int) -> Key | None:
        """The attempt whose open window this is."""
        return next((holder.key for holder in self._holders.values() if holder.token == token), None)

    # -- what is known ---------------------------------------------------------------------------------------------

    def rows(self, key: Key, *, kept: bool) -> list[Row]:
        """Rows of the windows of an attempt that ended; none where it never began here."""
        holder = self._ended.get(key)
        return [] if holder is None else self._rows(holder.windows, kept=kept)

    def snapshot(self) -> dict[str, list[Row]]:
        """All that is not safe elsewhere yet: attempts, their energy and the node's own, and how the node adds up."""
        holders = [*self._ended.values(), *self._holders.values()]
        windows = [window for holder in holders for window in holder.windows]
        return {
            "attempts": [holder.about for holder in holders],
            "energy": [
                *self._rows(windows, kept=False),
                *self._rows([self._idle, self._unattributed], kept=True),
            ],
            "nodes": self._node_rows(),
        }

    def now(self) -> dict[str, Any]:
        """What is open, joules so far of the attempts at work, and of the node at the last heartbeat.

        For showing what goes on: unknown parts are left out, but of `worked`, which has the joules of an attempt's
        windows without those around its work, and is None where one of them is not known.
        """
        return {
            "open": [(*h.key, h.current.name, h.current.epoch, h.current.duration_s) for h in self._holders.values()],
            "joules": {
                stage_id: sum(a.energy_j for window in holder.windows for a in window.accounts.values())
                for (stage_id, _), holder in self._holders.items()
            },
            "worked": {stage_id: worked_j(holder.windows) for (stage_id, _), holder in self._holders.items()},
            "heartbeat": self._at_tick,
        }

    def _totals(self, now_s: float) -> Row:
        """Joules of the node by component, of all whose counters are known at this time."""
        tracks = [(channel, track.total) for channel, (_, track) in self._shared.items()]
        tracks += [(channel, track.total) for _, channel, track in self._gpus.values()]
        joules: dict[str, float | None] = {}
        for channel, total in tracks:
            before = joules.get(channel.component, 0.0)
            joules[channel.component] = None if before is None or total.energy_j is None else before + total.energy_j
        return {"at_s": now_s, "joules": {name: energy_j for name, energy_j in joules.items() if energy_j is not None}}

    def _rows(self, windows: Iterable[Window], *, kept: bool) -> list[Row]:
        return [
            row for window in windows for row in window.rows(self._common, self._baseline, self._factors, kept=kept)
        ]

    def _node_rows(self) -> list[Row]:
        stages = {
            channel: Account(account.energy_j, 0.0, account.reason) for channel, account in self._forgotten.items()
        }
        for holder in [*self._ended.values(), *self._holders.values()]:
            for window in holder.windows:
                _add_up(stages, window)
        tracks = {channel: track.total for channel, (_, track) in self._shared.items()}
        tracks |= {channel: track.total for _, channel, track in self._gpus.values()}
        return [
            node_row(
                self._common,
                channel,
                total,
                [stages.get(channel), self._idle.accounts.get(channel), self._unattributed.accounts.get(channel)],
                self._baseline,
                self._idle.started_at,
            )
            for channel, total in tracks.items()
        ]

    # -- boundaries ------------------------------------------------------------------------------------------------

    def _boundary(self, now_s: float) -> None:
        """End a segment in which nothing changed hands."""
        shares = self._shares.since_last(list(self._holders.values()))
        for channel, (source, track) in self._shared.items():
            parts = [
                *(Part(share.holder.current.account(channel), share.idle, share.busy) for share in shares),
                Part(self._idle.account(channel), 1 - sum(share.idle for share in shares), 0.0),
                Part(self._unattributed.account(channel), 0.0, 1 - sum(share.busy for share in shares)),
            ]
            track.add(Segment(self._boundary_s, now_s, parts))
            if source.prompt:
                _look(source, channel, track, now_s)
        for window in [*(holder.current for holder in self._holders.values()), self._idle, self._unattributed]:
            window.duration_s += max(0.0, now_s - self._boundary_s)
        self._boundary_s = now_s

    def _gpus_move(self, holder: Holder, now_s: float) -> None:
        """The GPUs of an attempt belong to its current window from now on, but where another began on them since."""
        for uuid in holder.gpus:
            if uuid in self._gpus:
                holder.current.account(self._gpus[uuid][1])  # without its row a window would seem to hold no GPU
                if self._owner(uuid) is holder:
                    self._give(uuid, holder.current, now_s)
            elif self._gpus_left_out is None:  # a window without its GPU's row would seem to have cost less
                holder.current.account(Channel("gpu", uuid, "none", measured=False)).spoil(self._why_not(uuid))

    def _owner(self, uuid: str) -> Holder | None:
        """Of those that hold a GPU, who began on it last."""
        return next((holder for holder in reversed(self._holders.values()) if uuid in holder.gpus), None)

    def _give(self, uuid: str, window: Window, now_s: float) -> None:
        source, channel, track = self._gpus[uuid]
        track.give_to(window.account(channel), _one(source, channel), now_s)


def _one(source: Source, channel: Channel) -> Reading:
    return source.read([channel]).get(channel, Reading(None, "the channel vanished"))


def _look(source: Source, channel: Channel, track: ExclusiveTrack | SharedTrack, now_s: float) -> None:
    reading = _one(source, channel)
    track.read(reading, now_s if reading.at_s is None else reading.at_s)


def _add_up(sums: dict[Channel, Account], window: Window) -> None:
    for channel, account in window.accounts.items():
        total = sums.setdefault(channel, Account())
        total.add(account.energy_j)
        if account.reason:
            total.spoil(account.reason)
