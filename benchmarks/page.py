"""`make bench-page`: put the figures of a result into docs/explanation/performance.md, and draw its plots.

The page is written by hand but for the blocks between `<!-- figures NAME -->` and `<!-- end -->`. Each of them is
made anew from the result, which is stored beside the plots.
"""

import argparse
import json
import shutil
from pathlib import Path

from benchmarks.plots import draw
from benchmarks.tables import filled

_PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "performance.md"


def main() -> None:
    """Make the page anew from the result that the command line names."""
    parser = argparse.ArgumentParser(description="put the figures of a result into the page on performance")
    parser.add_argument("result", type=Path, help="a file that `make bench` stored in data/bench")
    parser.add_argument("--page", type=Path, default=_PAGE)
    asked = parser.parse_args()
    result = json.loads(asked.result.read_text())
    folder = asked.page.with_suffix("")
    plots = draw(result, folder)
    asked.page.write_text(filled(asked.page.read_text(), result, plots, folder.name))
    stored = folder / "result.json"
    if asked.result.resolve() != stored.resolve():
        shutil.copyfile(asked.result, stored)


if __name__ == "__main__":
    main()
