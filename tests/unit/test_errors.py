"""The tree of errors: as drawn, and every leaf with its facts and a remedy."""

import inspect
import re
from uuid import uuid4

import pytest

from polysaga import errors
from polysaga.errors import FixTheProgram, NeedsAttention, PolysagaError, Refused, TryAgain

ID = uuid4()
FACTS = {
    "saga_id": ID,
    "saga": "place-order",
    "step": "reserve",
    "key": "k-1",
    "database": "orders",
    "node": "postgresql://u:***@h/db",
    "reason": "no answer",
    "limit": 256,
    "size": 20,
    "waited": 5.0,
    "line": "ledger",
    "wrong": "are too old",
    "what": "INSERT",
    "endpoint": "GET /orders",
    "action": "retry",
    "status": "completing",
    "remedy": "look at it again",
    "rows": "seats",
    "locked_by": "the-saga",
}


def kinds() -> list[type[PolysagaError]]:
    found = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, PolysagaError)]
    return [kind for kind in found if kind.__module__ == errors.__name__]


def leaves() -> list[type[PolysagaError]]:
    return [kind for kind in kinds() if not any(other.__base__ is kind for other in kinds())]


def drawn() -> list[tuple[str, str]]:
    """The drawing in the module's docstring, as pairs of class and parent, in its order."""
    pairs: list[tuple[str, str]] = []
    parents = {-1: "Exception"}
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ((?:[│ ]   )*)(?:[├└]── )?([A-Z]\w+)(?:\s|$)", line)
        if found:
            depth = len(found[1]) // 4 + ("──" in line)
            parents[depth] = found[2]
            pairs.append((found[2], parents[depth - 1]))
    return pairs


def test_the_tree_as_drawn_is_the_tree_of_classes() -> None:
    classes = {(kind.__name__, kind.__base__.__name__) for kind in kinds() if kind.__base__}
    assert set(drawn()) == classes
    assert len(drawn()) == len(classes)


def test_the_branches_are_the_four_remedies() -> None:
    assert set(PolysagaError.__subclasses__()) == {TryAgain, FixTheProgram, Refused, NeedsAttention}


@pytest.mark.parametrize("kind", kinds())
def test_every_error_says_in_its_docstring_when_it_is_raised(kind: type[PolysagaError]) -> None:
    assert kind.__dict__.get("__doc__")


@pytest.mark.parametrize("kind", [kind for kind in leaves() if "__init__" in vars(kind) and kind is not Refused])
def test_every_leaf_carries_its_facts_as_attributes_and_tells_them(kind: type[PolysagaError]) -> None:
    names = list(inspect.signature(kind).parameters)
    error = kind(*(FACTS[name] for name in names))
    for name in names:
        assert getattr(error, name) == FACTS[name]
    named = [name for name in names if name not in {"saga_id", "waited"}]
    assert all(str(FACTS[name]) in str(error) for name in named)


@pytest.mark.parametrize("kind", [kind for kind in leaves() if issubclass(kind, TryAgain)])
def test_what_time_heals_says_when_to_come_back(kind: type[TryAgain]) -> None:
    assert kind.retry_after > 0


def test_a_refusal_is_named_after_its_class() -> None:
    class OutOfStock(Refused):
        """Named by its class."""

    class NotTonight(OutOfStock):
        """Named by its own class, not by its parent's."""

    class Named(Refused):
        code = "sold-out"

    class BelowNamed(Named):
        """Named by its own class again."""

    assert [kind.code for kind in (Refused, OutOfStock, NotTonight, Named, BelowNamed)] == [
        "refused",
        "out-of-stock",
        "not-tonight",
        "sold-out",
        "below-named",
    ]


def test_an_abbreviation_in_a_refusals_name_is_one_word() -> None:
    class SKUMissing(Refused):
        """Named with an abbreviation."""

    assert SKUMissing.code == "sku-missing"


def test_a_refusal_carries_its_facts_and_no_saga_until_it_has_one() -> None:
    error = Refused("only 2 left", left=2, product="tea")
    assert (str(error), error.facts, error.saga_id) == ("only 2 left", {"left": 2, "product": "tea"}, None)
