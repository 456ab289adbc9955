"""The socket that the service listens on."""

import asyncio
import socket

import pytest

from orders.serving import AddressUnusable, _bound


async def test_answers_do_not_wait_for_the_client_to_acknowledge_their_head() -> None:
    delays: asyncio.Queue[int] = asyncio.Queue()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted: socket.socket = writer.get_extra_info("socket")
        delays.put_nowait(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    with _bound("127.0.0.1", 0) as listener:
        async with await asyncio.start_server(answer, sock=listener):
            _, client = await asyncio.open_connection(*listener.getsockname())
            async with asyncio.timeout(20):
                assert await delays.get() != 0
            client.close()


def test_a_port_that_is_taken_is_told() -> None:
    with _bound("127.0.0.1", 0) as first:
        first.listen()
        port = first.getsockname()[1]
        with pytest.raises(AddressUnusable, match=rf"cannot listen on 127.0.0.1:{port} .*choose another --port"):
            _bound("127.0.0.1", port)


@pytest.mark.parametrize("host", ["nosuch.invalid", "192.0.2.7", "x" * 64 + ".example"])
def test_a_host_that_is_not_here_is_told(host: str) -> None:
    with pytest.raises(AddressUnusable, match=r"cannot listen on .*choose another --host"):
        _bound(host, 0)
