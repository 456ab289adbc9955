"""The pages for people: they work in a browser that reaches no host but this one."""

import re
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx2
import pytest

from orders.app import create_app
from orders.settings import load

from .conftest import Client

PAGES = ["/", "/docs"]
HERE = "http://shop"


def addresses(page: str, at: str) -> set[str]:
    """Return every address that *page* names, in attributes, styles and scripts, as a browser resolves it."""
    named = re.findall(r"""(?:src|href|action)\s*=\s*["']([^"']*)["']|url\(["']?([^"')]+)""", page)
    written = re.findall(r"""(?:https?:)?//[^\s"'<>)]+""", page)
    return {urljoin(at, one) for one in [*(first or second for first, second in named), *written]}


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_names_no_other_host_and_everything_it_names_is_there(shop: Client, path: str) -> None:
    page = await shop.get(path)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    found = addresses(page.text, f"{HERE}{path}")
    assert {urlsplit(address).netloc for address in found} == {"shop"}
    elsewhere = ("/products/", "/orders", "/dashboard/")  # not there yet, or for this machine only
    shown = [address for address in found if not urlsplit(address).path.startswith(elsewhere)]
    assert len(shown) >= 3
    for address in shown:
        assert (await shop.get(address)).is_success, address


@pytest.mark.parametrize("path", ["/favicon.svg", "/favicon.ico"])
async def test_there_is_an_icon(shop: Client, path: str) -> None:
    icon = await shop.get(path)
    assert (icon.status_code, icon.headers["content-type"]) == (200, "image/svg+xml")


async def test_the_first_page_says_what_this_is_and_where_to_look(shop: Client) -> None:
    page = (await shop.get("/")).text
    assert "order service over three databases" in page
    for path in ("/docs", "/health/live", "/health/ready"):
        assert f'href="{path}"' in page
    assert (await shop.head("/")).status_code == 200


async def test_the_order_on_the_first_page_is_a_confirmed_order(shop: Client) -> None:
    page = (await shop.get("/")).text
    commands = dict(
        re.findall(r"<pre[^>]*>curl (?:-X PUT )?http://shop(\S+) .*?-d '(.*?)'</pre>", page, re.DOTALL)
    )
    assert page.count("-H 'content-type: application/json'") == len(commands) == 2
    shop.headers["Content-Type"] = "application/json"
    assert (await shop.put("/products/85123A", content=commands["/products/85123A"])).status_code == 201
    answer = await shop.post("/orders", content=commands["/orders"])
    assert (answer.status_code, answer.json()["status"]) == (201, "confirmed")


async def test_redoc_whose_script_asks_another_host_for_a_logo_is_not_there(shop: Client) -> None:
    assert (await shop.get("/redoc")).status_code == 404


async def test_behind_a_proxy_the_pages_name_the_prefix(tmp_path: Path) -> None:
    app = create_app(load(tmp_path))
    transport = httpx2.ASGITransport(app=app, root_path="/shop")
    async with httpx2.AsyncClient(transport=transport, base_url="https://example.org") as client:
        page = (await client.get("/shop/")).text
        docs = (await client.get("/shop/docs")).text
        assert 'href="/shop/docs"' in page
        assert "curl https://example.org/shop/orders" in page
        for address in addresses(docs, "https://example.org/shop/docs"):
            assert address.startswith("https://example.org/shop/")
            assert (await client.get(address)).is_success, address


async def test_what_a_client_says_about_the_host_cannot_become_markup(shop: Client) -> None:
    page = (await shop.get("/", headers={"Host": 'x"><script>alert(1)</script>'})).text
    assert "<script>" not in page
