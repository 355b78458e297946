"""Shows what a hub does with a proxy that is not its own: python prove.py

A stand-in for configurable-http-proxy (its REST API and a plain reverse proxy) runs here, and the
hub of jupyterhub_config.py below it. Each request of the hub is printed as it came. Exit 0: all is
as wire.md says.
"""

import asyncio
import json
import tempfile
import time
import uuid

import aiohttp
import psutil

from stand_in import ADMIN, AGENT, Hub, Proxy


def said(what, value):
    print(
        f"{what}: {json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value}"
    )
    return value


async def shown(state, http):
    """Starts the hub, and ends it however this goes."""
    proxy = Proxy(http)
    await proxy.start()
    hub = Hub(state, proxy)
    try:
        await through(proxy, hub)
    finally:
        # Before its directory goes.
        hub.process.stdin.close()
        hub.process.wait(30)


async def through(proxy, hub):
    """The whole life of a hub."""
    assert await hub.ready(), hub.logged()
    took = lambda since: f"{time.monotonic() - since:.2f} s"  # noqa: E731
    said("hub ready after", took(hub.started))
    assert [(seen["method"], seen["path"]) for seen in proxy.wire[:3]] == [
        ("GET", "/api/routes"),
        ("GET", "/api/routes"),
        ("POST", "/api/routes/"),
    ]
    assert proxy.wire[2]["body"] == {
        "hub": True,
        "target": hub.api.removesuffix("/hub/api/"),
        "jupyterhub": True,
    }
    tokens = {user: await hub.token(user) for user in ("alice", "bob", "carol", "dave")}

    # Servers: an own one, a named one, one of a user with an odd name.
    for path, wire, server in [
        ("users/alice/server", "/alice.hub.test/user/alice", ""),
        (
            "users/alice/servers/lab-2",
            "/alice.hub.test/user/alice/lab-2",
            "lab-2",
        ),
        (
            "users/zo%C3%AB%2Bx@example.org/server",
            "/u-zoxexamp--HASH.hub.test/user/zo%C3%AB%2Bx@example.org",
            "",
        ),
    ]:
        since, began = len(proxy.wire), time.monotonic()
        status, _ = await hub.rest(ADMIN, "POST", path)
        said(f"POST {path}", f"{status} after {took(began)}")
        seen = await proxy.until(lambda seen: seen["method"] == "POST", since)
        said("the route came after", f"{seen['at'] - began:.2f} s")
        head, dash, _ = wire.partition("HASH")
        assert seen["path"].startswith("/api/routes" + head), seen
        assert dash or seen["path"] == "/api/routes" + wire, seen
        assert seen["body"]["server_name"] == server and seen["body"]["jupyterhub"] is True
    print("GET /api/routes must answer", json.dumps(proxy.routes, indent=1, ensure_ascii=False))

    # What the hub makes of it, and what the agent reads.
    said("GET proxy", await hub.rest(AGENT, "GET", "proxy"))
    paged = "application/jupyterhub-pagination+json"
    said("GET users", await hub.rest(AGENT, "GET", "users?state=ready"))
    said(
        "the same", await hub.rest(AGENT, "GET", "users?state=ready&limit=1&offset=1", None, paged)
    )

    # A kernel and a terminal, through the proxy.
    status, _, text = await hub.visit(tokens["alice"], "POST", "/user/alice/api/kernels")
    assert status == 201, text
    message = {"channel": "shell", "parent_header": {}, "metadata": {}, "buffers": []}
    message["header"] = {
        "msg_type": "execute_request",
        "msg_id": uuid.uuid4().hex,
        "version": "5.3",
    }
    message["header"] |= {"username": "", "session": uuid.uuid4().hex}
    message["content"] = {"code": "1+1", "silent": False, "store_history": False}
    began = time.monotonic()
    path = f"/user/alice/api/kernels/{json.loads(text)['id']}/channels"
    async with asyncio.timeout(60), hub.socket(tokens["alice"], path) as ws:
        await ws.send_json(message)
        async for message in ws:
            message = json.loads(message.data)
            if message["msg_type"] == "execute_result":
                break
    assert message["content"]["data"]["text/plain"] == "2"
    said("kernel: 1+1 is 2 after", took(began))
    status, _, text = await hub.visit(tokens["alice"], "POST", "/user/alice/api/terminals")
    assert status == 200, text
    name, written = json.loads(text)["name"], ""
    path = f"/user/alice/terminals/websocket/{name}"
    async with asyncio.timeout(60), hub.socket(tokens["alice"], path) as ws:
        await ws.send_json(["stdin", "echo $((40+2))=\r"])
        async for message in ws:
            kind, *rest = json.loads(message.data)
            written += rest[0] if kind == "stdout" else ""
            if "42=" in written:
                break
    said("terminal", "echo $((40+2))= wrote 42=")
    try:
        async with hub.socket(tokens["bob"], path):
            raise AssertionError("bob has alice's terminal")
    except aiohttp.WSServerHandshakeError as error:
        said("bob at alice's terminal", error.status)

    # Who comes in, and where those go who have no token.
    for who, token in [*tokens.items(), ("anonymous", None)]:
        status, location, _ = await hub.visit(token, "GET", "/user/alice/api/contents")
        said(f"{who} at alice's server", f"{status} {location or ''}")
        assert status == (200 if who == "alice" else 403)
    said("anonymous at alice's page", await hub.visit(None, "GET", "/user/alice/"))
    said("alice.hub.test/", (await hub.visit(None, "GET", "/"))[:2])
    said("alice.hub.test/hub/login", (await hub.visit(None, "GET", "/hub/login"))[:2])
    said("hub.test/user/alice/", (await hub.visit(None, "GET", "/user/alice/", "hub.test"))[:2])
    said(
        "bob.hub.test, not running",
        (await hub.visit(None, "GET", "/user/bob/", "bob.hub.test"))[:2],
    )

    # Sharing, by alice herself.
    for grantee in ({"user": "carol"}, {"group": "team"}):
        answer = await hub.rest(tokens["alice"], "POST", "shares/alice/", grantee)
        said(f"POST shares/alice/ {grantee}", answer)
        assert answer[0] == 200
    said("GET shares/alice", await hub.rest(AGENT, "GET", "shares/alice"))
    said("paged", await hub.rest(AGENT, "GET", "shares/alice?limit=1", None, paged))
    for path in ("shares/alice/", "shares/bob", "shares/bob/", "shares/missing"):
        said(f"GET {path}", await hub.rest(AGENT, "GET", path))
    status, _, _ = await hub.visit(tokens["carol"], "GET", "/user/alice/api/contents")
    said("carol with the token that the server knows from before", status)
    for who in ("bob", "carol", "dave"):
        # The server keeps for 5 minutes what it was told of a token, so this takes a new one.
        tokens[who] = await hub.token(who)
        status, _, _ = await hub.visit(tokens[who], "GET", "/user/alice/api/contents")
        said(f"{who} at alice's shared server", status)
        # JupyterHub 6.1.1 forgets groups' shares when it looks at a token: dave stays outside.
        assert status == (200 if who == "carol" else 403)
    answer = await hub.rest(tokens["alice"], "PATCH", "shares/alice/", {"user": "carol"})
    said("PATCH shares/alice/ (carol no more)", answer)
    status, _, _ = await hub.visit(tokens["carol"], "GET", "/user/alice/api/contents")
    said("carol at once after that, at the server itself", status)

    # A proxy that forgot everything and has something strange.
    before = {k: dict(v) for k, v in proxy.routes.items()}
    proxy.routes = {
        "/mallory.hub.test/user/mallory": {
            "user": "mallory",
            "server_name": "",
            "target": "http://127.0.0.1:1",
            "jupyterhub": True,
        },
        "/ours": {"target": "http://127.0.0.1:2"},
    }
    began = time.monotonic()
    said("POST proxy", await hub.rest(AGENT, "POST", "proxy"))
    said("all routes again after", took(began))
    assert proxy.routes.pop("/ours") and proxy.routes == before
    since = len(proxy.wire)
    await hub.rest(AGENT, "POST", "proxy")
    assert [seen["method"] for seen in proxy.wire[since:]] == ["GET"]

    # Stopped by request; by itself.
    for path in ("users/alice/servers/lab-2", "users/zo%C3%AB%2Bx@example.org/server"):
        since, began = len(proxy.wire), time.monotonic()
        answer = await hub.rest(ADMIN, "DELETE", path)
        said(f"DELETE {path}", f"{answer} after {took(began)}")
        seen = await proxy.until(lambda seen: seen["method"] == "DELETE", since)
        said("the route went after", f"{seen['at'] - began:.3f} s")
    since, began = len(proxy.wire), time.monotonic()
    (alice,) = (
        child
        for child in psutil.Process(hub.process.pid).children()
        if child.environ()["JUPYTERHUB_USER"] == "alice"
    )
    alice.kill()
    seen = await proxy.until(lambda seen: seen["method"] == "DELETE", since)
    said("server killed: the route went after", f"{seen['at'] - began:.2f} s")
    assert list(proxy.routes) == ["/"]
    await hub.rest(ADMIN, "POST", "users/bob/server")
    began, since = time.monotonic(), len(proxy.wire)
    code, left = await hub.end()
    said("hub ended", f"{code} after {took(began)}, left over: {left}")
    said("routes at its end", [seen["method"] for seen in proxy.wire[since:]])
    assert not left


async def main():
    with tempfile.TemporaryDirectory() as state:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
            await shown(state, http)


if __name__ == "__main__":
    asyncio.run(main())
