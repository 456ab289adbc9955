"""What an account of MongoDB may do, read out of the server's answer to connectionStatus."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from polysaga.databases.dialects.mongo import Mongo

ALL = {"find", "insert", "update", "remove"}
USER = [{"user": "shop", "db": "stock"}]


def privilege(db: str, collection: str, *actions: str) -> Mapping[str, Any]:
    return {"resource": {"db": db, "collection": collection}, "actions": list(actions)}


class Answer:
    """Stands for the server: its answer to connectionStatus."""

    def __init__(self, *privileges: Mapping[str, Any], users: list[Any] = USER) -> None:
        self.admin = self
        self._info = {"authenticatedUsers": users, "authenticatedUserPrivileges": list(privileges)}

    async def command(self, name: str, *, showPrivileges: bool) -> Any:  # noqa: N803 - the server's name
        return (
            {"authInfo": self._info} if (name, showPrivileges) == ("connectionStatus", True) else SimpleNamespace()
        )


READ_WRITE = privilege("stock", "", *ALL, "createCollection")
ANSWERS: list[tuple[str, Answer, dict[str, set[str]]]] = [
    ("no access control", Answer(users=[]), {}),
    ("readWrite", Answer(READ_WRITE), {}),
    ("root", Answer({"resource": {"anyResource": True}, "actions": ["anyAction"]}), {}),
    ("readWriteAnyDatabase", Answer(privilege("", "", *ALL, "createCollection")), {}),
    ("nothing", Answer(), {"polysaga_ledger": ALL, "new collections": {"createCollection"}}),
    (
        "read",
        Answer(privilege("stock", "", "find")),
        {"polysaga_ledger": ALL - {"find"}, "new collections": {"createCollection"}},
    ),
    (
        "another database",
        Answer(privilege("other", "", *ALL, "createCollection")),
        {"polysaga_ledger": ALL, "new collections": {"createCollection"}},
    ),
    (
        "the collection only",
        Answer(privilege("stock", "polysaga_ledger", *ALL)),
        {"new collections": {"createCollection"}},
    ),
    (
        "the cluster only",
        Answer({"resource": {"cluster": True}, "actions": ["serverStatus"]}),
        {"polysaga_ledger": ALL, "new collections": {"createCollection"}},
    ),
]


@pytest.mark.parametrize(("answer", "missing"), [rest for _, *rest in ANSWERS], ids=[name for name, *_ in ANSWERS])
async def test_what_an_account_lacks(answer: Answer, missing: dict[str, set[str]]) -> None:
    assert await Mongo().lacking(answer, "stock", {"polysaga_ledger": ALL}, create=True) == missing
