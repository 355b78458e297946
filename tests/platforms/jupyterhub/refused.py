"""Measures what a hub does whose proxy refuses, hangs or is not there: python refused.py [CASE ...]

Prints one line for each case; see wire.md.
"""

import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
import time

import aiohttp
import psutil

from stand_in import ADMIN, AGENT, Hub, Proxy, free

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


class Stage:
    """A hub and its proxy. The proxy answers `instead` to a method, if that is set."""

    def __init__(self, http, state):
        self.http, self.state, self.answers = http, state, {}
        self.proxy = Proxy(http)
        self.proxy.quiet = True
        self.proxy.instead = lambda request: self.answers.get(request.method)

    async def start(self, port=0, **more):
        await self.proxy.start(port)
        return await self.begin(**more)

    async def begin(self, **more):
        self.hub = Hub(self.state, self.proxy, **more)
        return self.hub

    def count(self, method=None):
        return sum(method in (None, seen["method"]) for seen in self.proxy.wire)

    def why(self):
        found = re.findall(
            r"^\[[EC] .*|^(?:\w+\.)*\w*(?:Error|Exception)\b.*", self.hub.logged(), re.M
        )
        return re.sub(r"^\[. \S+ \S+ ", "[", found[-1]) if found else ""

    async def beginning(self):
        try:
            ready = await self.hub.ready(90)
        except TimeoutError:
            return "still waits after 90 s"
        took = f"after {time.monotonic() - self.hub.started:.1f} s, {self.count()} requests"
        if ready:
            return f"runs {took}"
        return f"exit {self.hub.process.returncode} {took}: {self.why()}"

    async def spawn(self, name="alice"):
        began, since = time.monotonic(), self.count("POST")
        status, body = await self.hub.rest(ADMIN, "POST", f"users/{name}/server")
        at = f"{status} after {time.monotonic() - began:.1f} s"
        return at, body, since

    async def servers(self, name="alice"):
        _, user = await self.hub.rest(AGENT, "GET", "users?state=active")
        shown = [
            {k: server[k] for k in ("ready", "pending")}
            for user in user
            if user["name"] == name
            for server in user["servers"].values()
        ]
        below = [
            c
            for c in psutil.Process(self.hub.process.pid).children()
            if "singleuser" in " ".join(c.cmdline())
        ]
        return f"servers {shown}, processes {len(below)}"

    def routes(self):
        return f"routes {sorted(self.proxy.routes)}"

    async def end(self):
        if self.hub.process.poll() is None:
            await self.hub.end()


def at_start(name, **answers):
    async def run(stage):
        stage.answers = answers
        await stage.start()
        return await stage.beginning()

    CASES[name] = run


at_start("start_get_403", GET=403)
at_start("start_get_500", GET=500)
at_start("start_get_hang", GET="hang")
at_start("start_post_400", POST=400)
at_start("start_post_403", POST=403)
at_start("start_post_500", POST=500)
at_start("start_post_200", POST=200)


@case
async def start_down(stage):
    stage.proxy.api_port, stage.proxy.port = free(), 1
    await stage.begin()
    return await stage.beginning()


@case
async def start_down_5_s(stage):
    stage.proxy.api_port, stage.proxy.port = free(), 1
    await stage.begin()
    await asyncio.sleep(5)
    await stage.proxy.start(stage.proxy.api_port)
    return await stage.beginning()


@case
async def start_own_host_only(stage):
    await stage.start(HUB_ROUTESPEC="hub.test/")
    said = await stage.beginning()
    return (
        said,
        stage.proxy.wire,
        await stage.hub.rest(AGENT, "POST", "proxy"),
        stage.routes(),
        len(stage.proxy.wire),
    )


def later(name, during, after=0, **answers):
    """The proxy answers so from some time on, until that passes."""

    async def run(stage):
        await stage.start()
        assert await stage.hub.ready()
        if during == "stop":
            await stage.spawn()

        async def pass_by():
            await asyncio.sleep(after)
            stage.answers = {}

        stage.answers = answers
        passing = asyncio.create_task(pass_by()) if after else None
        began, since = time.monotonic(), len(stage.proxy.wire)
        how, path = {
            "spawn": ("POST", "users/alice/server"),
            "stop": ("DELETE", "users/alice/server"),
            "check": ("POST", "proxy"),
        }[during]
        status, body = await stage.hub.rest(ADMIN, how, path)
        said = [f"REST {status} after {time.monotonic() - began:.1f} s", body and str(body)[:150]]
        said.append(await stage.servers())
        await asyncio.sleep(25 if status == 202 else 3)
        said.append(["later", await stage.servers(), stage.routes()])
        seen = [
            f"{seen['method']} {seen.get('status', 'ok')} +{seen['at'] - began:.1f}"
            for seen in stage.proxy.wire[since:]
        ]
        stage.answers = {}
        stage.proxy.instead = lambda request: None
        said += [seen, stage.why()]
        said.append([await stage.hub.rest(AGENT, "POST", "proxy"), stage.routes()])
        said.append(["again", (await stage.spawn())[0], stage.routes()])
        if passing:
            await passing
        return said

    CASES[name] = run


later("spawn_403", "spawn", POST=403)
later("spawn_500", "spawn", POST=500)
later("spawn_503_for_8_s", "spawn", 8, POST=503)
later("spawn_507", "spawn", POST=507)
later("stop_403", "stop", DELETE=403)
later("stop_404", "stop", DELETE=404)
later("stop_500", "stop", DELETE=500)
later("stop_hang", "stop", 0, DELETE="hang")
later("check_403", "check", GET=403)
later("check_500", "check", GET=500)


@case
async def down_for_5_s_at_spawn(stage):
    await stage.start()
    assert await stage.hub.ready()
    await stage.proxy.api.cleanup()

    async def up():
        await asyncio.sleep(6)
        await stage.proxy.start(stage.proxy.api_port)

    upping = asyncio.create_task(up())
    said, _, _ = await stage.spawn()
    await upping
    return said, stage.routes()


@case
async def down_at_looks(stage):
    await stage.start(HUB_CHECK="2")
    assert await stage.hub.ready()
    await stage.spawn()
    await asyncio.sleep(3)
    said = [stage.count("GET")]
    await stage.proxy.api.cleanup()
    await asyncio.sleep(40)
    said.append([await stage.servers(), stage.hub.process.poll(), stage.why()])
    stage.proxy.routes = {}
    began = time.monotonic()
    await stage.proxy.start(stage.proxy.api_port)
    await stage.proxy.until(lambda seen: seen["at"] > began and seen["method"] == "POST")
    await asyncio.sleep(0.5)
    said.append(
        [
            f"routes again {stage.proxy.wire[-1]['at'] - began:.1f} s after it is back",
            stage.routes(),
        ]
    )
    return said


@case
async def looks_403_and_500(stage):
    await stage.start(HUB_CHECK="2")
    assert await stage.hub.ready()
    said = []
    for status in (403, 500):
        stage.answers = {"GET": status}
        since = stage.count()
        await asyncio.sleep(6 if status == 403 else 40)
        said.append([status, stage.count() - since, stage.hub.process.poll(), stage.why()])
    return said


@case
async def keys(stage):
    """What a hub makes of other forms of the keys in GET /api/routes."""
    await stage.start()
    assert await stage.hub.ready()
    await stage.spawn("zo%C3%AB%2Bx@example.org")
    right = stage.proxy.routes
    (user,) = (key for key in right if "user" in key)
    said = []

    def bodies(change):
        return {key: change(body) for key, body in right.items()}

    def without(name):
        return bodies(lambda body: {k: v for k, v in body.items() if k != name})

    for name, routes in {
        "slash at the end": {f"{key.rstrip('/')}/": body for key, body in right.items()},
        "no slash at the start": {key.lstrip("/") or "/": body for key, body in right.items()},
        "encoded": {"/": right["/"], user.replace("ë", "%C3%AB"): right[user]},
        "more in the body": bodies(lambda body: {**body, "last_activity": "2026-01-01T00:00:00Z"}),
        "no jupyterhub in the body": without("jupyterhub"),
        "no user in the body": without("user"),
        "hub at an empty key": {"": right["/"], user: right[user]},
    }.items():
        stage.proxy.routes = routes
        since = len(stage.proxy.wire)
        status = await stage.hub.rest(AGENT, "POST", "proxy")
        said.append(
            [name, status, [f"{s['method']} {s['path']}" for s in stage.proxy.wire[since + 1 :]]]
        )
        stage.proxy.routes = dict(right)
    return said


@case
async def hub_killed(stage):
    await stage.start()
    assert await stage.hub.ready()
    await stage.spawn()
    alice = await stage.hub.token("alice")
    for what in ("kernels", "terminals"):
        await stage.hub.visit(alice, "POST", f"/user/alice/api/{what}")
    below = psutil.Process(stage.hub.process.pid).children(recursive=True)
    os.kill(stage.hub.process.pid, signal.SIGKILL)
    stage.hub.process.wait()
    began = time.monotonic()
    _, left = psutil.wait_procs(below, 15)
    took = f"{time.monotonic() - began:.1f} s"
    return f"left over of {len(below)}: {left} after {took}", stage.routes()


@case
async def hub_without_state(stage):
    """Its directory goes while it runs, and it is to end."""
    await stage.start()
    assert await stage.hub.ready()
    await stage.spawn()
    shutil.rmtree(f"{stage.state}/hub")
    began = time.monotonic()
    code, left = await stage.hub.end()
    return f"exit {code} after {time.monotonic() - began:.1f} s, left over: {left}"


@case
async def hub_again(stage):
    """It ends while a server runs, and comes back with the same database."""
    await stage.start()
    assert await stage.hub.ready()
    await stage.spawn()
    since = len(stage.proxy.wire)
    ended = await stage.hub.end()
    said = [ended, f"{len(stage.proxy.wire) - since} requests", stage.routes()]
    os.truncate(f"{stage.state}/log", 0)
    since = len(stage.proxy.wire)
    await stage.begin()
    said.append([await stage.beginning(), await stage.servers(), stage.routes()])
    said.append([f"{s['method']} {s['path']}" for s in stage.proxy.wire[since:]])
    return said


@case
async def renamed(stage):
    """A named server gets another name, stopped and running, with a share on it."""
    await stage.start()
    assert await stage.hub.ready()
    alice, rest, said = await stage.hub.token("alice"), stage.hub.rest, []
    path = "users/alice/servers/lab"
    said.append((await rest(ADMIN, "POST", path))[0])
    said.append(["share", (await rest(alice, "POST", "shares/alice/lab", {"user": "carol"}))[0]])
    said.append(["running", await rest(alice, "PATCH", path, {"name": "other"}), stage.routes()])
    said.append(["stop", (await rest(alice, "DELETE", path))[0], stage.routes()])
    said.append(["stopped", (await rest(alice, "PATCH", path, {"name": "other"}))[0]])
    said.append((await rest(ADMIN, "POST", "users/alice/servers/other"))[0])
    shares = (await rest(AGENT, "GET", "shares/alice"))[1]["items"]
    said.append([(s["server"]["name"], s["scopes"], s["user"]) for s in shares])
    said.append(stage.routes())
    return said


async def run(name, http, limit):
    async with limit:
        with tempfile.TemporaryDirectory() as state:
            stage = Stage(http, state)
            try:
                said = await asyncio.wait_for(CASES[name](stage), 200)
            except Exception as error:
                said = repr(error)
            print(f"{name}: {said}\n", flush=True)
            await stage.end()


async def main():
    limit = asyncio.Semaphore(4)
    names = sys.argv[1:] or CASES
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        await asyncio.gather(*(run(name, http, limit) for name in names))


asyncio.run(main())
