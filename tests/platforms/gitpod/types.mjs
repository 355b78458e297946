// The part of Gitpod classic's API that our provider asks, as messages made at run time: written by us
// from what their JSON looks like. Only JSON is spoken with it, so that the field numbers, which follow
// the order here, are not theirs.
import { MethodKind, proto3, ScalarType, Timestamp } from '@bufbuild/protobuf';

const PACKAGE = 'gitpod.v1';
const string = { kind: 'scalar', T: ScalarType.STRING };
const bool = { kind: 'scalar', T: ScalarType.BOOL };
const int32 = { kind: 'scalar', T: ScalarType.INT32 };
const uint64 = { kind: 'scalar', T: ScalarType.UINT64 };
const of = (T) => ({ kind: 'message', T });
const oneOf = (values) => ({ kind: 'enum', T: proto3.getEnumType(values) });
const list = (field) => ({ ...field, repeated: true });

function message(name, fields) {
  const numbered = Object.entries(fields).map(([field, type], at) => ({ no: at + 1, name: field, ...type }));
  return proto3.makeMessageType(`${PACKAGE}.${name}`, numbered);
}

function enumeration(name, prefix, values) {
  const numbered = ['UNSPECIFIED', ...values].map((value, no) => ({ no, name: `${prefix}_${value}` }));
  return proto3.makeEnum(`${PACKAGE}.${name}`, numbered);
}

export const Phase = enumeration('WorkspacePhase.Phase', 'PHASE', [
  'PREPARING', 'IMAGEBUILD', 'PENDING', 'CREATING', 'INITIALIZING',
  'RUNNING', 'INTERRUPTED', 'PAUSED', 'STOPPING', 'STOPPED',
]);
export const AdmissionLevel = enumeration('AdmissionLevel', 'ADMISSION_LEVEL', ['OWNER_ONLY', 'EVERYONE']);
export const WorkspaceType = enumeration('WorkspaceType', 'WORKSPACE_TYPE', ['REGULAR', 'PREBUILD']);
const Protocol = enumeration('WorkspacePort.Protocol', 'PROTOCOL', ['HTTP', 'HTTPS']);
const FailedReason = enumeration('FailedReason', 'FAILED_REASON', [
  'CONTENT_INITIALIZATION_FAILED', 'BACKUP_FAILED', 'IMAGE_PULL_FAILURE', 'UNEXPECTED_TERMINATION',
]);
const OrganizationRole = enumeration('OrganizationRole', 'ORGANIZATION_ROLE', [
  'OWNER', 'MEMBER', 'COLLABORATOR',
]);

export const WorkspaceMetadata = message('WorkspaceMetadata', {
  ownerId: string, organizationId: string, name: string,
});
const WorkspacePort = message('WorkspacePort', {
  port: uint64, admission: oneOf(AdmissionLevel), url: string, protocol: oneOf(Protocol),
});
const WorkspaceSpec = message('WorkspaceSpec', {
  type: oneOf(WorkspaceType), ports: list(of(WorkspacePort)), admission: oneOf(AdmissionLevel),
});
const WorkspacePhase = message('WorkspacePhase', { name: oneOf(Phase), lastTransitionTime: of(Timestamp) });
const WorkspaceConditions = message('WorkspaceConditions', {
  failed: string, failedReason: oneOf(FailedReason), timeout: string,
});
export const WorkspaceStatus = message('WorkspaceStatus', {
  statusVersion: uint64, phase: of(WorkspacePhase), workspaceUrl: string,
  conditions: of(WorkspaceConditions), instanceId: string,
});
export const Workspace = message('Workspace', {
  id: string, metadata: of(WorkspaceMetadata), spec: of(WorkspaceSpec), status: of(WorkspaceStatus),
});
const SessionOwner = message('WorkspaceSessionOwner', { id: string, name: string });
export const WorkspaceSession = message('WorkspaceSession', {
  id: string, workspace: of(Workspace), owner: of(SessionOwner), creationTime: of(Timestamp),
  startedTime: of(Timestamp), stoppingTime: of(Timestamp), stoppedTime: of(Timestamp),
});
export const OrganizationMember = message('OrganizationMember', {
  userId: string, role: oneOf(OrganizationRole), memberSince: of(Timestamp), avatarUrl: string,
  fullName: string, email: string, ownedByOrganization: bool,
});

const PaginationRequest = message('PaginationRequest', { token: string, pageSize: int32, page: int32 });
const PaginationResponse = message('PaginationResponse', { total: int32, nextToken: string });

// A method whose messages are named after it, as theirs are.
function method(kind, name, request, response) {
  const [I, O] = [message(`${name}Request`, request), message(`${name}Response`, response)];
  return [name[0].toLowerCase() + name.slice(1), { name, I, O, kind }];
}

function service(name, ...methods) {
  return { typeName: `${PACKAGE}.${name}`, methods: Object.fromEntries(methods) };
}

export const WorkspaceService = service(
  'WorkspaceService',
  method(MethodKind.Unary, 'ListWorkspaces', {
    pagination: of(PaginationRequest), organizationId: string,
  }, {
    pagination: of(PaginationResponse), workspaces: list(of(Workspace)),
  }),
  method(MethodKind.Unary, 'ListWorkspaceSessions', {
    pagination: of(PaginationRequest), organizationId: string, from: of(Timestamp), to: of(Timestamp),
  }, {
    pagination: of(PaginationResponse), workspaceSessions: list(of(WorkspaceSession)),
  }),
  method(MethodKind.Unary, 'GetWorkspace', { workspaceId: string }, { workspace: of(Workspace) }),
  method(MethodKind.Unary, 'GetWorkspaceOwnerToken', { workspaceId: string }, { ownerToken: string }),
  method(MethodKind.ServerStreaming, 'WatchWorkspaceStatus', { workspaceId: string }, {
    workspaceId: string, status: of(WorkspaceStatus),
  }),
);

export const OrganizationService = service(
  'OrganizationService',
  method(MethodKind.Unary, 'ListOrganizationMembers', {
    organizationId: string, pagination: of(PaginationRequest),
  }, {
    members: list(of(OrganizationMember)), pagination: of(PaginationResponse),
  }),
);
