"""Values that the type checker freezes: `make check` fails if one of the ignored mistakes is none."""

import dataclasses

from polysaga.frozen import frozen


@frozen
class _Fact:
    step: str
    attempt: int = 1
    results: dict[str, str] = dataclasses.field(default_factory=dict, hash=False)


def test_a_frozen_value_is_a_dataclass_with_slots_and_a_hash() -> None:
    fact = _Fact("reserve_stock")
    assert fact == _Fact("reserve_stock", 1, {})
    assert len({fact, _Fact("reserve_stock"), _Fact("reserve_stock", 2)}) == 2
    assert not hasattr(fact, "__dict__")
    assert dataclasses.replace(fact, attempt=3) == _Fact("reserve_stock", 3)
    assert repr(fact) == "_Fact(step='reserve_stock', attempt=1, results={})"
    match fact:
        case _Fact(step, attempt):
            assert (step, attempt) == ("reserve_stock", 1)


def _mistakes(fact: _Fact) -> None:
    fact.step = "charge_card"  # type: ignore[misc]
    _Fact(7)  # type: ignore[arg-type]
