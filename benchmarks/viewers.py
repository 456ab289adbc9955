"""Viewers of the dashboard, as browsers behave: each has a page and its stream, and loads the page if it changed.

`python -m benchmarks.viewers PORT COUNT` prints a line as soon as all have their page, and goes on until ended.
"""

import asyncio
import json
import sys

_PAGE, _STREAM = "/dashboard/", "/dashboard/live/overview?mark="


async def main(port: int, count: int) -> None:
    """Look until cancelled."""
    marks = [await _load(port) for _ in range(count)]
    print("all look", flush=True)
    await asyncio.gather(*(_watch(port, mark) for mark in marks))


async def _load(port: int) -> str:
    """Load the page; return the mark that it carries."""
    reader, writer = await _ask(port, _PAGE)
    page = (await reader.read()).decode()
    writer.close()
    return page.partition('data-mark="')[2].partition('"')[0]


async def _watch(port: int, mark: str) -> None:
    reader, writer = await _ask(port, _STREAM + mark)
    name = ""
    while line := (await reader.readline()).decode():
        if line.startswith("event: "):
            name = line.removeprefix("event: ").strip()
        if line.startswith("data: ") and name == "changed" and json.loads(line.removeprefix("data: "))["ids"]:
            await _load(port)
    writer.close()


async def _ask(port: int, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n".encode())
    await writer.drain()
    return reader, writer


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
