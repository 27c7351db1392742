"""The plot of docs/performance.md; it runs in an environment of its own, with matplotlib.

    python plot.py FILE.svg < figures.json

The figures are `{"cpu": {name: ms a request}, "latency": {name: [p50 ms, p99 ms]}}`.
"""

import json
import sys
from typing import Any

import matplotlib as mpl  # type: ignore[import-not-found, unused-ignore]

mpl.use("svg")

from matplotlib import pyplot as plt  # type: ignore[import-not-found, unused-ignore]

OURS, THEIRS, TAIL = "#2563eb", "#94a3b8", "#cbd5e1"


def draw(figures: dict[str, Any], file: str) -> None:
    """Costs on the left, latencies on the right, each from the least to the most."""
    mpl.rcParams.update({"font.size": 9, "svg.hashsalt": "keyway", "axes.spines.top": False})
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    costs = sorted(figures["cpu"].items(), key=lambda item: item[1], reverse=True)
    names = [name for name, _ in costs]
    colours = [OURS if name == "keyway" else THEIRS for name in names]
    left.bar_label(left.barh(names, [cost for _, cost in costs], color=colours), fmt="%.2f", padding=3)
    left.set_title("CPU per request, 64 in flight, ms", loc="left")
    latencies = sorted(figures["latency"].items(), key=lambda item: item[1][0], reverse=True)
    names = [name for name, _ in latencies]
    right.barh(names, [p99 for _, (_, p99) in latencies], color=TAIL, label="p99")
    colours = [OURS if name == "keyway" else THEIRS for name in names]
    right.bar_label(
        right.barh(names, [p50 for _, (p50, _) in latencies], color=colours, label="p50"),
        fmt="%.1f",
        padding=3,
    )
    right.set_title("latency, one in flight, ms: p50, and p99 in light", loc="left")
    right.set_xscale("log")
    right.set_xlim(left=0.1)
    left.margins(x=0.1)
    for axes in (left, right):
        axes.spines[["right", "left"]].set_visible(False)
        axes.tick_params(left=False)
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    draw(json.load(sys.stdin), sys.argv[1])
