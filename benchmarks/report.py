"""What every benchmark does with its figures: a table of ratios, and a JSON file with the machine and the versions.

Nothing that names this machine is written: its CPU, cores and memory are, its paths and host name are not.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
LIBRARIES = ("torch", "deepspeed", "ray", "numpy", "mixer-pretrain")


def machine() -> dict[str, Any]:
    """What the figures were measured on, and how busy it was."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def _cpu() -> str:
    facts: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    shown = facts.get("model name", platform.processor())
    return f"{shown}, family {facts.get('cpu family', '?')} model {facts.get('model', '?')}"


def versions(*others: str) -> dict[str, str]:
    """The libraries that matter, as they are installed; one that is not has no entry."""
    found = {name: _version(name) for name in (*LIBRARIES, *others)}
    return {name: version for name, version in found.items() if version}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def timed(act: Callable[[], Any]) -> float:
    """Seconds that `act()` takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def medians(samples: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each row."""
    return {name: statistics.median(values) for name, values in samples.items()}


def table(title: str, samples: Mapping[str, Sequence[float]], base: str, unit: str = "s") -> str:
    """Each row's median (in seconds, if nothing else is said), its ratio to the row `base`, and its range."""
    middle = medians(samples)
    width = max(map(len, samples))
    lines = [title, f"{'':{width}}  {f'median {unit}':>9}  {'ratio':>7}  {'least':>8}  {'most':>8}"]
    for name, values in samples.items():
        lines.append(
            f"{name:{width}}  {middle[name]:9.3f}  {middle[name] / middle[base]:7.2f}  "
            f"{min(values):8.3f}  {max(values):8.3f}"
        )
    return "\n".join(lines)


def bar(name: str, value: float, limit: float, *, most: bool) -> dict[str, Any]:
    """One figure to reach: `value` at most (or at least) `limit`."""
    return {
        "name": name,
        "value": round(value, 3),
        "limit": limit,
        "wanted": "at most" if most else "at least",
        "reached": value <= limit if most else value >= limit,
    }


def say(bars: Sequence[Mapping[str, Any]]) -> None:
    """Print which bars are reached."""
    for item in bars:
        word = "reached" if item["reached"] else "NOT reached"
        print(f"{item['name']}: {item['value']:.2f}, {item['wanted']} {item['limit']}: {word}")


def tree(command: str, **facts: Any) -> dict[str, Any]:
    """The figures with what they were measured on, and when."""
    return {
        "command": command,
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "versions": versions(),
        **facts,
    }


def write(name: str, command: str, **facts: Any) -> Path:
    """Keep the figures as `benchmarks/results/<name>.json`, print the bars, and say where they are."""
    say(facts.get("bars", []))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(tree(command, **facts), indent=1) + "\n")
    print(f"written: benchmarks/results/{path.name}")
    return path
