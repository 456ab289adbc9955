"""Reading the trace: real rows, real dirt, nothing fatal but a file that is no trace."""

from decimal import Decimal
from pathlib import Path

import pytest

from orders.schemas import OrderCreate, ProductSet
from orders.trace import Line, NotATrace, read

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"


def _trace(tmp_path: Path, *rows: str) -> Path:
    file = tmp_path / "trace.csv"
    file.write_text("\ufeff" + HEADER + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return file


@pytest.mark.parametrize("written", ["17850", " 17850 ", "17850.0"])
def test_a_customer_is_one_however_the_spreadsheet_wrote_the_number(tmp_path: Path, written: str) -> None:
    trace = read(_trace(tmp_path, f"536365,85123A,WHITE HOLDER,6,1/12/2010,2.55,{written},United Kingdom"))
    assert [line.order.user_id for line in trace.lines] == [17850]


def test_a_clean_row_is_an_order(tmp_path: Path) -> None:
    trace = read(_trace(tmp_path, "536365,85123A,WHITE HOLDER,6,1/12/2010,2.55,17850,United Kingdom"))
    order = OrderCreate(user_id=17850, product_id="85123A", quantity=6)
    assert trace.lines == [Line(2, order, Decimal("2.55"))]
    assert not trace.dirty


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("C536379,D,Discount,-1,1/12/2010,27.5,14527,United Kingdom", "returned goods"),
        ("536414,22139,,0,1/12/2010,1.0,14527,United Kingdom", "zero quantity"),
        ("536414,22139,,many,1/12/2010,1.0,14527,United Kingdom", "unreadable quantity"),
        ("536414,22139,,,1/12/2010,1.0,14527,United Kingdom", "unreadable quantity"),
        ("536414,22139,,1.5,1/12/2010,1.0,14527,United Kingdom", "unreadable quantity"),
        ("536414,22139,,2000000,1/12/2010,1.0,14527,United Kingdom", "unusable quantity"),
        ("536414,22139,,56,1/12/2010,2.5,,United Kingdom", "no customer"),
        ("536414,22139,,56,1/12/2010,2.5,ada,United Kingdom", "unusable user_id"),
        ("536414,22139,,56,1/12/2010,2.5,17850.5,United Kingdom", "unusable user_id"),
        ("536414,,,56,1/12/2010,2.5,14527,United Kingdom", "no stock code"),
        ("536414,a/b,,56,1/12/2010,2.5,14527,United Kingdom", "unusable product_id"),
        ("536414,.,,56,1/12/2010,2.5,14527,United Kingdom", "unusable product_id"),
        ("536414, .. ,,56,1/12/2010,2.5,14527,United Kingdom", "unusable product_id"),
        ("536414,22139,,56,1/12/2010,0,14527,United Kingdom", "no price"),
        ("536414,22139,,56,1/12/2010,-11062.06,14527,United Kingdom", "no price"),
        ("536414,22139,,56,1/12/2010,0.001,14527,United Kingdom", "no price"),
        ("536414,22139,,56,1/12/2010,free,14527,United Kingdom", "unreadable price"),
        ("536414,22139,,56,1/12/2010,NaN,14527,United Kingdom", "unreadable price"),
        ("536414,22139,,56,1/12/2010,1e30,14527,United Kingdom", "unusable price"),
        ("536414,22139,,56", "wrong number of columns"),
        ("536414,22139,A, B,56,1/12/2010,2.5,14527,United Kingdom", "wrong number of columns"),
        ("", "wrong number of columns"),
        ('536414,22139,"no end,56', "wrong number of columns"),
    ],
)
def test_a_dirty_row_is_counted_by_its_reason(tmp_path: Path, row: str, reason: str) -> None:
    trace = read(_trace(tmp_path, row))
    assert (trace.lines, trace.dirty) == ([], {reason: 1})


def test_a_field_that_is_too_long_for_the_reader_is_one_dirty_row(tmp_path: Path) -> None:
    clean = "536365,85123A,WHITE HOLDER,6,1/12/2010,2.55,17850,United Kingdom"
    trace = read(_trace(tmp_path, "x" * 200_000, clean))
    assert (len(trace.lines), trace.dirty) == (1, {"wrong number of columns": 1})


def test_a_stray_quote_spoils_its_own_row_only(tmp_path: Path) -> None:
    clean = "536365,85123A,WHITE HOLDER,6,1/12/2010,2.55,17850,United Kingdom"
    quoted = '536365,85123A,"SIGN, ""METAL""",6,1/12/2010,2.55,17850,United Kingdom'
    inches = '536365,85123A,PLATE 5",6,1/12/2010,2.55,17850,United Kingdom'
    for later in (clean, quoted, inches):
        trace = read(_trace(tmp_path, clean, clean.replace("WHITE", '"WHITE'), clean, later, clean))
        assert [line.number for line in trace.lines] == [2, 4, 5, 6]
        assert trace.dirty == {"wrong number of columns": 1}


def test_a_trace_is_known_by_its_whole_content_and_not_by_its_name(tmp_path: Path) -> None:
    clean = "536365,85123A,WHITE HOLDER,6,1/12/2010,2.55,17850,United Kingdom"
    file = _trace(tmp_path, clean, clean)
    first, part = read(file), read(file, limit=1)
    copied = read(file.rename(tmp_path / "copied.csv"))
    changed = read(_trace(tmp_path, clean, clean.replace(",6,", ",7,")))
    assert first.digest == part.digest == copied.digest != changed.digest


def test_bytes_that_are_not_utf8_are_read_anyway(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_bytes((HEADER + "536365,85123A,CAF\xc9,6,1/12/2010,2.55,17850,France\r\n").encode("latin-1"))
    assert len(read(file).lines) == 1


def test_the_limit_counts_rows_of_the_file(tmp_path: Path) -> None:
    dirty = "536414,22139,,56,1/12/2010,0,,United Kingdom"
    clean = "536365,85123A,WHITE HOLDER,6,1/12/2010,2.55,17850,United Kingdom"
    trace = read(_trace(tmp_path, dirty, clean, clean), limit=2)
    assert (len(trace.lines), trace.dirty.total()) == (1, 1)


def test_the_stock_is_most_of_the_demand_and_enough_for_the_first_line(tmp_path: Path) -> None:
    rows = [f"536365,{code},,{count},1/12/2010,2.55,17850,UK" for code, count in (("A", 10), ("A", 30), ("B", 7))]
    trace = read(_trace(tmp_path, *rows))
    assert trace.stock() == {"A": 36, "B": 7}


def test_the_stock_is_at_most_what_the_shop_takes(tmp_path: Path) -> None:
    trace = read(_trace(tmp_path, *["536365,A,,1000000,1/12/2010,2.55,17850,UK"] * 1200))
    ((product_id, stock),) = trace.stock().items()
    assert (product_id, ProductSet(stock=stock, price=Decimal(1)).stock) == ("A", 1_000_000_000)


def test_the_price_is_the_first_one(tmp_path: Path) -> None:
    rows = [f"536365,A,,1,1/12/2010,{price},17850,UK" for price in ("2.55", "3.00")]
    assert read(_trace(tmp_path, *rows)).prices() == {"A": Decimal("2.55")}


@pytest.mark.parametrize("text", ["", "a,b,c\n1,2,3\n"])
def test_a_file_without_the_columns_says_which_are_needed(tmp_path: Path, text: str) -> None:
    file = tmp_path / "other.csv"
    file.write_text(text)
    with pytest.raises(NotATrace, match="needed are InvoiceNo, StockCode, Quantity, UnitPrice, CustomerID"):
        read(file)


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotATrace, match="No such file"):
        read(tmp_path / "nothing.csv")
