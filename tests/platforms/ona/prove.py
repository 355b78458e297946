"""Proves the fake with Ona's own client, from the same package: it must not notice a difference.

Starts server.py, prints what held, and exits with 0 if everything did.
"""

import concurrent.futures
import json
import pathlib
import subprocess
import sys
import time
import urllib.request

from gitpod.v1.environment_pb2 import (
    AdmissionLevel,
    EnvironmentPhase,
    GetEnvironmentRequest,
    ListEnvironmentsRequest,
)
from gitpod.v1.event_pb2 import ResourceOperation, WatchEventsRequest
from gitpod.v1.group_pb2 import ListMembershipsRequest, ListRoleAssignmentsRequest
from gitpod.v1.identity_pb2 import GetAuthenticatedIdentityRequest
from gitpod.v1.organization_pb2 import (
    GetOrganizationPoliciesRequest,
    ListMembersRequest,
)
from ona_sdk import (
    AuthenticationRequiredError,
    NotFoundError,
    RateLimitedError,
    UnavailableError,
    ValidationError,
    create_client,
)
from ona_sdk.errors import map_error

SERVER = pathlib.Path(__file__).with_name("server.py")
WITHOUT_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def uuid(number):
    """A UUID that one can tell from others."""
    return f"019a0000-0000-7000-8000-{number:012x}"


def environment(number, phase="RUNNING"):
    """An environment in protobuf JSON."""
    return {
        "id": uuid(number),
        "metadata": {
            "creator": {"id": uuid(2), "principal": "PRINCIPAL_SERVICE_ACCOUNT"},
            "role": "ENVIRONMENT_ROLE_DEFAULT",
        },
        "spec": {
            "specVersion": "3",
            "ports": [
                {"port": 3000, "admission": "ADMISSION_LEVEL_ORGANIZATION", "authNonce": "7"}
            ],
        },
        "status": {"statusVersion": "1", "phase": f"ENVIRONMENT_PHASE_{phase}"},
    }


class Proof:
    """The fake, and their client of it."""

    def __init__(self, address):
        self.address = address
        self.client = create_client(api_key="ona-test-token", base_url=f"{address}/api", timeout=20)
        self.services = self.client.services

    def control(self, method, path, body=None):
        """Asks the fake itself."""
        data = None if body is None else json.dumps(body).encode()
        url = f"{self.address}/control/{path}"
        request = urllib.request.Request(url, data, method=method)
        with WITHOUT_PROXY.open(request, timeout=60) as response:
            return json.load(response)

    def refused(self, expected, call, *arguments):
        """The call must fail with this error of the client."""
        try:
            call(*arguments)
        except Exception as error:
            assert isinstance(map_error("", error), expected), repr(error)
        else:
            raise AssertionError(f"{call} was answered")

    def until(self, condition):
        """Waits for something of the fake's state."""
        deadline = time.monotonic() + 20
        while not condition(self.control("GET", "state")):
            assert time.monotonic() < deadline, self.control("GET", "state")
            time.sleep(0.01)

    def watching(self, action, count=1, **scope):
        """The first hints of a stream during which something is done, and how the stream ended."""

        def watch():
            hints = []
            try:
                for hint in self.services.event.watch_events(WatchEventsRequest(**scope)):
                    hints.append(hint)
                    if len(hints) == count:
                        break
            except Exception as error:
                return hints, map_error("", error)
            return hints, None

        with concurrent.futures.ThreadPoolExecutor() as pool:
            watched = pool.submit(watch)
            self.until(lambda state: state["streams"] == 1)
            action()
            result = watched.result(20)
        self.until(lambda state: state["streams"] == 0)
        return result

    def lists(self):
        """Pages, filters, one by its identifier."""
        phases = ["RUNNING", "STOPPED"]
        some = [environment(number, phases[number % 2]) for number in range(250)]
        self.control("PUT", "environments", some)
        request = ListEnvironmentsRequest()
        request.pagination.page_size = 100
        request.filter.status_phases.append(EnvironmentPhase.Value("ENVIRONMENT_PHASE_RUNNING"))
        seen, pages = [], 0
        while not pages or request.pagination.token:
            response = self.services.environment.list_environments(request)
            seen += [one.id for one in response.environments]
            request.pagination.token = response.pagination.next_token
            pages += 1
        assert seen == [uuid(number) for number in range(248, -1, -2)] and pages == 2
        # Their own list is of what its caller made, which is the identity that the fake tells.
        every = {one.id() for one in self.client.environments().list(page_size=100)}
        assert every == {one["id"] for one in some}
        got = self.services.environment.get_environment(
            GetEnvironmentRequest(environment_id=uuid(7))
        )
        assert got.environment.spec.ports[0].auth_nonce == 7
        return f"{len(every)} environments over pages, {len(seen)} running in {pages}, one by id"

    def directory(self):
        """Members, groups, policies, identity."""
        organization = self.services.identity.get_authenticated_identity(
            GetAuthenticatedIdentityRequest()
        ).organization_id
        status = "USER_STATUS_ACTIVE"
        members = [
            {"userId": uuid(n), "email": f"u{n}@example.com", "status": status} for n in range(60)
        ]
        self.control("PUT", "members", members)
        request, seen = ListMembersRequest(organization_id=organization), []
        while not seen or request.pagination.token:
            response = self.services.organization.list_members(request)
            seen += [member.email for member in response.members]
            request.pagination.token = response.pagination.next_token
        assert seen == [member["email"] for member in members]
        group = uuid(700)
        member = {
            "id": uuid(701),
            "subject": {"id": uuid(1), "principal": "PRINCIPAL_USER"},
            "groupId": group,
        }
        assignment = {
            "id": uuid(702),
            "groupId": group,
            "resourceId": uuid(7),
            "resourceType": "RESOURCE_TYPE_ENVIRONMENT",
            "resourceRole": "RESOURCE_ROLE_ENVIRONMENT_USER",
        }
        groups = {
            "groups": [{"id": group}],
            "memberships": {group: [member]},
            "assignments": [assignment],
        }
        hints, _ = self.watching(
            lambda: self.control("PUT", "groups", groups), 3, organization=True
        )
        assert [hint.resource_id for hint in hints] == [group, group, uuid(7)], hints
        memberships = self.services.group.list_memberships(ListMembershipsRequest(group_id=group))
        assert memberships.members[0].subject.id == uuid(1)
        assignments = ListRoleAssignmentsRequest()
        assignments.filter.user_id = uuid(1)
        found = self.services.group.list_role_assignments(assignments).assignments
        assert [one.resource_id for one in found] == [uuid(7)]
        self.control("PUT", "policies", {"maxPortAdmissionLevel": "ADMISSION_LEVEL_ORGANIZATION"})
        policies = self.services.organization.get_organization_policies(
            GetOrganizationPoliciesRequest(organization_id=organization)
        ).policies
        assert (
            AdmissionLevel.Name(policies.max_port_admission_level) == "ADMISSION_LEVEL_ORGANIZATION"
        )
        return f"{len(seen)} members over pages, a group's membership and role, the policies"

    def events(self):
        """Hints, filters, the ends of a stream."""
        stop = lambda: self.control("PUT", f"environments/{uuid(8)}", environment(8, "STOPPED"))
        begin = time.monotonic()
        hints, _ = self.watching(stop, organization=True)
        assert hints[0].resource_id == uuid(8)
        assert hints[0].operation == ResourceOperation.Value("RESOURCE_OPERATION_UPDATE_STATUS")
        took = time.monotonic() - begin

        def others():
            self.control("DELETE", f"environments/{uuid(9)}")
            stop()

        hints, _ = self.watching(others, environment_id=uuid(8))
        assert hints[0].resource_id == uuid(8)

        def swallowed():
            self.control("PUT", "faults", {"drop_events": True})
            stop()
            self.control("PUT", "faults", {})
            hint = {"operation": "RESOURCE_OPERATION_DELETE", "resourceId": uuid(5)}
            self.control("POST", "event", hint)

        hints, _ = self.watching(swallowed, environment_id=uuid(8))
        assert hints[0].resource_id == uuid(5)
        _, error = self.watching(lambda: self.control("POST", "cut"), organization=True)
        assert isinstance(error, UnavailableError) and "was cut" in str(error), error

        def cut():
            stop()
            self.control("POST", "cut?how=abort")

        hints, error = self.watching(cut, 2, organization=True)
        assert len(hints) == 1 and "was cut" not in str(error or "was cut"), error
        count, rate = 20000, 8000

        def churn():
            body = {"ids": [uuid(8), uuid(10)], "events": count, "per_second": rate}
            told.update(self.control("POST", "churn", body))

        told = {}
        hints, _ = self.watching(churn, count, organization=True)
        assert len(hints) == count
        self.check_last(told["last"])
        per_second = count / told["seconds"]
        return f"hints ({took * 1000:.0f} ms with all), scopes, dropped and forged ones, both cuts, {per_second:.0f} hints a second"

    def check_last(self, last):
        """What the churn tells must be what is."""
        for identifier, told in last.items():
            request = GetEnvironmentRequest(environment_id=identifier)
            environment = self.services.environment.get_environment(request).environment
            assert EnvironmentPhase.Name(environment.status.phase) == told["phase"]

    def faults(self):
        """Errors as their client sees them."""
        get = lambda: self.services.environment.get_environment(
            GetEnvironmentRequest(environment_id=uuid(7))
        )
        gone = GetEnvironmentRequest(environment_id=uuid(9))
        self.refused(NotFoundError, self.services.environment.get_environment, gone)
        nothing = GetEnvironmentRequest(environment_id="no-uuid")
        self.refused(ValidationError, self.services.environment.get_environment, nothing)
        events = lambda: next(
            self.services.event.watch_events(WatchEventsRequest(organization=True))
        )
        for faults, error, call in [
            ({"token": "another"}, AuthenticationRequiredError, get),
            ({"token": "another"}, AuthenticationRequiredError, events),
            ({"status": 429, "retry_after": "0.5"}, RateLimitedError, get),
            ({"status": 503, "methods": ["WatchEvents"]}, UnavailableError, events),
            ({"refuse_watch": True}, UnavailableError, events),
            ({"garbage": True}, Exception, get),
        ]:
            self.control("PUT", "faults", faults)
            self.refused(error, call)
        self.control("PUT", "faults", {"fail_after_pages": 1})
        pages = self.client.environments().list(page_size=100)
        self.refused(UnavailableError, list, pages)
        self.control("PUT", "faults", {})
        get()
        return "not found, invalid, 401 on calls and streams, 429, 503, garbage, a list that breaks off"


def main():
    """Runs it all."""
    command = [sys.executable, str(SERVER)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            address = server.stdout.readline().split()[1]
            proof = Proof(address)
            for part in (proof.lists, proof.directory, proof.events, proof.faults):
                print(f"{part.__name__}: {part()}", flush=True)
        finally:
            # Its end is a promise too.
            server.stdin.close()
            assert server.wait(5) == 0


main()
