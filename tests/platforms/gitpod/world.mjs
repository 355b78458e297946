// What the fake platform knows, and who listens: sessions, members, the caller, faults. No HTTP here.
//
// A status goes to the streams that are open at that moment; nothing is kept for later ones, since
// Gitpod replays nothing either.
import { Timestamp } from '@bufbuild/protobuf';

import {
  OrganizationMember, Workspace, WorkspaceMetadata, WorkspaceSession, WorkspaceStatus,
} from './types.mjs';

export const ORGANIZATION = '019b0000-0000-4000-8000-000000000001';
// Whose the token is: an owner of the organization, as listing its sessions takes one.
const CALLER = { userId: '019b0000-0000-4000-8000-000000000002', role: 'owner' };
const ROLES = ['member', 'owner', 'admin'];
const FAULTS = {
  token: 'gitpod_pat_test.token',
  // Which calls `status`, `garbage`, `hang` and `delay_ms` hit; none means all.
  methods: [],
  status: null,
  retry_after: null,
  delay_ms: 0,
  garbage: false,
  hang: false,
  drop_events: false,
  page_members: false,
};

// All settings: those given, and for the others what they are by default.
function settings(defaults, given) {
  for (const name of Object.keys(given)) {
    if (!(name in defaults)) throw new Error(`${name} is none of ${Object.keys(defaults)}`);
  }
  return { ...defaults, ...given };
}

// A watch of the statuses of one's own workspaces, or of one of them.
export class Stream {
  constructor(userId, workspaceId) {
    Object.assign(this, { userId, workspaceId, pending: [], over: false, error: undefined });
    this.wake = () => {};
  }

  push(message) {
    this.pending.push(message);
    this.wake();
  }

  // After what is pending: with this error, or without one.
  end(error) {
    Object.assign(this, { over: true, error });
    this.wake();
  }

  async *messages() {
    for (;;) {
      while (this.pending.length) yield this.pending.shift();
      if (this.over) break;
      await new Promise((resolve) => { this.wake = resolve; });
    }
    if (this.error) throw this.error;
  }
}

export class World {
  sessions = new Map();
  members = [];
  caller = CALLER;
  faults = FAULTS;
  calls = {};
  streams = new Set();

  putSession(id, json, event) {
    if (!['status', 'none'].includes(event)) throw new Error(`event=${event} is neither status nor none`);
    const session = WorkspaceSession.fromJson({ ...json, id });
    session.creationTime ??= this.sessions.get(id)?.creationTime ?? Timestamp.now();
    const workspace = session.workspace ??= new Workspace();
    const metadata = workspace.metadata ??= new WorkspaceMetadata();
    metadata.ownerId ||= session.owner?.id ?? '';
    metadata.organizationId ||= ORGANIZATION;
    const status = workspace.status ??= new WorkspaceStatus();
    status.instanceId ||= id;
    if (!workspace.id || !metadata.ownerId) throw new Error('workspace.id and owner.id are required');
    this.sessions.set(id, session);
    if (event === 'none' || this.faults.drop_events) return;
    for (const stream of this.streams) {
      const wanted = stream.workspaceId ?? workspace.id;
      if (stream.userId === metadata.ownerId && wanted === workspace.id) {
        stream.push({ workspaceId: workspace.id, status });
      }
    }
  }

  deleteSession(id) {
    if (!this.sessions.delete(id)) throw new Error(`there is no session ${id}`);
  }

  putMembers(json) {
    this.members = json.map((member) => OrganizationMember.fromJson(member));
  }

  putCaller(given) {
    const caller = settings(CALLER, given);
    if (!ROLES.includes(caller.role)) throw new Error(`role is none of ${ROLES}`);
    this.caller = caller;
  }

  putFaults(given) {
    this.faults = settings(FAULTS, given);
  }

  // The faults that this method has to bear, if any.
  faultsOf(method) {
    const { methods } = this.faults;
    return methods.length === 0 || methods.includes(method) ? this.faults : {};
  }

  newestFirst() {
    const at = (session) => session.creationTime.toDate().getTime();
    return [...this.sessions.values()].reverse().sort((a, b) => at(b) - at(a));
  }

  // The workspaces as their newest sessions leave them, the newest first.
  workspaces() {
    const newest = new Map();
    for (const { workspace } of this.newestFirst()) {
      if (!newest.has(workspace.id)) newest.set(workspace.id, workspace);
    }
    return [...newest.values()];
  }

  state() {
    return {
      calls: this.calls,
      streams: this.streams.size,
      sessions: this.sessions.size,
      organization: ORGANIZATION,
      caller: this.caller,
      faults: this.faults,
    };
  }
}
