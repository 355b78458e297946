"""A stand-in for configurable-http-proxy, and a hub below it.

For prove.py and refused.py, which run from this directory's own environment.
"""

import asyncio
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.parse
import uuid

import aiohttp
import psutil
from aiohttp import web
from yarl import URL

HERE = pathlib.Path(__file__).parent
NAMES = ("HUB_PROXY_TOKEN", "HUB_AGENT_TOKEN", "HUB_ADMIN_TOKEN")
TOKENS = {name: uuid.uuid4().hex for name in NAMES}
AGENT, ADMIN = TOKENS["HUB_AGENT_TOKEN"], TOKENS["HUB_ADMIN_TOKEN"]
# Not for the next hop, or made again by this one.
HOPS = {"connection", "keep-alive", "upgrade", "transfer-encoding", "content-length"}
HOPS |= {"sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions"}


def free():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def serve(handler, port=0):
    """Any request goes to the handler. Returns what ends it, and the port."""
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner, runner.addresses[0][1]


class Proxy:
    """Routes as the hub sets them, and a proxy that follows them."""

    def __init__(self, http):
        self.http = http
        self.routes = {}
        self.wire = []
        # Answers a request, or not (None).
        self.instead = lambda request: None
        self.quiet = False

    async def start(self, port=0):
        self.api, self.api_port = await serve(self.on_api, port)
        self.public, self.port = await serve(self.on_request)

    async def on_api(self, request):
        body = await request.text()
        seen = {"at": time.monotonic(), "method": request.method, "path": request.raw_path}
        seen["body"] = json.loads(body) if body else None
        self.wire.append(seen)
        if not self.quiet:
            print(f"> {request.method} {request.raw_path} {body}")
            if len(self.wire) == 1 or seen["body"] and "hub" in seen["body"]:
                print("".join(f">   {k.decode()}: {v.decode()}\n" for k, v in request.raw_headers))
        if request.headers.get("Authorization") != "token " + TOKENS["HUB_PROXY_TOKEN"]:
            return web.Response(status=403)
        if status := self.instead(request):
            seen["status"] = status
            if status == "hang":
                await asyncio.sleep(3600)
            return web.Response(status=status)
        path = urllib.parse.unquote(request.raw_path.removeprefix("/api/routes")) or "/"
        path = path.rstrip("/") or "/"
        if request.method == "GET":
            return web.json_response(self.routes)
        if request.method == "POST":
            self.routes[path] = seen["body"]
            return web.Response(status=201)
        return web.Response(status=404 if self.routes.pop(path, None) is None else 204)

    async def on_request(self, request):
        host = request.host.split(":")[0]
        path = urllib.parse.unquote(request.path)
        specs = [spec for spec in self.routes if f"/{host}{path}/".startswith(f"{spec}/")]
        target = self.routes[max(specs, key=len, default="/")]["target"]
        url = URL(target + request.raw_path, encoded=True)
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in HOPS]
        if request.headers.get("Upgrade", "").lower() == "websocket":
            try:
                back = await self.http.ws_connect(url, headers=headers)
            except aiohttp.WSServerHandshakeError as error:
                return web.Response(status=error.status)
            async with back:
                front = web.WebSocketResponse()
                await front.prepare(request)
                await asyncio.gather(pump(front, back), pump(back, front))
                return front
        body = await request.read()
        async with self.http.request(
            request.method, url, headers=headers, data=body or None, allow_redirects=False
        ) as answer:
            headers = [(k, v) for k, v in answer.headers.items() if k.lower() not in HOPS]
            return web.Response(status=answer.status, headers=headers, body=await answer.read())

    async def until(self, what, since=0, seconds=30):
        """The first request since then of which this holds."""
        for _ in range(seconds * 100):
            for seen in self.wire[since:]:
                if what(seen):
                    return seen
            await asyncio.sleep(0.01)
        raise TimeoutError(self.wire[since:])


async def pump(one, other):
    async for message in one:
        text = message.type is aiohttp.WSMsgType.TEXT
        await (other.send_str if text else other.send_bytes)(message.data)
    await other.close()


class Hub:
    """The hub as a process."""

    def __init__(self, state, proxy, **more):
        self.proxy, self.http = proxy, proxy.http
        self.log = open(f"{state}/log", "a+")
        self.started = time.monotonic()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HUB_")}
        environment |= TOKENS | {"HUB_STATE": f"{state}/hub", "HUB_BIND": f"127.0.0.1:{free()}"}
        environment["HUB_PUBLIC"] = f"http://hub.test:{proxy.port}"
        environment["HUB_PROXY_API"] = f"http://127.0.0.1:{proxy.api_port}"
        environment |= more
        self.api = f"http://{environment['HUB_BIND']}/hub/api/"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", "-f", HERE / "jupyterhub_config.py"],
            stdin=subprocess.PIPE,
            stdout=self.log,
            stderr=self.log,
            env=environment,
            cwd=state,
        )

    def logged(self):
        self.log.seek(0)
        return self.log.read()

    async def ready(self, seconds=60):
        """Whether it runs, or has ended."""
        for _ in range(seconds * 20):
            if "\nlistening " in "\n" + self.logged():
                return True
            if self.process.poll() is not None:
                return False
            await asyncio.sleep(0.05)
        raise TimeoutError(self.logged())

    async def rest(self, token, method, path, body=None, accept="application/json"):
        """The hub's REST API: status and JSON."""
        headers = {"Authorization": f"token {token}", "Accept": accept}
        url = URL(self.api + path, encoded=True)
        async with self.http.request(method, url, headers=headers, json=body) as answer:
            text = await answer.text()
            try:
                return answer.status, json.loads(text) if text else None
            except ValueError:
                return answer.status, text

    async def token(self, user):
        """A token with all that a user may."""
        _, made = await self.rest(ADMIN, "POST", f"users/{user}/tokens", {})
        return made["token"]

    async def visit(self, token, method, path, host="alice.hub.test"):
        """As a browser with this token, through the proxy."""
        headers = {"Host": f"{host}:{self.proxy.port}"} | (
            {"Authorization": f"token {token}"} if token else {}
        )
        url = f"http://127.0.0.1:{self.proxy.port}{path}"
        async with self.http.request(method, url, headers=headers, allow_redirects=False) as answer:
            return answer.status, answer.headers.get("Location"), await answer.text()

    def socket(self, token, path, host="alice.hub.test"):
        # Without this header the token in the URL is ignored.
        headers = {"Host": f"{host}:{self.proxy.port}", "Sec-Fetch-Mode": "websocket"}
        url = f"http://127.0.0.1:{self.proxy.port}{path}?token={token}"
        return self.http.ws_connect(url, headers=headers)

    async def end(self):
        """Ends it as the test does, and says what is left of it."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        self.process.stdin.close()
        code = await asyncio.to_thread(self.process.wait, 30)
        return code, (await asyncio.to_thread(psutil.wait_procs, below, 10))[1]
