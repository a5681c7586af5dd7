"""CPU time of process trees."""

from collections.abc import Sequence

import psutil


def cpu_time_s(pids: Sequence[int]) -> float:
    """Seconds of CPU time, user and system, used so far by the processes and their living descendants.

    A process that is gone counts nothing: what it used after the last look is not known.
    """
    total = 0.0
    for pid in pids:
        try:
            process = psutil.Process(pid)
            family = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
        for member in family:
            try:
                times = member.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
    return total
