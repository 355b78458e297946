// What holds for every app: its owner gets in, another person does not, and what is open ends when the workspace stops.
import { strict as assert } from 'node:assert';
import { readFileSync } from 'node:fs';
import { request } from 'node:https';

import { until } from './until.mjs';

// Signs a person in at an address, up to the app's page: what `ready` selects is there.
export async function open(gate, who, url, ready) {
  const person = await gate.person();
  person.sockets = sockets(person.page);
  await person.visit(url);
  await person.signIn(who);
  if (ready) await person.page.waitForSelector(ready, { timeout: 60_000 });
  return person;
}

// The WebSockets of a page, and when each of them ended.
function sockets(page) {
  const all = [];
  page.on('websocket', (socket) => {
    const one = { what: new URL(socket.url()).pathname };
    one.ended = new Promise((resolve) => {
      socket.on('close', () => { one.closed = Date.now(); resolve(one.closed); });
    });
    socket.on('framereceived', () => { one.received = true; });
    all.push(one);
  });
  return { live: (path = /./) => all.filter((one) => !one.closed && one.received && path.test(one.what)) };
}

// Another person, signed in, at the same address: a page that says no, and a WebSocket that does not open.
export async function refused(gate, who, url, socket = url) {
  const person = await open(gate, who, url, 'h1:text-is("No access")');
  const { host, origin } = new URL(url);
  // The page came before there was a session at this host; a token says who it is as well.
  const authorization = `Bearer ${await gate.token(who)}`;
  assert.equal(await upgrade(gate, socket, { authorization, origin }), 403, `a WebSocket of ${who} at ${host}`);
  assert.equal(await upgrade(gate, socket, { origin }), 401, `a WebSocket without a session at ${host}`);
  await person.close();
}

// Asks for a WebSocket; the status of the answer.
export function upgrade(gate, url, headers) {
  return new Promise((resolve, reject) => {
    const sent = ask(gate, url, {
      headers: { ...headers, connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-version': 13, 'sec-websocket-key': 'AAAAAAAAAAAAAAAAAAAAAA==' },
    });
    sent.on('response', (response) => { response.resume(); resolve(response.statusCode); });
    sent.on('upgrade', (response, socket) => { socket.destroy(); resolve(101); });
    sent.on('error', reject).end();
  });
}

// A request to a host of the gate, which no name server knows.
export function ask(gate, url, options = {}) {
  const lookup = (name, { all }, found) => (all ? found(null, [{ address: gate.address, family: 4 }]) : found(null, gate.address, 4));
  return request(url, { lookup, ca: gate.ca, servername: new URL(url).hostname, ...options });
}

// The status of one request, and its body.
export function get(gate, url, options = {}) {
  return new Promise((resolve, reject) => {
    const sent = ask(gate, url, options);
    sent.on('response', (response) => {
      const body = [];
      response.on('error', reject).on('data', (data) => body.push(data));
      response.on('end', () => resolve({ status: response.statusCode, headers: response.headers, body: Buffer.concat(body).toString() }));
    });
    sent.on('error', reject).end();
  });
}

// For how many milliseconds some task of the machine had to wait for a CPU, since it started (tests/stage/machine.rs).
function waited() {
  try {
    return Number(/total=(\d+)/.exec(readFileSync('/proc/pressure/cpu', 'utf8'))[1]) / 1000;
  } catch {
    return 0;
  }
}

// Stops a workspace and waits for the end of what is open: each within a second. Without `how`, its phase changes in the
// list of workspaces.
export async function stopped(gate, workspace, lasting, how = () => gate.list({ [workspace]: 'stopped' })) {
  assert(lasting.length > 0, 'something is open');
  const [at, before] = [Date.now(), waited()];
  let counted = 0;
  const ends = lasting.map(async ({ what, ended }) => {
    let timer;
    const limit = new Promise((resolve, reject) => {
      timer = setTimeout(() => reject(new Error(`${what} is still open`)), 15_000);
    });
    const end = await Promise.race([ended, limit]).finally(() => clearTimeout(timer));
    // A limit holds for the program, not for others on the machine; at least a tenth counts.
    counted = Math.max(counted, end - at - (waited() - before), (end - at) / 10);
    return end;
  });
  await how();
  const took = Math.max(...await Promise.all(ends)) - at;
  assert(counted <= 1000, `${lasting.map(({ what }) => what)} ended after ${took} ms, of which ${counted} count`);
  return took;
}

// Nothing of a stopped workspace is reached, and its owner gets a page that says so; then it runs again.
export async function closed(gate, person, url) {
  const reply = await until('the page of a stopped workspace', async () => {
    const got = await person.page.goto(url);
    return got.status() === 404 && got;
  });
  assert.equal(reply.headers()['cache-control'], 'no-store');
  gate.list();
}
