"""`make bench-page`: put the figures of a result into docs/explanation/performance.md, and draw its plots.

The page is written by hand but for the blocks between `<!-- figures NAME -->` and `<!-- end -->`. Each of them is
made anew from the result, which is stored beside the plots. Of several results the parts of the later ones count;
the page says which parts are of an earlier one.
"""

import argparse
import json
from pathlib import Path

from benchmarks.plots import draw
from benchmarks.tables import filled, joined

_PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "performance.md"


def main() -> None:
    """Make the page anew from the results that the command line names."""
    parser = argparse.ArgumentParser(description="put the figures of a result into the page on performance")
    parser.add_argument("results", type=Path, nargs="+", help="files that `make bench` stored in data/bench")
    parser.add_argument("--page", type=Path, default=_PAGE)
    asked = parser.parse_args()
    result = joined([json.loads(one.read_text()) for one in asked.results])
    folder = asked.page.with_suffix("")
    plots = draw(result, folder)
    asked.page.write_text(filled(asked.page.read_text(), result, plots, folder.name))
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
