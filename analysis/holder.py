"""Who writes to a results folder: `lease/<number>.json`, of which the highest number counts."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from analysis.tables import files_of

_FRESH: Final = timedelta(seconds=30)
"""A lease whose last sign of life is older holds nothing any more."""


def held_by(folder: Path, problems: list[str]) -> str | None:
    """Such as "ann@node1, process 123, since 12:00 UTC"; None where no run is at work.

    Leases that cannot be read are added to `problems`.
    """
    leases = {}
    for file in files_of(folder, "lease", problems):
        if file.suffix == ".json" and file.stem.isdecimal():
            leases[int(file.stem)] = file
        else:
            problems.append(f"{file.relative_to(folder)}: not a lease; skipped")
    if not leases:
        return None
    last = leases[max(leases)]
    try:
        return _holder(last)
    except FileNotFoundError:  # its holder, or who came after, has removed it
        return None
    except OSError as problem:
        problems.append(f"{last.relative_to(folder)}: {problem.strerror}; skipped")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        problems.append(f"{last.relative_to(folder)}: torn, or not a lease; skipped")
    return None


def _holder(file: Path) -> str | None:
    lease = json.loads(file.read_text(encoding="utf-8"))
    now = datetime.now(UTC)
    started_at, beat_at = (datetime.fromisoformat(lease[name]).astimezone(UTC) for name in ("started_at", "beat_at"))
    if lease["released"] or abs(now - beat_at) > _FRESH:
        return None
    since = f"{started_at:%H:%M} UTC" if started_at.date() == now.date() else f"{started_at:%Y-%m-%d %H:%M} UTC"
    return f"{lease['user']}@{lease['host']}, process {lease['pid']}, since {since}"
