"""The tests' own interface to the fake, under /control: plain JSON, nothing of Ona's.

Resources are written in Ona's protobuf JSON; a field that Ona has not is an error. PUT of a
collection replaces it.
"""

import dataclasses
import json
from urllib.parse import parse_qs

from gitpod.v1.environment_pb2 import Environment
from gitpod.v1.event_pb2 import WatchEventsResponse
from gitpod.v1.group_pb2 import Group, GroupMembership, RoleAssignment
from gitpod.v1.organization_pb2 import OrganizationMember, OrganizationPolicies
from google.protobuf.json_format import ParseDict, ParseError

from world import ORGANIZATION, Faults


def parse(values, message):
    """A list of messages from JSON values."""
    return [ParseDict(value, message()) for value in values]


class Control:
    """The interface as an ASGI application."""

    def __init__(self, world):
        self.world = world

    async def __call__(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        query = {
            name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()
        }
        name, _, identifier = scope["path"].removeprefix("/control/").partition("/")
        try:
            handler = getattr(self, f"{scope['method']}_{name}".lower())
            arguments = [identifier] if identifier else []
            value = handler(*arguments, json.loads(body) if body else None, **query)
            answer = (await value if hasattr(value, "__await__") else value) or {}
            status = 200
        except (AttributeError, KeyError, TypeError, ValueError, ParseError) as error:
            status, answer = 400, {"error": f"{type(error).__name__}: {error}"}
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    def put_environments(self, *arguments, event="update_status"):
        """One at /control/environments/ID, or all without any hint."""
        *identifier, body = arguments
        if identifier:
            body["id"] = identifier[0]
            self.world.put_environment(ParseDict(body, Environment()), event)
        else:
            made = parse(body, Environment)
            self.world.environments.clear()
            for environment in made:
                self.world.put_environment(environment, "none")

    def delete_environments(self, identifier, _, event="delete"):
        """Removes one."""
        self.world.delete_environment(identifier, event)

    def put_members(self, body, event="user"):
        """All members."""
        self.world.put_members(parse(body, OrganizationMember), event != "none")

    def put_groups(self, body, event="group"):
        """All groups, with who is in them and what they are for."""
        memberships = {
            group: parse(members, GroupMembership)
            for group, members in body.get("memberships", {}).items()
        }
        assignments = parse(body.get("assignments", []), RoleAssignment)
        groups = parse(body.get("groups", []), Group)
        self.world.put_groups(groups, memberships, assignments, event != "none")

    def put_policies(self, body, event="update"):
        """The organization's policies."""
        policies = ParseDict({"organizationId": ORGANIZATION, **body}, OrganizationPolicies())
        self.world.policies = policies
        self.world.hint(event, "ORGANIZATION_POLICY", ORGANIZATION)

    def post_event(self, body):
        """Any hint, to all streams."""
        self.world.send(ParseDict(body, WatchEventsResponse()))

    def put_faults(self, body):
        """All faults; those not named are off."""
        self.world.faults = Faults(**body)

    def post_cut(self, _, how="clean"):
        """Ends all streams."""
        if how not in ("clean", "abort"):
            raise ValueError(f"how={how} is neither clean nor abort")
        return {"streams": self.world.cut(how)}

    def post_churn(self, body):
        """Flips environments, and answers when done."""
        return self.world.churn(body["ids"], body["events"], body["per_second"])

    def get_state(self, _):
        """What the fake has seen and holds."""
        return {
            "calls": self.world.calls,
            "streams": len(self.world.subscriptions),
            "environments": len(self.world.environments),
            "organization": ORGANIZATION,
            "faults": dataclasses.asdict(self.world.faults),
        }
