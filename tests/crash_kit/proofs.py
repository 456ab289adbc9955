"""The proof of both sagas, in a process of its own."""

from collections.abc import Mapping

from orders.cancel_order import cancel_order
from orders.place_order import place_order
from orders.sagas import sagas
from orders.tables import create_tables
from polysaga.config import parse_settings
from polysaga.testing import CrashKit, CrashProgress, CrashReport
from tests.fixtures.order_books import a_cancellation, an_order, books_add_up

Urls = Mapping[str, str]
_PAUSE = 30.0  # seconds between two lines about how far a proof is


def prove(urls: Urls, sample: int | None, seed: int, part: tuple[int, int]) -> list[CrashReport]:
    """Run one part of the cases of both sagas and print what came of it."""
    settings = parse_settings({"databases": {name: {"url": url} for name, url in urls.items()}})
    found: list[CrashReport] = []
    told_at = 0.0

    def tell(progress: CrashProgress) -> None:
        nonlocal told_at
        if not 0 <= progress.seconds - told_at < _PAUSE:
            told_at = progress.seconds
            print(f"{progress}, part {part[0]} of {part[1]}", flush=True)

    kit = CrashKit(
        sagas,
        settings,
        setup=create_tables,
        sample=sample,
        seed=seed,
        part=part,
        report=found.append,
        progress=tell,
    )
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
