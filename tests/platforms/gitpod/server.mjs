// A fake of Gitpod classic's public API on loopback, for the tests of its provider: on the library, in
// the version, that Gitpod's own server is built on, so that envelopes, errors and headers are real.
// Ours are the messages (types.mjs), what there is to tell (world.mjs, services.mjs), and here the
// interface by which a test changes it, under /control, and the misbehaviour.
//
// Prints `listening http://127.0.0.1:PORT` once it serves, and ends when its standard input does.
import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

import { MethodKind } from '@bufbuild/protobuf';
import { Code, ConnectError, createContextKey, createContextValues } from '@connectrpc/connect';
import { connectNodeAdapter } from '@connectrpc/connect-node';

import { services } from './services.mjs';
import { OrganizationService, WorkspaceService } from './types.mjs';
import { World } from './world.mjs';

const CODES = {
  400: Code.InvalidArgument,
  401: Code.Unauthenticated,
  403: Code.PermissionDenied,
  404: Code.NotFound,
  429: Code.ResourceExhausted,
  500: Code.Internal,
  503: Code.Unavailable,
};
const LIMIT = 200;

const world = new World();
const responseKey = createContextKey();
const responses = new WeakMap();

// What their server does before any method: the token, then the rate limit, whose numbers are metadata.
function admit(method, headers) {
  if (headers.get('authorization') !== `Bearer ${world.faults.token}`) {
    throw new ConnectError('unauthenticated', Code.Unauthenticated);
  }
  const { status, retry_after: after } = world.faultsOf(method);
  if (!status) return;
  const metadata = new Headers(after === null ? {} : { 'Retry-After': after });
  if (status === 429 && after !== null) {
    metadata.set('X-RateLimit-Limit', LIMIT);
    metadata.set('X-RateLimit-Remaining', 0);
    metadata.set('X-RateLimit-Reset', new Date(Date.now() + (Number(after) || 0) * 1000));
  }
  throw new ConnectError(status === 429 ? 'rate limit exceeded' : 'told to fail', CODES[status], metadata);
}

function guarded(type, implementation) {
  return Object.fromEntries(Object.entries(type.methods).map(([name, method]) => {
    const call = (request, context) => {
      admit(method.name, context.requestHeader);
      return implementation[name](request, context.values.get(responseKey));
    };
    const stream = async function* (...request) { yield* call(...request); };
    return [name, method.kind === MethodKind.ServerStreaming ? stream : call];
  }));
}

const api = connectNodeAdapter({
  contextValues: (request) => createContextValues().set(responseKey, responses.get(request)),
  routes(router) {
    const [workspaces, organizations] = services(world);
    router.service(WorkspaceService, guarded(WorkspaceService, workspaces));
    router.service(OrganizationService, guarded(OrganizationService, organizations));
  },
});

// Misbehaves below the library, as told; false if that leaves a call to be answered.
async function fail(method, response) {
  const { delay_ms: delay, hang, status, garbage, retry_after: after } = world.faultsOf(method);
  if (delay) await sleep(delay);
  if (hang) return true;
  if (status && !(status in CODES)) {
    // An error of a proxy in between, which does not speak Connect.
    if (after !== null) response.setHeader('retry-after', after);
    response.writeHead(status, { 'content-type': 'text/html' }).end('<html>told to fail</html>\n');
    return true;
  }
  if (garbage) {
    const media = method === 'WatchWorkspaceStatus' ? 'application/connect+json' : 'application/json';
    response.writeHead(200, { 'content-type': media }).end(Buffer.from('\xff\xfe{not JSON', 'latin1'));
  }
  return Boolean(garbage);
}

function cut(how) {
  const ends = {
    clean: (stream) => stream.end(new ConnectError('the stream was cut', Code.Unavailable)),
    end: (stream) => stream.end(),
    abort({ response }) {
      // The beginning of an envelope, of which no more will come.
      response.write(Buffer.from('\0\0\0\0\x9c{', 'latin1'), () => response.destroy());
    },
  };
  if (!Object.hasOwn(ends, how)) throw new Error(`how=${how} is none of ${Object.keys(ends)}`);
  const streams = [...world.streams];
  streams.forEach(ends[how]);
  return { streams: streams.length };
}

function control(what, id, body, query) {
  switch (what) {
    case 'PUT sessions':
      return world.putSession(id, body, query.get('event') ?? 'status');
    case 'DELETE sessions':
      return world.deleteSession(id);
    case 'PUT members':
      return world.putMembers(body);
    case 'PUT caller':
      return world.putCaller(body);
    case 'PUT faults':
      return world.putFaults(body);
    case 'POST cut':
      return cut(query.get('how') ?? 'clean');
    case 'GET state':
      return world.state();
    default:
      throw new Error(`there is no ${what}`);
  }
}

async function answerControl({ method, pathname, query }, request, response) {
  let [status, answer] = [200, {}];
  try {
    const body = Buffer.concat(await request.toArray()).toString();
    const [, , name, id] = pathname.split('/').map(decodeURIComponent);
    answer = control(`${method} ${name}`, id, body && JSON.parse(body), query) ?? {};
  } catch (error) {
    [status, answer] = [400, { error: String(error) }];
  }
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(answer));
}

const server = createServer(async (request, response) => {
  const { pathname, searchParams: query } = new URL(request.url, 'http://fake');
  if (pathname.startsWith('/control/')) {
    await answerControl({ method: request.method, pathname, query }, request, response);
    return;
  }
  const method = pathname.split('/').at(-1);
  world.calls[method] = (world.calls[method] ?? 0) + 1;
  if (await fail(method, response)) return;
  responses.set(request, response);
  api(request, response);
});
// A client's pool must not meet a connection that ends just then, unless a test wants it.
server.keepAliveTimeout = 3600 * 1000;
server.listen(0, '127.0.0.1', () => console.log(`listening http://127.0.0.1:${server.address().port}`));
process.stdin.on('end', () => process.exit()).resume();
