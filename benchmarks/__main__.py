"""`make bench`: every measurement side by side, one part after the other, into one JSON file.

A part that fails is stored as its error, and the others go on. `--only peers,growth` measures some parts.
`--short` shows in a few minutes whether all of them work.
"""

import json
import traceback
from pathlib import Path
from typing import Any

from benchmarks import (
    against_peers,
    against_plain,
    growth,
    journals,
    memory,
    on_mongo,
    over_http,
    recovery,
    refusals,
    routing,
)
from benchmarks.machine import about
from benchmarks.parts import FULL, SHORT, Measure, Scale, options, tell

PARTS: dict[str, Measure] = {
    "plain": against_plain.measure,
    "refusals": refusals.measure,
    "http": over_http.measure,
    "peers": against_peers.measure,
    "mongo": on_mongo.measure,
    "recovery": recovery.measure,
    "growth": growth.measure,
    "journal": journals.measure,
    "routing": routing.measure,
    "memory": memory.measure,
}
_RESULTS = Path("data/bench")


def main() -> None:
    """Measure and store; the last line of the output names the file."""
    parser = options("measure everything")
    parser.add_argument("--only", help=f"some of {','.join(PARTS)}, separated by commas")
    parser.add_argument("--to", type=Path, help="where to store the result; default: a new file in data/bench")
    asked = parser.parse_args()
    names = asked.only.split(",") if asked.only else list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"no part is named {unknown[0]}; there are {', '.join(PARTS)}")
    scale = SHORT if asked.short else FULL
    result: dict[str, Any] = {"about": about(short=asked.short), "parts": {}}
    told = result["about"]
    to = asked.to or _RESULTS / f"{told['at'][:19].replace(':', '')}-{told['commit'][:8] or 'no-commit'}.json"
    to.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        tell(name)
        result["parts"][name] = _measured(PARTS[name], scale)
        to.write_text(json.dumps(result, indent=1) + "\n")  # what there is, if the rest is interrupted
    print(to)


def _measured(measure: Measure, scale: Scale) -> dict[str, Any]:
    try:
        return measure(scale)
    except Exception as error:  # noqa: BLE001 - an hour of other measurements must not be lost
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    main()
