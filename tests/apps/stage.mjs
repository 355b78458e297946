// The gate with a real HAProxy, the agent and a provider, as in the browser tests, and a workspace for each app.
import { execFile, spawn } from 'node:child_process';
import { mkdirSync, openSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';

import { certificates, freePort, Gate, LOGIN } from './gate.mjs';
import { Person } from './person.mjs';
import { startProvider } from './provider.mjs';
import { until } from './until.mjs';

export const HUB = 'hub.gate.test';
// What the provider calls the agent's audience (RFC 8707).
const RESOURCE = 'https://workspaces.test/';
const secrets = { routes: 'proxy-0123456789abcdef', agent: 'agent-0123456789abcdef', admin: 'admin-0123456789abcdef' };

// Each workspace and its owner; the last has no app but its own.
const OWNERS = { front: 'alice', editor: 'alice', panel: 'alice', data: 'alice', repo: 'alice', files: 'alice', slow: 'alice', idle: 'alice', bobs: 'bob' };

export async function openStage({ root, directory, artefacts, version, number }) {
  const address = `127.${40 + (process.pid % 150)}.${(process.pid >> 8) % 250}.${100 + number}`;
  const idp = '127.0.1.3';
  const own = join(directory, `gate${number}`);
  mkdirSync(own);
  const tls = certificates(own, [idp], [HUB, `*.${HUB}`]);
  const gate = new Gate({
    root, directory: own, version, address, port: await freePort(address), pages: `127.0.0.1:${await freePort('127.0.0.1')}`,
  });
  Object.assign(gate, { ca: tls.ca, pin: tls.pin, artefacts, programs: [], people: [], ports: {}, secrets });
  gate.hubUrl = `https://${HUB}:${gate.port}`;
  gate.provider = await startProvider({
    address: idp,
    tls,
    reach: { host: address, ca: tls.ca },
    issued: [],
    client: { redirect_uris: [gate.own('callback/corp')], post_logout_redirect_uris: [gate.own('signed-out')] },
    others: [{
      client_id: 'cli',
      application_type: 'native',
      token_endpoint_auth_method: 'none',
      redirect_uris: ['http://127.0.0.1/callback'],
      grant_types: ['authorization_code', 'refresh_token'],
      id_token_signed_response_alg: 'ES256',
    }, {
      client_id: 'hub',
      client_secret: 'hub',
      redirect_uris: [`${gate.hubUrl}/hub/oauth_callback`],
      id_token_signed_response_alg: 'ES256',
    }],
    settings: {
      extraTokenClaims: (ctx, { accountId }) => ({ preferred_username: accountId }),
      features: {
        resourceIndicators: {
          enabled: true,
          useGrantedResource: () => true,
          getResourceServerInfo: () => ({
            scope: 'reach', audience: 'workspaces', accessTokenFormat: 'jwt', accessTokenTTL: 3600, jwt: { sign: { alg: 'ES256' } },
          }),
        },
      },
    },
  });
  for (const name of [...Object.keys(OWNERS), 'api', 'hub', 'routes']) gate.ports[name] = await freePort('127.0.0.1');
  gate.list = (phases = {}) => {
    const text = Object.entries(OWNERS).map(([id, owner]) => `  - { id: ${id}, owner: { username: ${owner} }, phase: ${phases[id] ?? 'running'}, `
      + `destination: "127.0.0.1:${gate.ports[id]}"${id === 'front' ? `, ports: [{ port: 8080, destination: "127.0.0.1:${gate.ports.api}" }]` : ''} }\n`);
    writeFileSync(join(own, 'next.yaml'), `workspaces:\n${text.join('')}`);
    renameSync(join(own, 'next.yaml'), join(own, 'workspaces.yaml'));
  };
  gate.list();
  for (const [name, text] of Object.entries({ secret: 's3cret&+', routes: secrets.routes, agent: secrets.agent })) {
    writeFileSync(join(own, name), `${text}\n`, { mode: 0o600 });
  }
  writeFileSync(join(own, 'agent.toml'), `[agent]
listen = ["unix:spop.sock"]
socket_mode = "0666"
[[issuer]]
name = "corp"
issuer = "${gate.provider.issuer}"
audience = "workspaces"
match = ["username", "subject"]
ca_file = "ca.pem"
[issuer.sign_in]
client_id = "gate"
client_secret_file = "secret"
[sign_in]
host = "${LOGIN}"
port = ${gate.port}
listen = "${gate.pages}"
encryption_keys_file = "keys"
[[host]]
pattern = '(?:(?<port>[0-9]+)-)?(?<workspace>[a-z]+)\\.ws\\.gate\\.test'
[[host]]
pattern = '(?<workspace>[a-z]+)\\.hub\\.gate\\.test'
source = "hub"
[[host]]
pattern = 'hub\\.gate\\.test'
workspace = "hub"
source = "hub"
[workspaces]
file = "workspaces.yaml"
[[source]]
name = "hub"
kind = "jupyterhub"
host = "${HUB}"
url = "http://127.0.0.1:${gate.ports.hub}/hub/api"
token_file = "agent"
routes_listen = "127.0.0.1:${gate.ports.routes}"
routes_token_file = "routes"
[destinations]
allow = ["127.0.0.0/8"]
[haproxy]
sockets = ["unix:master.sock"]
[tunnels]
# One person has an eighth of them.
max = 100000
[audit]
file = "audit.jsonl"
`);
  gate.person = async () => {
    const person = await Person.open(gate);
    gate.people.push(person);
    return person;
  };
  gate.start = (name, command, args, options) => start(gate, name, command, args, options);
  gate.hold = (name, command, args, env) => hold(gate, name, command, args, env);
  gate.run = (command, args, options) => run(gate, command, args, options);
  gate.token = (name) => token(gate, name);
  gate.picture = (page, name) => page.screenshot({ path: join(artefacts, 'pictures', `${name}.png`) });
  gate.end = async () => {
    for (const person of gate.people) await person.close().catch(() => {});
    for (const { stop } of gate.programs) await stop();
    await gate.close();
    gate.provider.close();
  };
  await gate.startAgent();
  await gate.startHaproxy(join(own, 'gate.pem'), join(own, 'ca.pem'));
  return gate;
}

// Starts an app and waits until its port accepts connections. It is the head of a process group, which ends as one.
async function start(gate, name, command, args, { port, cwd = gate.directory, env = {} } = {}) {
  const log = join(gate.directory, `${name}.log`);
  const file = openSync(log, 'w');
  const child = spawn(command, args, { cwd, detached: true, env: { ...clean(), ...env }, stdio: ['pipe', file, file] });
  const text = () => readFileSync(log, 'utf8');
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.on('error', () => {});
  const program = {
    name,
    text,
    async stop() {
      gate.programs = gate.programs.filter((one) => one !== program);
      try { process.kill(-child.pid, 'SIGKILL'); } catch { /* it has ended */ }
      await ended;
    },
  };
  gate.programs.push(program);
  await until(`${name} to listen`, () => {
    if (child.exitCode !== null || child.pid === undefined) throw new Error(`${name} ended: ${text()}`);
    return accepts(port);
  }, { within: 120_000, every: 100 });
  return program;
}

// Starts a program of the tests that prints words and what belongs to each.
async function hold(gate, name, command, args, env) {
  const child = spawn(command, args, { detached: true, env: { ...clean(), ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  let [out, err] = ['', ''];
  child.stdout.on('data', (data) => { out += data; });
  child.stderr.on('data', (data) => { err += data; });
  const ended = new Promise((resolve) => child.once('close', resolve));
  const program = {
    name,
    says: (word, within) => until(`${name} to say ${word}`, () => {
      const found = new RegExp(`^${word} (.*)$`, 'm').exec(out)?.[1];
      if (found === undefined && child.exitCode !== null) throw new Error(`${name} ended: ${out}${err}`);
      return found;
    }, { within }),
    async stop() {
      gate.programs = gate.programs.filter((one) => one !== program);
      try { process.kill(-child.pid, 'SIGKILL'); } catch { /* it has ended */ }
      await ended;
    },
  };
  gate.programs.push(program);
  return program;
}

function accepts(port) {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => { socket.destroy(); resolve(true); });
    socket.on('error', () => resolve(false));
  });
}

// The environment without a proxy's variables: everything here is on loopback.
function clean() {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !/_proxy$/i.test(name)));
}

// Runs a program to its end; never rejects.
function run(gate, command, args, { cwd = gate.directory, env = {}, timeout = 120_000 } = {}) {
  return new Promise((resolve) => {
    execFile(command, args, { cwd, timeout, env: { ...clean(), ...env }, maxBuffer: 1 << 26 }, (error, out, err) => {
      resolve({ code: error ? error.code ?? error.signal : 0, out, err });
    });
  });
}

// How a terminal asks for a token.
export function loginArgs(gate, cache = join(gate.directory, 'tokens.json')) {
  return ['login', '--issuer', gate.provider.issuer, '--client-id', 'cli', '--resource', RESOURCE,
    '--ca-file', join(gate.directory, 'ca.pem'), '--cache', cache];
}

// Signs a person in as a terminal does, with a browser, and returns the access token.
async function token(gate, name) {
  gate.tokens ??= {};
  gate.tokens[name] ??= (async () => {
    const cache = join(gate.directory, name === 'alice' ? 'tokens.json' : `tokens-${name}.json`);
    const child = spawn(join(gate.root, 'target/debug/identity-spoa'), [...loginArgs(gate, cache), '--browser'], {
      stdio: ['ignore', 'pipe', 'pipe'], env: { ...clean(), DISPLAY: '', BROWSER: '' },
    });
    let [out, err] = ['', ''];
    child.stdout.on('data', (data) => { out += data; });
    child.stderr.on('data', (data) => { err += data; });
    const ended = new Promise((resolve) => child.once('exit', resolve));
    const url = await until('the address to sign in at', () => {
      if (child.exitCode !== null) throw new Error(`login ended: ${err}`);
      return /https:\S+\/auth\?\S+/.exec(err)?.[0];
    });
    const person = await gate.person();
    await person.page.goto(url);
    await person.signIn(name);
    // A provider asks each time before it gives a program on this machine a token.
    await person.page.click('button:text-is("Continue")');
    await until('the token', () => child.exitCode !== null || child.signalCode !== null);
    await ended;
    await person.close();
    if (child.exitCode !== 0) throw new Error(`login: ${err}`);
    return out.trim();
  })();
  return gate.tokens[name];
}
