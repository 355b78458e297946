// Proves the fake with the client of the library that it stands on: starts server.mjs, prints what held,
// and exits with 0 if everything did.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { Timestamp } from '@bufbuild/protobuf';
import { Code, ConnectError, createPromiseClient } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';

import { AdmissionLevel, OrganizationService, Phase, WorkspaceService } from './types.mjs';

const TOKEN = 'gitpod_pat_test.token';
const STRANGER = '019b0000-0000-4000-8000-0000000000ff';
const START = Date.UTC(2026, 10, 1);
const instance = (number) => `019b0000-0000-4000-9000-${String(number).padStart(12, '0')}`;
const workspaceId = (number) => `pinkpanda-demo-${String(number).padStart(8, '0')}`;

const server = spawn(process.execPath, [fileURLToPath(new URL('server.mjs', import.meta.url))], {
  stdio: ['pipe', 'pipe', 'inherit'],
});
const [line] = await once(createInterface(server.stdout), 'line');
const address = line.split(' ')[1];

const authorize = (next) => (request) => {
  request.header.set('authorization', `Bearer ${TOKEN}`);
  return next(request);
};
const transport = createConnectTransport({
  baseUrl: address, httpVersion: '1.1', useBinaryFormat: false, interceptors: [authorize],
});
const workspaces = createPromiseClient(WorkspaceService, transport);
const organizations = createPromiseClient(OrganizationService, transport);

async function control(method, path, body) {
  const response = await fetch(`${address}/control/${path}`, { method, body: body && JSON.stringify(body) });
  const answer = await response.json();
  assert.equal(response.status, 200, answer.error);
  return answer;
}

const { organization: organizationId, caller: { userId: me } } = await control('GET', 'state');

function session(number, owner, phase = 'RUNNING') {
  return {
    workspace: {
      id: workspaceId(number),
      metadata: { ownerId: owner, organizationId, name: 'demo' },
      spec: {
        type: 'WORKSPACE_TYPE_REGULAR',
        ports: [{ port: '3000', admission: 'ADMISSION_LEVEL_EVERYONE', protocol: 'PROTOCOL_HTTP' }],
        admission: 'ADMISSION_LEVEL_OWNER_ONLY',
      },
      status: { statusVersion: '18446744073709551615', phase: { name: `PHASE_${phase}` }, conditions: {} },
    },
    owner: { id: owner, name: 'Another person' },
    creationTime: new Date(START + number * 1000).toISOString(),
  };
}

const put = (number, owner, phase, query = '') => (
  control('PUT', `sessions/${instance(number)}${query}`, session(number, owner, phase)));

async function until(condition) {
  for (let tries = 0; !condition(await control('GET', 'state')); tries += 1) {
    assert.ok(tries < 1000, 'waited for too long');
    await sleep(10);
  }
}

// What a call fails with.
async function failure(call) {
  try {
    await call();
  } catch (error) {
    return ConnectError.from(error);
  }
  return assert.fail('was answered');
}

const next = async (stream) => (await stream.next()).value;
const watch = (request = {}, options = {}) => (
  workspaces.watchWorkspaceStatus(request, options)[Symbol.asyncIterator]());
const get = (number) => workspaces.getWorkspace({ workspaceId: workspaceId(number) });

async function lists() {
  for (let number = 0; number < 1000; number += 1) {
    await put(number, number % 10 ? STRANGER : me, number % 20 ? 'RUNNING' : 'STOPPED', '?event=none');
  }
  const from = Timestamp.fromDate(new Date(START));
  const to = Timestamp.fromDate(new Date(START + 949 * 1000));
  const seen = [];
  for (let page = 0; ; page += 1) {
    const pagination = { pageSize: 400, page };
    const response = await workspaces.listWorkspaceSessions({ organizationId, from, to, pagination });
    assert.equal(response.pagination.total, response.workspaceSessions.length);
    seen.push(...response.workspaceSessions.map(({ id }) => id));
    if (response.workspaceSessions.length < pagination.pageSize) break;
  }
  assert.deepEqual(seen, Array.from({ length: 950 }, (_, at) => instance(949 - at)));
  assert.equal((await control('GET', 'state')).calls.ListWorkspaceSessions, 3);

  const own = await workspaces.listWorkspaces({ organizationId, pagination: { pageSize: 400, page: 7 } });
  assert.equal(own.workspaces.length, 100);
  assert.equal(own.pagination.nextToken, '');
  assert.ok(own.workspaces.every(({ metadata }) => metadata.ownerId === me));
  assert.ok(own.workspaces.slice(0, 50).every(({ status }) => status.phase.name === Phase.PHASE_RUNNING));
  const some = await workspaces.listWorkspaces({ organizationId });
  assert.equal(some.workspaces.length, 50);
  return `${seen.length} sessions in a period over 3 pages, ${own.workspaces.length} workspaces of the caller`;
}

async function single() {
  const { workspace } = await get(10);
  assert.equal(workspace.status.statusVersion, 2n ** 64n - 1n);
  assert.equal(workspace.spec.ports[0].port, 3000n);
  assert.equal(workspace.spec.ports[0].admission, AdmissionLevel.ADMISSION_LEVEL_EVERYONE);
  const { ownerToken } = await workspaces.getWorkspaceOwnerToken({ workspaceId: workspaceId(10) });
  assert.equal(ownerToken, `owner-token-${instance(10)}`);
  assert.equal((await failure(() => get(11))).code, Code.PermissionDenied);
  await control('PUT', 'caller', { userId: me, role: 'admin' });
  assert.equal((await get(11)).workspace.metadata.ownerId, STRANGER);
  await control('PUT', 'caller', { userId: me, role: 'member' });
  const refused = await failure(() => workspaces.listWorkspaceSessions({ organizationId }));
  assert.equal(refused.code, Code.PermissionDenied);
  await control('PUT', 'caller', {});

  const members = Array.from({ length: 60 }, (_, number) => ({
    userId: instance(number), role: 'ORGANIZATION_ROLE_MEMBER', email: `u${number}@example.com`, fullName: 'U',
  }));
  await control('PUT', 'members', members);
  const request = { organizationId, pagination: { pageSize: 25, page: 2 } };
  assert.equal((await organizations.listOrganizationMembers(request)).members.length, 60);
  await control('PUT', 'faults', { page_members: true });
  assert.equal((await organizations.listOrganizationMembers(request)).members.length, 10);
  await control('PUT', 'faults', {});
  return 'a workspace with 64 bits, its owner token, what is whose, 60 members at once or over pages';
}

async function watches() {
  const everything = watch();
  assert.equal((await next(everything)).status, undefined);
  const leaving = new AbortController();
  const one = watch({ workspaceId: workspaceId(20) }, { signal: leaving.signal });
  assert.equal((await next(one)).status.phase.name, Phase.PHASE_STOPPED);
  await until(({ streams }) => streams === 2);
  await put(11, STRANGER, 'STOPPED');
  const begin = performance.now();
  await put(10, me, 'STOPPING');
  const event = await next(everything);
  const took = performance.now() - begin;
  assert.equal(event.workspaceId, workspaceId(10));
  assert.equal(event.status.phase.name, Phase.PHASE_STOPPING);
  assert.equal(event.status.instanceId, instance(10));
  await control('PUT', 'faults', { drop_events: true });
  await put(20, me, 'STOPPING');
  await control('PUT', 'faults', {});
  await put(20, me, 'RUNNING');
  for (const stream of [everything, one]) {
    assert.equal((await next(stream)).status.phase.name, Phase.PHASE_RUNNING);
  }

  leaving.abort();
  assert.equal((await failure(() => next(one))).code, Code.Canceled);
  await until(({ streams }) => streams === 1);
  await control('POST', 'cut');
  const clean = await failure(() => next(everything));
  assert.deepEqual([clean.code, clean.rawMessage], [Code.Unavailable, 'the stream was cut']);
  for (const how of ['end', 'abort']) {
    const stream = watch();
    await next(stream);
    await control('POST', `cut?how=${how}`);
    if (how === 'end') assert.ok((await stream.next()).done);
    else assert.notEqual((await failure(() => next(stream))).rawMessage, 'the stream was cut');
  }
  await until(({ streams }) => streams === 0);
  const events = `an event (${took.toFixed(0)} ms with its cause), none of others, dropped ones`;
  return `${events}, a client that leaves, three ends`;
}

async function failures() {
  const invalid = [
    () => workspaces.listWorkspaces({ organizationId, pagination: { pageSize: 401 } }),
    () => workspaces.listWorkspaceSessions({ organizationId, pagination: { pageSize: 401 } }),
    () => workspaces.listWorkspaces({}),
    () => organizations.listOrganizationMembers({}),
    () => workspaces.getWorkspace({}),
  ];
  for (const call of invalid) assert.equal((await failure(call)).code, Code.InvalidArgument);
  assert.equal((await failure(() => get(5000))).code, Code.NotFound);
  await control('DELETE', `sessions/${instance(30)}`);
  assert.equal((await failure(() => get(30))).code, Code.NotFound);

  const both = [() => get(10), () => next(watch())];
  const expect = async (faults, code, calls = both) => {
    await control('PUT', 'faults', faults);
    const errors = await Promise.all(calls.map(failure));
    for (const error of errors) assert.equal(error.code, code, error);
    return errors;
  };
  await expect({ token: 'gitpod_pat_other.token' }, Code.Unauthenticated);
  for (const { metadata } of await expect({ status: 429, retry_after: '12.345' }, Code.ResourceExhausted)) {
    assert.deepEqual([metadata.get('retry-after'), metadata.get('x-ratelimit-limit')], ['12.345', '200']);
  }
  await expect({ status: 503, methods: ['WatchWorkspaceStatus'] }, Code.Unavailable, both.slice(1));
  await get(10);
  await expect({ status: 502 }, Code.Unavailable);
  await control('PUT', 'faults', { garbage: true });
  for (const call of both) await failure(call);
  await control('PUT', 'faults', { hang: true, methods: ['GetWorkspace'] });
  const late = () => workspaces.getWorkspace({ workspaceId: workspaceId(10) }, { timeoutMs: 200 });
  assert.equal((await failure(late)).code, Code.DeadlineExceeded);
  await control('PUT', 'faults', { delay_ms: 150 });
  const begin = performance.now();
  await get(10);
  assert.ok(performance.now() - begin > 140);
  await control('PUT', 'faults', {});
  await get(10);
  return 'invalid, not found, 401, 429 with its metadata, 503, 502 in between, garbage, no answer, a late one';
}

try {
  for (const part of [lists, single, watches, failures]) console.log(`${part.name}: ${await part()}`);
} finally {
  // Its end is a promise too.
  server.stdin.end();
  const [code] = await once(server, 'exit', { signal: AbortSignal.timeout(5000) });
  assert.equal(code, 0);
}
