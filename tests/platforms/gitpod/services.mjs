// The services, as far as our provider asks them, each answering from the world. What they allow, refuse
// and leave out is what the source of Gitpod's server does.
import { Code, ConnectError } from '@connectrpc/connect';

import { AdmissionLevel, Phase, WorkspaceType } from './types.mjs';
import { ORGANIZATION, Stream } from './world.mjs';

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
const MOST = 400;
const WEEK = 7 * 24 * 3600 * 1000;

const refuse = (code, why) => { throw new ConnectError(why, code); };

function paging({ pagination }, fallback) {
  if (pagination?.pageSize > MOST) refuse(Code.InvalidArgument, `Pagesize must not exceed ${MOST}`);
  const size = pagination?.pageSize || fallback;
  // They count pages from 0, whatever their documentation says.
  const offset = Math.max(pagination?.page ?? 0, 0) * size;
  return (found) => found.slice(offset, offset + size);
}

function organization({ organizationId }) {
  if (!UUID.test(organizationId)) refuse(Code.InvalidArgument, 'organizationId is required');
  return organizationId;
}

function workspaceService(world) {
  const running = ({ status }) => status.phase?.name === Phase.PHASE_RUNNING;

  // A workspace that the caller may use. That another person's workspace exists is told to fellow members only.
  function accessible({ workspaceId }) {
    if (!workspaceId) refuse(Code.InvalidArgument, 'workspaceId is required');
    const workspace = world.workspaces().find(({ id }) => id === workspaceId);
    const { userId, role } = world.caller;
    const shared = workspace?.spec?.admission === AdmissionLevel.ADMISSION_LEVEL_EVERYONE;
    if (workspace && (role === 'admin' || shared || workspace.metadata.ownerId === userId)) return workspace;
    if (workspace?.metadata.organizationId !== ORGANIZATION) {
      refuse(Code.NotFound, `Workspace ${workspaceId} not found.`);
    }
    return refuse(Code.PermissionDenied, `You do not have access on workspace ${workspaceId}`);
  }

  return {
    listWorkspaces(request) {
      const { pagination } = request;
      const page = paging({ pagination: pagination && { pageSize: pagination.pageSize } }, 50);
      const organizationId = organization(request);
      const { userId } = world.caller;
      const own = world.workspaces().filter(({ metadata, spec }) => metadata.ownerId === userId
        && metadata.organizationId === organizationId
        && spec?.type !== WorkspaceType.WORKSPACE_TYPE_PREBUILD);
      own.sort((a, b) => running(b) - running(a));
      const workspaces = page(own);
      return { workspaces, pagination: { total: workspaces.length } };
    },

    listWorkspaceSessions(request) {
      const page = paging(request, 100);
      const organizationId = organization(request);
      const to = request.to?.toDate() ?? new Date();
      const from = request.from?.toDate() ?? new Date(to - WEEK);
      if (from > to) refuse(Code.InvalidArgument, "'from' is after 'to'");
      if (organizationId !== ORGANIZATION) {
        refuse(Code.NotFound, `Organization ${organizationId} not found.`);
      }
      if (world.caller.role === 'member') {
        refuse(Code.PermissionDenied, `You do not have read_sessions on organization ${organizationId}`);
      }
      const workspaceSessions = page(world.newestFirst().filter(({ creationTime, workspace }) => {
        const at = creationTime.toDate();
        return from <= at && at <= to && workspace.metadata.organizationId === organizationId;
      }));
      return { workspaceSessions, pagination: { total: workspaceSessions.length } };
    },

    getWorkspace: (request) => ({ workspace: accessible(request) }),

    getWorkspaceOwnerToken(request) {
      return { ownerToken: `owner-token-${accessible(request).status.instanceId}` };
    },

    async *watchWorkspaceStatus(request, response) {
      const { workspaceId } = request;
      const first = workspaceId ? { workspaceId, status: accessible(request).status } : {};
      const stream = new Stream(world.caller.userId, workspaceId || undefined);
      stream.response = response;
      world.streams.add(stream);
      response.once('close', () => stream.end());
      stream.push(first);
      try {
        yield* stream.messages();
      } finally {
        world.streams.delete(stream);
      }
    },
  };
}

function organizationService(world) {
  return {
    listOrganizationMembers(request) {
      const organizationId = organization(request);
      if (organizationId !== ORGANIZATION) {
        refuse(Code.NotFound, `Organization ${organizationId} not found.`);
      }
      // They take a page and look at none of it: all members come at once.
      const members = world.faults.page_members ? paging(request, 50)(world.members) : world.members;
      return { members, pagination: { total: world.members.length } };
    },
  };
}

export const services = (world) => [workspaceService(world), organizationService(world)];
