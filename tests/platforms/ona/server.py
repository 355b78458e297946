"""A fake of Ona's API (formerly Gitpod Flex) on loopback, for the tests of its provider.

Theirs, from the package gitpod-sdk: messages, limits (rules.py), paths, codecs, envelopes, errors
and the server side of Connect. Ours: what there is to tell (world.py, services.py), the interface by
which a test changes it (control.py), and the misbehaviour.

Prints `listening http://127.0.0.1:PORT`, and ends, streams and all, when its standard input does.
The API is at / and, as with Ona, at /api. What their documents leave open is a guess here: that a
token of a page is a place in the list, so that rows move between pages when the list changes; that
archived environments are listed only when asked for; and which identifier a hint about a
membership (the group's) or a role assignment (the resource's) bears.
"""

import asyncio
import os
import socket
import sys
import threading

import uvicorn
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from gitpod.v1.environment_connect import EnvironmentServiceASGIApplication
from gitpod.v1.event_connect import EventServiceASGIApplication
from gitpod.v1.group_connect import GroupServiceASGIApplication
from gitpod.v1.identity_connect import IdentityServiceASGIApplication
from gitpod.v1.organization_connect import OrganizationServiceASGIApplication
from uvicorn.protocols.http.h11_impl import H11Protocol

import rules
from control import Control
from services import Environments, Events, Groups, Identities, Organizations
from world import World

# Connect's code for the HTTP status that a test asks for.
CODES = {
    400: "invalid_argument",
    401: "unauthenticated",
    403: "permission_denied",
    404: "not_found",
    429: "resource_exhausted",
    500: "internal",
    503: "unavailable",
}


class Entrance:
    """What each call passes before its service sees it: the token, then the stated limits."""

    def __init__(self, world):
        self.world = world

    def check(self, request, ctx):
        """Refuses who may not call, and what may not be asked."""
        if ctx.request_headers.get("authorization") != f"Bearer {self.world.faults.token}":
            raise ConnectError(Code.UNAUTHENTICATED, "invalid or missing token")
        rules.check(request)

    async def intercept_unary(self, call_next, request, ctx):
        self.check(request, ctx)
        return await call_next(request, ctx)

    def intercept_server_stream(self, call_next, request, ctx):
        self.check(request, ctx)
        return call_next(request, ctx)


class Application:
    """Leads a request to the service or the control interface, unless it is to fail before."""

    def __init__(self, world):
        self.world = world
        self.control = Control(world)
        entrance = [Entrance(world)]
        self.services = {
            application.path: application
            for application in [
                EnvironmentServiceASGIApplication(Environments(world), interceptors=entrance),
                EventServiceASGIApplication(Events(world), interceptors=entrance),
                OrganizationServiceASGIApplication(Organizations(world), interceptors=entrance),
                GroupServiceASGIApplication(Groups(world), interceptors=entrance),
                IdentityServiceASGIApplication(Identities(), interceptors=entrance),
            ]
        }

    async def __call__(self, scope, receive, send):
        if scope["path"].startswith("/control/"):
            return await self.control(scope, receive, send)
        path = scope["path"].removeprefix("/api")
        service, _, method = path.rpartition("/")
        if service not in self.services:
            return await answer(send, 404, b"text/plain", b"404 page not found\n")
        self.world.calls[method] += 1
        if self.world.faults.hit(method) and await self.fail(method, receive, send):
            return None
        return await self.services[service](
            {**scope, "path": path}, self.watched(scope, receive), send
        )

    async def fail(self, method, receive, send):
        """Misbehaves as told; false if that leaves a call to be answered."""
        faults = self.world.faults
        await asyncio.sleep(faults.delay_ms / 1000)
        if faults.hang:
            while (await receive())["type"] != "http.disconnect":
                pass
        elif faults.status:
            after = [(b"retry-after", faults.retry_after.encode())] if faults.retry_after else []
            if faults.status in CODES:
                body = b'{"code":"%s","message":"told to fail"}' % CODES[faults.status].encode()
                await answer(send, faults.status, b"application/json", body, after)
            else:
                # An error of a proxy in between, which does not speak Connect.
                await answer(
                    send, faults.status, b"text/html", b"<html>told to fail</html>\n", after
                )
        elif faults.garbage:
            stream = method == "WatchEvents"
            media = b"application/connect+json" if stream else b"application/json"
            await answer(send, 200, media, b"\xff\xfe{not JSON")
        return bool(faults.hang or faults.status or faults.garbage)

    def watched(self, scope, receive):
        """Lets a stream end when its client leaves; their code notices only at the next message."""
        address = "{}:{}".format(*scope["client"])

        async def receive_and_look():
            message = await receive()
            if message["type"] == "http.disconnect" and address in self.world.subscriptions:
                self.world.subscriptions[address].end()
            return message

        return receive_and_look


async def answer(send, status, media, body, headers=()):
    """A whole response."""
    headers = [(b"content-type", media), *headers]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main():
    """Serves until standard input ends."""
    world = World()

    class Connection(H11Protocol):
        """One of uvicorn's whose transport can be found, to cut it off."""

        def connection_made(self, transport):
            super().connection_made(transport)
            self.address = "{}:{}".format(*self.client)
            world.connections[self.address] = transport

        def connection_lost(self, exc):
            world.connections.pop(self.address, None)
            super().connection_lost(exc)

    def end_with_input():
        sys.stdin.buffer.read()
        # A graceful end would wait for the streams.
        os._exit(0)

    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    # Handed down to connections. Else the second part of an answer waits for the client's late ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=end_with_input, daemon=True).start()
    config = uvicorn.Config(
        Application(world),
        http=Connection,
        lifespan="off",
        # Streams are told by the real address.
        proxy_headers=False,
        log_level="warning",
        # A client's pool must not meet a connection that ends just then, unless a test wants it.
        timeout_keep_alive=3600,
        timeout_graceful_shutdown=0,
    )
    print("listening http://{}:{}".format(*listener.getsockname()), flush=True)
    asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


main()
