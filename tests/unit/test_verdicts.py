"""Text is judged by its grammar: every plain read passes, everything else is named."""

import logging
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlglot import Token, TokenType
from sqlglot.dialects.dialect import Dialect

from polysaga.routing.guards.sql_text import verdict
from tests.fixtures.corpus import READS, WRITES, Line

GAPS = [" ", "\n", "\t", "  ", " /* an INSERT */ ", " -- nextval('x')\n", " /* it's */ "]


def judged(line: Line, sql: str | None = None) -> str | None:
    return verdict(line.sql if sql is None else sql, line.dialect, line.paramstyle)


@pytest.mark.parametrize("line", READS, ids=str)
def test_a_plain_read_passes(line: Line) -> None:
    assert judged(line) is None


@pytest.mark.parametrize("line", WRITES, ids=str)
def test_what_is_no_plain_read_is_named(line: Line) -> None:
    assert judged(line)


def test_the_corpus_holds_what_it_should() -> None:
    assert len(READS) >= 200
    assert len({*READS, *WRITES}) == len(READS) + len(WRITES)


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x", "DELETE"),
        ("SELECT pg_catalog.NextVal('s')", "nextval()"),
        ("SELECT * FROM t FOR KEY SHARE", "SELECT ... FOR UPDATE or SHARE"),
        ("SELECT * INTO u FROM t", "SELECT ... INTO"),
        ("SELECT 1; CREATE TEMP TABLE t (a int)", "CREATE"),
        ("EXPLAIN (ANALYZE) DELETE FROM t", "EXPLAIN ANALYZE of DELETE"),
    ],
)
def test_the_name_says_what_it_is(sql: str, what: str) -> None:
    assert verdict(sql, "postgresql") == what


@pytest.mark.parametrize(
    "sql", ["SELEC 1", "SELECT FROM WHERE (", "'", "$$", "/*", "", ";", "-- nothing", "\x00", "SELECT '\ud800'"]
)
@pytest.mark.parametrize("dialect", ["postgresql", "mysql", "sqlite"])
def test_what_does_not_parse_is_left_to_the_database(sql: str, dialect: str) -> None:
    assert verdict(sql, dialect) is None


def test_silent_writes_are_found_also_where_the_rest_does_not_parse() -> None:
    assert verdict("SELECT pg_advisory_lock(1) WHERE WHERE", "postgresql") == "pg_advisory_lock()"
    assert verdict("SELECT GET_LOCK('a', 1) WHERE WHERE", "mysql") == "get_lock()"


@pytest.mark.parametrize("paramstyle", ["format", "pyformat"])
def test_a_drivers_placeholders_hide_nothing(paramstyle: str) -> None:
    sql = "SELECT a FROM t WHERE b = %s AND c LIKE 'x%%' AND d %% 2 = %(d)s FOR UPDATE"
    assert verdict(sql, "postgresql", paramstyle) == "SELECT ... FOR UPDATE or SHARE"


def test_a_text_too_long_to_parse_is_judged_by_its_beginning() -> None:
    values = ", ".join(["(1)"] * 100_000)
    assert verdict(f"INSERT INTO t VALUES {values}", "postgresql") == "INSERT"
    assert verdict(f"VALUES {values}", "postgresql") is None


def test_deep_nesting_is_no_error() -> None:
    assert verdict(f"SELECT {'(' * 3000}1{')' * 3000}", "postgresql") is None


def test_judging_says_nothing_to_the_logs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for line in (*READS, *WRITES):
            judged(line)
    assert caplog.records == []


@given(st.sampled_from([*READS, *WRITES]), st.data())
def test_comments_blanks_and_case_change_no_verdict(line: Line, data: st.DataObject) -> None:
    assert judged(line, mutated(line, data)) == judged(line)


@given(st.sampled_from(READS), st.sampled_from(WRITES))
def test_one_write_among_reads_is_found(read: Line, write: Line) -> None:
    before = read.sql if read.dialect == write.dialect else "SELECT 1"
    assert judged(write, f"{before}\n;{write.sql}") == judged(write)


@given(st.text(max_size=200), st.sampled_from(["postgresql", "mysql", "sqlite"]))
def test_no_text_raises(sql: str, dialect: str) -> None:
    verdict(sql, dialect)


def mutated(line: Line, data: st.DataObject) -> str:
    """Return the statement with other blanks, comments between its words, and words in another case."""
    tokens = Dialect.get_or_raise(line.dialect.replace("postgresql", "postgres")).tokenize(line.sql)
    if not tokens:
        return line.sql
    parts = [data.draw(st.sampled_from(GAPS)), word(line, tokens[0], data)]
    for last, token in pairwise(tokens):
        gap = line.sql[last.end + 1 : token.start]
        parts += [data.draw(st.sampled_from(GAPS)) if gap.isspace() else gap, word(line, token, data)]
    return "".join([*parts, line.sql[tokens[-1].end + 1 :]])


def word(line: Line, token: Token, data: st.DataObject) -> str:
    text = line.sql[token.start : token.end + 1]
    # One letter may be part of a placeholder.
    if token.token_type in {TokenType.STRING, TokenType.IDENTIFIER} or not text.isidentifier() or len(text) == 1:
        return text
    return data.draw(st.sampled_from([text, text.upper(), text.lower(), text.swapcase()]))
