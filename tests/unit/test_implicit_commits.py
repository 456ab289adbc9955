"""Statements that end the transaction of a step are recognised, also behind MariaDB's SET STATEMENT."""

import pytest

from polysaga.sagas.participants.implicit_commits import ends_transaction

ENDS = [
    "SET STATEMENT max_statement_time = 1 FOR COMMIT",
    "set statement a=1, b='x for y' for COMMIT",
    "SET STATEMENT a=1 /* for */ FOR COMMIT",
    "/* c */ SET STATEMENT a=1 FOR SET STATEMENT b=2 FOR DROP TABLE x",
    "SET STATEMENT sql_mode='' FOR IF 1 THEN COMMIT; END IF",
    "SET STATEMENT a=1 FOR SELECT 1; COMMIT",
    "/*!50000 SET STATEMENT a=1 FOR COMMIT */",
    "SET STATEMENT a=1 FOR /*! COMMIT */",
    "SET STATEMENT nobody knows how this goes on",
    "SET STATEMENT max_statement_time=5 FOR CALL p()",
    "SET STATEMENT sql_mode=SUBSTRING('ANSI' FROM 1 FOR 4) FOR COMMIT",
    "SET STATEMENT max_statement_time=@for+1 FOR COMMIT",
    "SET STATEMENT max_statement_time=1--1 FOR CREATE TABLE n1 AS\nSELECT 1 FOR UPDATE",
    "SET STATEMENT max_statement_time=3 /*!FOR CREATE TABLE n2 AS SELECT 1*/ FOR UPDATE",
    "SET STATEMENT max_statement_time=3 /*M! FOR COMMIT */ FOR UPDATE",
    "SET STATEMENT a=$$ FOR $$ FOR COMMIT",
]
KEEPS = [
    "SET STATEMENT max_statement_time=0.2 FOR SELECT 1",
    "SET STATEMENT a=1 FOR UPDATE shelves SET name = '; commit'",
    "/* for */ set statement a=1\nfor\nselect * from sales for update",
    "SET STATEMENT a='for commit' FOR INSERT INTO sales VALUES ('for')",
]


@pytest.mark.parametrize("statement", ENDS)
def test_what_ends_the_transaction_is_recognised(statement: str) -> None:
    assert ends_transaction("mysql", statement)


@pytest.mark.parametrize("statement", KEEPS)
def test_what_only_limits_one_statement_is_let_through(statement: str) -> None:
    assert not ends_transaction("mysql", statement)
