"""The proof of both sagas, in a process of its own."""

from collections.abc import Mapping

from orders.cancel_order import cancel_order
from orders.place_order import place_order
from orders.sagas import sagas
from orders.tables import create_tables
from polysaga.config import parse_settings
from polysaga.testing import CrashKit, CrashReport
from tests.fixtures.order_books import a_cancellation, an_order, books_add_up

Urls = Mapping[str, str]


def prove(urls: Urls, sample: int | None, seed: int, part: tuple[int, int]) -> list[CrashReport]:
    """Run one part of the cases of both sagas and print what came of it."""
    settings = parse_settings({"databases": {name: {"url": url} for name, url in urls.items()}})
    found: list[CrashReport] = []
    kit = CrashKit(sagas, settings, setup=create_tables, sample=sample, seed=seed, part=part, report=found.append)
    for saga, given in ((place_order, an_order), (cancel_order, a_cancellation)):
        try:
            kit.prove(saga, given, invariant=books_add_up)  # type: ignore[arg-type]
        except AssertionError as broken:
            print(broken, flush=True)
        report = found[-1]
        print(
            f"{report.saga}, part {part[0]} of {part[1]}: {report.runs} runs, "
            f"{len(report.violations)} broken, {report.seconds:.0f} s",
            flush=True,
        )
    return found
