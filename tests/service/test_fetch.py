"""What is fetched on a client's word, and from where never."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from service.fetch import MAX_REDIRECTS, NotFetched, TooLarge, fetch, is_public, public_socket, target

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Site:
    """A web server on loopback that remembers who asked it for what."""

    def __init__(self, server: TestServer) -> None:
        self.url = server.make_url("/")
        self.trusted = (f"{self.url.host}:{self.url.port}",)
        self.asked: list[web.Request] = []

    async def fetch(self, path: str, *, max_bytes: int = 100) -> bytes:
        return await fetch(self.url.join(URL(path)), max_bytes=max_bytes, trusted=self.trusted)


@asynccontextmanager
async def site(answer: Answer, trust: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
    async def remembered(request: web.Request) -> web.StreamResponse:
        running.asked.append(request)
        return await answer(request)

    app = web.Application()
    app.router.add_get("/{path:.*}", remembered)
    server = TestServer(app)
    await server.start_server(ssl=trust)
    running = Site(server)
    try:
        yield running
    finally:
        await server.close()


async def say(_: web.Request) -> web.Response:
    return web.Response(body=b"x" * 100)


async def test_what_is_there_is_fetched_and_nothing_of_us_is_told() -> None:
    seen: list[int] = []
    async with site(say) as there:
        data = await fetch(there.url, max_bytes=100, trusted=there.trusted, on_bytes=seen.append)
        headers = there.asked[0].headers
    assert (data, sum(seen)) == (b"x" * 100, 100)
    assert headers["User-Agent"] == "codex-completions"
    assert headers["Accept-Encoding"] == "identity"
    assert not {"Cookie", "Authorization", "Referer"} & headers.keys()


@pytest.mark.parametrize("told", [True, False])
async def test_more_than_was_to_be_read_is_not_read(told: bool) -> None:
    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "99999"} if told else {})
        await response.prepare(request)
        try:
            for _ in range(10_000):
                await response.write(b"x" * 1000)
        except ConnectionError:
            pass
        return response

    async with site(flood) as there:
        with pytest.raises(TooLarge):
            await there.fetch("/")


@pytest.mark.parametrize(
    "response",
    [
        lambda: web.Response(status=404, body=b"no"),
        lambda: web.Response(status=206, body=b"part"),
        lambda: web.Response(status=204),
        lambda: web.Response(body=b"x", headers={"Content-Encoding": "gzip"}),
        lambda: web.Response(status=302),
        lambda: web.Response(status=302, headers={"Location": "http://["}),
        lambda: web.Response(status=302, headers={"Location": "file:///etc/passwd"}),
        lambda: web.Response(status=302, headers={"Location": "gopher://127.0.0.1:1/"}),
        lambda: web.Response(status=302, headers={"Location": "http://example.com/"}),
        lambda: web.Response(status=302, headers={"Location": "https://name:word@example.com/"}),
        lambda: web.Response(status=302, headers={"Location": "/again"}),
    ],
)
async def test_whatever_is_not_the_thing_itself_is_nothing(response: Callable[[], web.Response]) -> None:
    async def answer(_: web.Request) -> web.Response:
        return response()

    async with site(answer) as there:
        with pytest.raises(NotFetched):
            await there.fetch("/")
        assert len(there.asked) <= MAX_REDIRECTS + 1


async def test_a_redirect_is_followed_and_looked_at_like_any_address() -> None:
    async def elsewhere(request: web.Request) -> web.Response:
        return web.Response(body=b"here") if request.path == "/there" else web.Response(status=307, headers=to)

    async with site(elsewhere) as there, site(say) as other:
        to = {"Location": "/there"}
        assert await there.fetch("/") == b"here"
        to = {"Location": str(other.url)}  # trusted is a host with its port, not the machine
        with pytest.raises(NotFetched):
            await there.fetch("/")
        to = {"Location": f"https://127.0.0.1:{other.url.port}/"}
        with pytest.raises(NotFetched):
            await there.fetch("/")
        assert not other.asked


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "[::ffff:127.0.0.1]", "0.0.0.0"],  # noqa: S104 - one is asked, not bound to
)
async def test_no_name_and_no_notation_of_this_machine_is_asked_anything(host: str) -> None:
    async with site(say) as there:
        connector = aiohttp.TCPConnector(socket_factory=public_socket)
        async with aiohttp.ClientSession(connector=connector) as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"http://{host}:{there.url.port}/")
        with pytest.raises((aiohttp.ClientError, OSError)):
            await fetch(URL(f"http://{host}:{there.url.port}/"), max_bytes=100)
        assert not there.asked


async def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with site(say) as proxy, site(say) as there:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, str(proxy.url))
        assert await there.fetch("/") == b"x" * 100
        assert not proxy.asked


@pytest.fixture
def certificate(tmp_path: Path) -> ssl.SSLContext:
    """What a server needs to say that it is 127.0.0.1."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is needed to make a certificate")
    made = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    subprocess.run([*made.split(), *files], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return context


async def test_a_server_has_to_prove_who_it_is(certificate: ssl.SSLContext, tmp_path: Path) -> None:
    async with site(say, certificate) as there:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await there.fetch("/")
        trust = ssl.create_default_context(cafile=tmp_path / "cert.pem")
        assert await fetch(there.url, max_bytes=100, trusted=there.trusted, trust=trust) == b"x" * 100


async def test_a_deadline_ends_the_wait_for_whoever_says_nothing() -> None:
    async def silent(_: web.Request) -> web.Response:
        await asyncio.get_running_loop().create_future()
        return web.Response()

    async with site(silent) as there:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await there.fetch("/")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "picture.png",
        "//example.com/a.png",
        "ftp://example.com/a.png",
        "file:///etc/passwd",
        "https://",
        "https://[::1",
        "http://example.com/a.png",
        "https://example.com:8443/a.png",
        "https://example.com:99999/a.png",
        "https://name@example.com/a.png",
        "https://name:word@example.com/a.png",
        "http://files.internal:81/a.png",
    ],
)
def test_an_address_is_https_and_nothing_else(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - which of them it is says nothing
        target(url, ("files.internal:80",))


@pytest.mark.parametrize(
    "url", ["https://example.com/a.png?b=c", "https://EXAMPLE.com:443/", "http://files.internal/a", "https://two:5/"]
)
def test_an_address_that_may_be_asked_stays_what_it_is(url: str) -> None:
    assert target(url, ("files.internal:80", "two")) == URL(url)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001:81b::200e"]
)
def test_a_public_address_may_be_asked(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",  # noqa: S104 - an address that is not bound to
        "10.1.2.3",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "::ffff:0:127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1",
        "2002:7f00:1::",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "localhost",
        "",
    ],
)
def test_any_other_address_may_not(address: str) -> None:
    assert not is_public(address)
