"""Ona's services, as far as our provider asks them: each answers from the world.

A method that is not here is theirs to answer: unimplemented.
"""

import base64
import itertools
import re

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from gitpod.v1.environment_connect import EnvironmentService
from gitpod.v1.environment_pb2 import (
    GetEnvironmentResponse,
    ListEnvironmentsRequest,
    ListEnvironmentsResponse,
)
from gitpod.v1.event_connect import EventService
from gitpod.v1.group_connect import GroupService
from gitpod.v1.group_pb2 import (
    ListGroupsResponse,
    ListMembershipsResponse,
    ListRoleAssignmentsResponse,
)
from gitpod.v1.identity_connect import IdentityService
from gitpod.v1.identity_pb2 import (
    PRINCIPAL_SERVICE_ACCOUNT,
    GetAuthenticatedIdentityResponse,
    Subject,
)
from gitpod.v1.organization_connect import OrganizationService
from gitpod.v1.organization_pb2 import GetOrganizationPoliciesResponse, ListMembersResponse
from gitpod.v1.pagination_pb2 import SORT_ORDER_DESC, PaginationResponse

import rules
from world import ORGANIZATION, SERVICE_ACCOUNT, Subscription


def page(rows, pagination):
    """One page of the rows, and how to ask for the next; the number of the page comes first."""
    size = pagination.page_size or 25
    start = 0
    if pagination.token:
        try:
            place = re.fullmatch(rb"after:(\d+)", base64.urlsafe_b64decode(pagination.token))
        except ValueError:
            place = None
        if not place:
            rules.refuse("pagination.token is none that was given out")
        start = int(place[1])
    found = list(itertools.islice(rows, start, start + size + 1))
    token = (
        base64.urlsafe_b64encode(b"after:%d" % (start + size)).decode() if len(found) > size else ""
    )
    return start // size, {"pagination": PaginationResponse(next_token=token)}, found[:size]


def only(request, *names):
    """Refuses a filter that this fake would ignore."""
    for field, _ in request.ListFields():
        if field.name not in names:
            raise ConnectError(Code.UNIMPLEMENTED, f"this fake does not know {field.full_name}")


def among(value, wanted):
    """Whether a filter lets this value through: an empty one lets any."""
    return not wanted or value in wanted


class Environments(EnvironmentService):
    """What to route to."""

    def __init__(self, world):
        self.world = world

    async def get_environment(self, request, ctx):
        environment = self.world.environments.get(request.environment_id)
        if not environment:
            raise ConnectError(Code.NOT_FOUND, "environment not found")
        return GetEnvironmentResponse(environment=environment)

    async def list_environments(self, request, ctx):
        only(request, "pagination", "filter", "sort")
        only(
            request.filter,
            "status_phases",
            "creator_ids",
            "runner_ids",
            "project_ids",
            "roles",
            "archival_status",
        )
        wanted, sort = request.filter, request.sort
        phases = set(wanted.status_phases)
        archived = {
            ListEnvironmentsRequest.ARCHIVAL_STATUS_ARCHIVED: [True],
            ListEnvironmentsRequest.ARCHIVAL_STATUS_ALL: [False, True],
        }.get(wanted.archival_status, [False])

        def fits(environment):
            metadata = environment.metadata
            return (
                among(environment.status.phase, phases)
                and among(metadata.creator.id, wanted.creator_ids)
                and among(metadata.runner_id, wanted.runner_ids)
                and among(metadata.project_id, wanted.project_ids)
                and among(metadata.role, wanted.roles)
                and among(metadata.HasField("archived_at"), archived)
            )

        everything = list(self.world.environments.values())
        if sort.field == ListEnvironmentsRequest.SORT_FIELD_ID:
            everything.sort(key=lambda environment: environment.id)
            if sort.order == SORT_ORDER_DESC:
                everything.reverse()
        else:
            everything.reverse()  # Newest first.
        number, rest, found = page(filter(fits, everything), request.pagination)
        failing = self.world.faults.fail_after_pages
        if failing is not None and number >= failing:
            raise ConnectError(Code.UNAVAILABLE, "no more pages for now")
        return ListEnvironmentsResponse(environments=found, **rest)


class Events(EventService):
    """What to look at again."""

    def __init__(self, world):
        self.world = world

    async def watch_events(self, request, ctx):
        if self.world.faults.refuse_watch:
            raise ConnectError(Code.UNAVAILABLE, "no streams for now")
        if request.environment_id and request.resource_type_filters:
            rules.refuse("resourceTypeFilters are for organization = true")
        subscription = self.world.subscriptions[ctx.client_address] = Subscription(request)
        try:
            async for hint in subscription.hints():
                yield hint
        finally:
            if self.world.subscriptions.get(ctx.client_address) is subscription:
                del self.world.subscriptions[ctx.client_address]


class Organizations(OrganizationService):
    """Who there is, and what they may at most."""

    def __init__(self, world):
        self.world = world

    async def list_members(self, request, ctx):
        own(request)
        only(request, "pagination", "organization_id", "filter")
        only(request.filter, "statuses", "roles", "user_ids", "email")
        wanted = request.filter
        members = (
            member
            for member in self.world.members.values()
            if among(member.status, wanted.statuses)
            and among(member.role, wanted.roles)
            and among(member.user_id, wanted.user_ids)
            and wanted.email in ("", member.email)
        )
        _, rest, found = page(members, request.pagination)
        return ListMembersResponse(members=found, **rest)

    async def get_organization_policies(self, request, ctx):
        own(request)
        return GetOrganizationPoliciesResponse(policies=self.world.policies)


def own(request):
    """Refuses requests about another organization."""
    if request.organization_id != ORGANIZATION:
        raise ConnectError(Code.PERMISSION_DENIED, "not a member of this organization")


class Groups(GroupService):
    """Who shares what with whom."""

    def __init__(self, world):
        self.world = world

    async def list_groups(self, request, ctx):
        wanted = request.filter
        only(wanted, "group_ids", "system_managed", "direct_share")
        groups = (
            group
            for group in self.world.groups.values()
            if among(group.id, wanted.group_ids)
            and (
                not wanted.HasField("system_managed")
                or group.system_managed == wanted.system_managed
            )
            and (not wanted.HasField("direct_share") or group.direct_share == wanted.direct_share)
        )
        _, rest, found = page(groups, request.pagination)
        return ListGroupsResponse(groups=found, **rest)

    async def list_memberships(self, request, ctx):
        only(request.filter)
        if request.group_id not in self.world.groups:
            raise ConnectError(Code.NOT_FOUND, "group not found")
        members = self.world.memberships.get(request.group_id, [])
        _, rest, found = page(members, request.pagination)
        return ListMembershipsResponse(members=found, **rest)

    async def list_role_assignments(self, request, ctx):
        wanted = request.filter
        if wanted.resource_id and wanted.resource_ids:
            rules.refuse("filter.resourceId and filter.resourceIds exclude each other")
        resources = [wanted.resource_id] if wanted.resource_id else wanted.resource_ids
        groups = [wanted.group_id] if wanted.group_id else []
        assignments = (
            assignment
            for assignment in self.world.assignments.values()
            if among(assignment.resource_type, wanted.resource_types)
            and among(assignment.resource_role, wanted.resource_roles)
            and among(assignment.resource_id, resources)
            and among(assignment.group_id, groups)
            and (not wanted.user_id or self.is_in(wanted.user_id, assignment.group_id))
        )
        _, rest, found = page(assignments, request.pagination)
        return ListRoleAssignmentsResponse(assignments=found, **rest)

    def is_in(self, user, group):
        """Whether the user is one of the group."""
        return any(member.subject.id == user for member in self.world.memberships.get(group, []))


class Identities(IdentityService):
    """Whose token it is."""

    async def get_authenticated_identity(self, request, ctx):
        subject = Subject(id=SERVICE_ACCOUNT, principal=PRINCIPAL_SERVICE_ACCOUNT)
        return GetAuthenticatedIdentityResponse(subject=subject, organization_id=ORGANIZATION)
