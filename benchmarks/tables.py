"""A result of `make bench` as Markdown: one function for each block of figures on the page."""

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

Part: TypeAlias = Mapping[str, Any]
Cells: TypeAlias = Sequence[Sequence[str]]

NOT_MEASURED = "Not measured in this run."
_BLOCK = re.compile(r"(<!-- figures ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_MIB = 2**20
_NAMES = {"postgres": "PostgreSQL", "mariadb": "MariaDB"}
_WIDTH = 118  # of a line on the page
_FIGURES = ("throughput", "p50_ms", "p99_ms", "client_cpu_ms", "server_cpu_ms")
_RATIOS = ("throughput", "p50_ms", "client_cpu_ms", "cpu_ms")


def joined(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the last of *results* with the parts that only earlier ones have, and their commits in `earlier`."""
    last = results[-1]
    parts, earlier = dict(last["parts"]), dict(last.get("earlier", {}))
    for one in reversed(results[:-1]):
        for name, part in one["parts"].items():
            if name not in parts:
                parts[name], earlier[name] = part, one["about"]["commit"]
    return {**last, "parts": parts, "earlier": earlier}


def filled(page: str, result: Mapping[str, Any], plots: Mapping[str, str], folder: str) -> str:
    """Return *page* with every block made anew; raise `KeyError` for a block that no function makes."""

    def made(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        pictures = [
            f"![{plot.removesuffix('.svg').replace('-', ' ')}]({folder}/{plot})\n\n"
            for block, plot in plots.items()
            if block.partition("-")[0] == name
        ]
        return f"{begin}\n{''.join(pictures)}{_figures(name, result)}\n\n{end}"

    return _BLOCK.sub(made, page)


def _figures(name: str, result: Mapping[str, Any]) -> str:
    if name == "about":
        return about(result)
    part, form = BLOCKS[name]
    found = result["parts"].get(part)
    if found is None:
        return NOT_MEASURED
    return f"This part failed: {found['failed']}" if "failed" in found else form(found)


def table(head: Sequence[str], rows: Cells) -> str:
    """Return a table; everything but the first column is aligned to the right."""
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *rows])


def spread(values: Sequence[float], places: int = 2) -> str:
    """Return a median with its quartiles."""
    low, median, high = (f"{value:.{places}f}" for value in values)
    return f"{median} ({low} to {high})"


def about(result: Mapping[str, Any]) -> str:
    """Return where and of what the figures are."""
    told = result["about"]
    machine, versions = told["machine"], told["versions"]
    servers = {server for part in result["parts"].values() for server in part.get("servers", ())}
    changed = " with changes" if told["changed"] else ""
    hardware = f"{machine['processors']} processors ({machine['processor']}), {_memory(machine['memory'])}"
    lines = [
        f"Measured on {told['at'][:10]} at commit `{told['commit'][:10]}`{changed}.",
        f"Machine: {hardware}, Linux {machine['kernel']}, load average before the run {machine['load'][0]}.",
        f"Servers: {', '.join(sorted(servers))}.",
        f"Packages: {', '.join(f'{name} {version}' for name, version in versions.items())}.",
    ]
    for commit in dict.fromkeys(result.get("earlier", {}).values()):
        names = [name for name, other in result["earlier"].items() if other == commit]
        lines.insert(1, f"Measured on the same machine at the earlier commit `{commit[:10]}`: {', '.join(names)}.")
    if told["short"]:
        lines.insert(0, "**This was a short run to see that everything works: the figures say nothing.**")
    return "\n".join(textwrap.fill(f"- {line}", _WIDTH, subsequent_indent="  ") for line in lines)


def sides(part: Part) -> str:
    """Return medians of every side and the ratios between them, for each concurrency."""
    figures = [
        [str(turn["concurrency"]), side, *(f"{found[name][1]:.1f}" if name in found else "?" for name in _FIGURES)]
        for turn in part["turns"]
        for side, found in turn["sides"].items()
    ]
    ratios = [
        [str(turn["concurrency"]), pair, *(spread(found[name]) if name in found else "?" for name in _RATIOS)]
        for turn in part["turns"]
        for pair, found in turn["ratios"].items()
    ]
    heads = ["at once", "side", "a second", "p50 ms", "p99 ms", "client CPU ms", "servers' CPU ms"]
    ratio_heads = ["at once", "ratio", "throughput", "p50", "client CPU", "CPU of all"]
    return f"{table(heads, figures)}\n\n{table(ratio_heads, ratios)}"


def on_connections(part: Part) -> str:
    """Return the same for the sides whose steps run on connections."""
    return sides({"turns": part["on_connections"]})


def counts(part: Part) -> str:
    """Return what one saga sends."""
    names = ("packets", "statements", "commits")
    rows = [
        [side, *(f"{found[name]:.1f}" if name in found else "?" for name in names)]
        for side, found in part["counts"].items()
    ]
    return table(["side", *(f"{name} a saga" for name in names)], rows)


def peers(part: Part) -> str:
    """Return the sides, and which peers were missing."""
    missing = f"\n\nNot installed, and so not measured: {', '.join(part['missing'])}." if part["missing"] else ""
    return sides(part) + missing


def recovery(part: Part) -> str:
    """Return how long recovery took, and what the audit found."""
    words = {
        "in_flight": "sagas in flight when the process was killed",
        "lease_seconds": "lease of their claims, seconds",
        "seconds_until_they_are_up": "seconds from the kill until the fresh processes were up",
        "seconds_until_half_are_at_rest": "... until half of the sagas were at rest",
        "seconds_until_all_are_at_rest": "... until all of them were",
        "sagas_claimed_by_each": "sagas claimed by each fresh process",
        "claims_lost": "claims that one lost to another",
        "sagas_claimed_twice": "sagas that were claimed more than once",
        "effects_missing": "effects missing",
        "effects_doubled": "effects that happened twice",
    }
    crowd = part["crowd"]
    heads = [f"{len(one['sagas_claimed_by_each'])} fresh processes" for one in (part, crowd)]
    rows = [[text, _cell(part[name]), _cell(crowd[name])] for name, text in words.items()]
    return table(["what", *heads], rows)


def claims(part: Part) -> str:
    """Return what a claim costs that finds nothing due."""
    words = {
        "one finished saga": "one finished saga in the journal",
        "parked sagas": f"{part['parked']:,} parked ones",
        "an old snapshot": f"an hour-old snapshot, and {part['finished_since_the_snapshot']:,} finished since",
        "an old snapshot, without a lower bound": "the same; the look once a minute, without a lower bound",
    }
    rows = [
        [text, *(f"{found[name]:.2f}" for found in part["claims_ms"].values())] for name, text in words.items()
    ]
    return table(["beside", *(f"{_NAMES[name]}, ms" for name in part["claims_ms"])], rows)


def searches(part: Part) -> str:
    """Return what every search costs in a small and in a large journal."""
    found = part["searches_ms"]
    rows = [
        [name, *(f"{milliseconds:.1f}" for one in found.values() for milliseconds in one[name])]
        for name in next(iter(found.values()))
    ]
    sizes = ("1 saga", f"{part['searched']:,}")
    return table(["search", *(f"{_NAMES[name]}, {size}, ms" for name in found for size in sizes)], rows)


def growth(part: Part) -> str:
    """Return the sizes of the databases, and the sides."""
    empty = part["filled"]["0"]["bytes"]
    rows = [
        [f"{int(count):,}", *(f"{(found['bytes'][name] - empty[name]) / int(count) / 1024:.2f}" for name in empty)]
        for count, found in part["filled"].items()
        if int(count)
    ]
    return f"{table(['finished sagas', *(f'KiB a saga in {name}' for name in empty)], rows)}\n\n{sides(part)}"


def routing(part: Part) -> str:
    """Return what routing costs."""
    rows = [
        ["choosing one of three replicas, µs", f"{part['pick_us']:.2f}"],
        ["a routed reader session with one SELECT, µs", f"{part['reader_us']:.0f}"],
        ["an `AsyncSession` with `pool_pre_ping` and the same SELECT, µs", f"{part['preping_us']:.0f}"],
        ["the second divided by the third", f"{part['reader_vs_preping']:.2f}"],
    ]
    return table(["what", "found"], rows)


def memory(part: Part) -> str:
    """Return the memory at a few moments, and the slope."""
    samples = part["samples"]
    shown = [samples[round(share * (len(samples) - 1) / 5)] for share in range(6)]
    rows = [
        [
            f"{sample['seconds'] / 60:.1f}",
            f"{sample['sagas']:,}",
            f"{sample['client_bytes'] / _MIB:.1f}",
            f"{sample['server_bytes'] / _MIB:.0f}",
        ]
        for sample in shown
    ]
    slope = f"Slope over the second half: {part['client_bytes_per_saga']:.1f} bytes a saga in the client."
    return f"{table(['minute', 'sagas', 'client MiB', 'servers MiB'], rows)}\n\n{slope}"


BLOCKS: Mapping[str, tuple[str, Callable[[Part], str]]] = {
    "plain": ("plain", sides),
    "plain-counts": ("plain", counts),
    "plain-on-connections": ("plain", on_connections),
    "refusals": ("refusals", sides),
    "http": ("http", sides),
    "peers": ("peers", peers),
    "peers-counts": ("peers", counts),
    "mongo": ("mongo", sides),
    "mongo-counts": ("mongo", counts),
    "recovery": ("recovery", recovery),
    "growth": ("growth", growth),
    "journal-claims": ("journal", claims),
    "journal-searches": ("journal", searches),
    "routing": ("routing", routing),
    "memory": ("memory", memory),
}


def _memory(told: str) -> str:
    return f"{int(told.split()[0]) / 2**20:.0f} GiB" if told else "memory unknown"


def _cell(value: Any) -> str:
    return " and ".join(map(str, value)) if isinstance(value, list) else f"{value:,}"
