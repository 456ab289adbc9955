"""A result of `make bench` as plots: SVG with text as text, the same bytes for the same result."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot

_SIZE = (7.2, 3.4)  # inches
_MIB = 2**20
_COLOURS = ("#1b6ca8", "#d1495b", "#66a182", "#edae49", "#6c757d")

Part: TypeAlias = Mapping[str, Any]


def draw(result: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Draw what was measured into *folder*; return the file names by the block of the page they belong to."""
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "polysaga", "font.size": 9})
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for block, (part, plot) in _PLOTS.items():
        found = result["parts"].get(part)
        if found is None or "failed" in found:
            continue
        figure, axes = pyplot.subplots(figsize=_SIZE, layout="constrained")
        plot(axes, found)
        axes.spines[["top", "right"]].set_visible(False)
        drawn[block] = f"{block}.svg"
        figure.savefig(folder / drawn[block], metadata={"Date": None})
        pyplot.close(figure)
    return drawn


def _ratios(axes: Any, part: Part) -> None:
    """Throughput of ours divided by that of the plain ways, with quartiles."""
    pairs = list(part["turns"][0]["ratios"])
    for place, pair in enumerate(pairs):
        low, median, high = zip(*(turn["ratios"][pair]["throughput"] for turn in part["turns"]), strict=True)
        positions = [index + place * 0.12 for index in range(len(part["turns"]))]
        errors = [
            [middle - least for middle, least in zip(median, low, strict=True)],
            [most - middle for middle, most in zip(median, high, strict=True)],
        ]
        axes.errorbar(positions, median, errors, fmt="o", capsize=4, label=pair, color=_COLOURS[place])
    axes.axhline(1.0, color="#bbbbbb", linewidth=1)
    _at_once(axes, part)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("ratio of throughputs")
    axes.legend(frameon=False)


def _throughputs(axes: Any, part: Part) -> None:
    """Sagas a second of every side."""
    sides = list(part["turns"][0]["sides"])
    width = 0.8 / len(sides)
    for place, side in enumerate(sides):
        heights = [turn["sides"][side]["throughput"][1] for turn in part["turns"]]
        positions = [index + (place - (len(sides) - 1) / 2) * width for index in range(len(heights))]
        axes.bar(positions, heights, width, label=side, color=_COLOURS[place % len(_COLOURS)])
    _at_once(axes, part)
    axes.set_ylabel("sagas a second")
    axes.legend(frameon=False)


def _processors(axes: Any, part: Part) -> None:
    """Processor time of one saga at concurrency 16, client and servers apart."""
    turn = next(turn for turn in part["turns"] if turn["concurrency"] == 16)
    sides = list(turn["sides"])
    clients = [turn["sides"][side]["client_cpu_ms"][1] for side in sides]
    servers = [turn["sides"][side]["server_cpu_ms"][1] for side in sides]
    axes.barh(sides, clients, label="client", color=_COLOURS[0])
    axes.barh(sides, servers, left=clients, label="servers", color=_COLOURS[3])
    axes.set_xlabel("ms of processor time a saga, 16 at once")
    axes.legend(frameon=False)


def _memory(axes: Any, part: Part) -> None:
    """Memory of the process over time."""
    minutes = [sample["seconds"] / 60 for sample in part["samples"]]
    used = [sample["client_bytes"] / _MIB for sample in part["samples"]]
    axes.plot(minutes, used, color=_COLOURS[0])
    axes.set_ylim(0, max(used) * 1.2)
    axes.set_xlabel("minutes")
    axes.set_ylabel("MiB of the client")


def _at_once(axes: Any, part: Part) -> None:
    axes.set_xticks(range(len(part["turns"])), [f"{turn['concurrency']} at once" for turn in part["turns"]])


_PLOTS: Mapping[str, tuple[str, Callable[[Any, Part], None]]] = {
    "plain": ("plain", _ratios),
    "http": ("http", _ratios),
    "peers": ("peers", _throughputs),
    "peers-processors": ("peers", _processors),
    "memory": ("memory", _memory),
}
