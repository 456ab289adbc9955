"""Values that no code changes, without what a frozen dataclass costs.

A frozen dataclass sets each of its fields through `object.__setattr__`: one of six fields takes 1.4 µs to make, a
plain one 0.2 (Python 3.11). An owner makes some sixty such values for a saga of five steps. Here the type checker
alone refuses to set a field. What users get, such as events, stays frozen at run time as well.
"""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """Make *cls* a dataclass with slots and a hash; mypy reports code that sets one of its fields."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
