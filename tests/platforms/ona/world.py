"""What the fake platform knows, and who listens: resources, hints, faults. No HTTP here.

A hint goes to the streams that asked for it at the moment it is made; nothing is kept for later
ones, since Ona replays nothing either.
"""

import asyncio
import collections
import dataclasses
import time

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from gitpod.v1.environment_pb2 import EnvironmentPhase
from gitpod.v1.event_pb2 import ResourceOperation, ResourceType, WatchEventsResponse
from gitpod.v1.organization_pb2 import OrganizationPolicies

ORGANIZATION = "019a0000-0000-7000-8000-000000000001"
SERVICE_ACCOUNT = "019a0000-0000-7000-8000-000000000002"
TOKEN = "ona-test-token"

RUNNING = EnvironmentPhase.Value("ENVIRONMENT_PHASE_RUNNING")
STOPPED = EnvironmentPhase.Value("ENVIRONMENT_PHASE_STOPPED")


def operation(name):
    """The operation that the control API calls so, such as "update_status"."""
    return ResourceOperation.Value(f"RESOURCE_OPERATION_{name.upper()}")


def kind(name):
    """The resource type of this short name, such as "ENVIRONMENT"."""
    return ResourceType.Value(f"RESOURCE_TYPE_{name}")


@dataclasses.dataclass
class Faults:
    """What goes wrong at present; every default is "nothing"."""

    # Which calls `status`, `garbage`, `hang` and `delay_ms` hit; none means all.
    methods: list = dataclasses.field(default_factory=list)
    token: str = TOKEN
    status: int | None = None
    retry_after: str | None = None
    delay_ms: float = 0
    garbage: bool = False
    hang: bool = False
    fail_after_pages: int | None = None
    drop_events: bool = False
    refuse_watch: bool = False

    def hit(self, method):
        """Whether the faults that are for certain methods are for this one."""
        return not self.methods or method in self.methods


class Subscription:
    """One WatchEvents call: what it wants, and the hints it has not sent yet."""

    def __init__(self, request):
        self.environment = request.environment_id
        self.filters = collections.defaultdict(list)
        for wanted in request.resource_type_filters:
            limits = (set(wanted.resource_ids), set(wanted.creator_ids))
            self.filters[wanted.resource_type].append(limits)
        self.pending = collections.deque()
        self.awake = asyncio.Event()
        # The client has the response's headers, as those leave with the first message.
        self.started = False
        self.gone = False
        self.error = None

    def wants(self, hint, creator):
        """Whether the request's scope and filters let this hint through."""
        if self.environment:
            return hint.resource_id == self.environment
        if not self.filters:
            return True
        # No creator is known of what is deleted, so that Ona does not look at it then.
        deleted = hint.operation == operation("delete")
        return any(
            (not ids or hint.resource_id in ids)
            and (not creators or deleted or creator in creators)
            for ids, creators in self.filters.get(hint.resource_type, ())
        )

    def push(self, hint):
        """Queues a hint."""
        self.pending.append(hint)
        self.awake.set()

    def end(self, error=None):
        """Ends it: with this error after all pending hints, or at once as the client has left."""
        self.error, self.gone = error, error is None
        self.awake.set()

    async def hints(self):
        """The hints as they come."""
        while not self.gone:
            while self.pending and not self.gone:
                self.started = True
                yield self.pending.popleft()
            if self.error:
                raise self.error
            self.awake.clear()
            await self.awake.wait()


class World:
    """The state of one organization."""

    def __init__(self):
        self.environments = {}
        self.members = {}
        self.groups = {}
        self.memberships = {}
        self.assignments = {}
        self.policies = OrganizationPolicies(organization_id=ORGANIZATION)
        self.faults = Faults()
        self.calls = collections.Counter()
        # By the client's address: on HTTP/1.1 a connection carries one stream at most.
        self.subscriptions = {}
        self.connections = {}
        self.urls = {}

    def send(self, hint):
        """Sends a hint to every stream, whatever it asked for."""
        if not self.faults.drop_events:
            for subscription in self.subscriptions.values():
                subscription.push(hint)

    def hint(self, what, resource, identifier, creator=""):
        """Tells the streams that want to know what happened to a resource."""
        if self.faults.drop_events or what == "none":
            return
        hint = WatchEventsResponse(
            operation=operation(what), resource_type=kind(resource), resource_id=identifier
        )
        for subscription in self.subscriptions.values():
            if subscription.wants(hint, creator):
                subscription.push(hint)

    def put_environment(self, environment, what):
        """Stores an environment; a known one keeps its place in the list."""
        self.environments[environment.id] = environment
        self.urls.pop(environment.id, None)
        self.hint(what, "ENVIRONMENT", environment.id, environment.metadata.creator.id)

    def delete_environment(self, identifier, what):
        """Forgets an environment."""
        del self.environments[identifier]
        self.urls.pop(identifier, None)
        self.hint(what, "ENVIRONMENT", identifier)

    def put_members(self, members, hints):
        """Replaces the members; a hint for each that came, went or changed."""
        before, self.members = self.members, {member.user_id: member for member in members}
        if hints:
            self.hint_differences("USER", before, self.members)

    def put_groups(self, groups, memberships, assignments, hints):
        """Replaces groups, their members and what they are for; a hint for each difference."""
        before = self.groups, self.memberships, self.assignments
        self.groups = {group.id: group for group in groups}
        self.memberships = memberships
        self.assignments = {assignment.id: assignment for assignment in assignments}
        if not hints:
            return
        self.hint_differences("GROUP", before[0], self.groups)
        for group in differences(before[1], self.memberships):
            self.hint("update", "GROUP_MEMBERSHIP_CHANGED", group)
        for identifier in differences(before[2], self.assignments):
            assignment = self.assignments.get(identifier) or before[2][identifier]
            self.hint("update", "ROLE_ASSIGNMENT_CHANGED", assignment.resource_id)

    def hint_differences(self, resource, before, after):
        """A create, update or delete for each resource that is not what it was."""
        for identifier in differences(before, after):
            what = (
                "delete"
                if identifier not in after
                else "update" if identifier in before else "create"
            )
            self.hint(what, resource, identifier)

    def flip(self, identifier):
        """Stops a running environment and starts any other, with the marks that leaves."""
        environment = self.environments[identifier]
        status, spec = environment.status, environment.spec
        if status.phase == RUNNING:
            # Ona names addresses only of what runs.
            self.urls[identifier] = status.environment_urls.SerializeToString()
            status.ClearField("environment_urls")
            status.phase = STOPPED
        else:
            if identifier in self.urls:
                status.environment_urls.ParseFromString(self.urls.pop(identifier))
            environment.metadata.last_started_at.GetCurrentTime()
            status.phase = RUNNING
        spec.desired_phase = status.phase
        spec.spec_version += 1
        status.status_version += 1
        self.hint("update_status", "ENVIRONMENT", identifier, environment.metadata.creator.id)

    async def churn(self, identifiers, events, per_second):
        """Flips environments in turn at this rate; tells of each what it was last, and when."""
        last, begin = {}, time.time()
        for number in range(events):
            # Only now and then, and late ones in a row: a sleep for each is too coarse.
            early = begin + number / per_second - time.time()
            if early > 0 or number % 100 == 0:
                await asyncio.sleep(max(early, 0))
            identifier = identifiers[number % len(identifiers)]
            self.flip(identifier)
            last[identifier] = time.time()
        return {
            "events": events,
            "seconds": time.time() - begin,
            "last": {
                identifier: {"phase": EnvironmentPhase.Name(phase), "unix_seconds": at}
                for identifier, at in last.items()
                for phase in [self.environments[identifier].status.phase]
            },
        }

    def cut(self, how):
        """Ends all streams: "clean" says so to the client, "abort" leaves it with half a message."""
        cut = list(self.subscriptions.items())
        for address, subscription in cut:
            if how == "clean":
                subscription.end(ConnectError(Code.UNAVAILABLE, "the stream was cut"))
                continue
            connection = self.connections[address]
            if subscription.started:
                # A chunk with the beginning of an envelope, of which no more will come.
                connection.write(b"6\r\n\x00\x00\x00\x00\x9c{\r\n")
            connection.abort()
        return len(cut)


def differences(before, after):
    """The keys under which there is not the same thing."""
    return [key for key in {**before, **after} if before.get(key) != after.get(key)]
