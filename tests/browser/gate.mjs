// A real HAProxy in a container (or of this machine) with the shipped files, and the real agent.
import { execFileSync, spawn } from 'node:child_process';
import { copyFileSync, mkdirSync, openSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';

import { until } from './until.mjs';

export const LOGIN = 'login.gate.test';
export const PARENT = 'ws.gate.test';

// A port that is free at this moment, for programs that cannot choose one.
export async function freePort(address) {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, address, resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

// A certificate authority of this run, and one certificate of it for everything: the hosts of workspaces, `hosts`, and
// `addresses`.
export function certificates(directory, addresses, hosts = []) {
  const run = (...args) => execFileSync('openssl', args, { cwd: directory, stdio: ['ignore', 'pipe', 'pipe'] });
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  run('req', '-x509', ...curve, '-days', '2', '-subj', '/CN=identity-spoa browser tests',
    '-addext', 'basicConstraints=critical,CA:true', '-keyout', 'ca.key', '-out', 'ca.pem');
  const names = [...[`*.${PARENT}`, LOGIN, ...hosts].map((host) => `DNS:${host}`), ...addresses.map((ip) => `IP:${ip}`)];
  writeFileSync(join(directory, 'names'), `subjectAltName=${names.join(',')}\n`);
  run('req', ...curve, '-subj', '/CN=gate', '-keyout', 'gate.key', '-out', 'gate.csr');
  run('x509', '-req', '-in', 'gate.csr', '-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '2',
    '-extfile', 'names', '-out', 'gate.crt');
  const read = (name) => readFileSync(join(directory, name));
  writeFileSync(join(directory, 'gate.pem'), Buffer.concat([read('gate.crt'), read('gate.key')]));
  const key = execFileSync('sh', ['-c',
    'openssl x509 -in gate.crt -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64'],
  { cwd: directory }).toString().trim();
  return { ca: read('ca.pem'), cert: read('gate.crt'), key: read('gate.key'), pin: key };
}

export class Gate {
  constructor({ root, directory, version, address, port, pages }) {
    Object.assign(this, { root, directory, version, address, port, pages });
    this.name = `identity-spoa-browser-${process.pid}-${version ?? 'local'}-${port}`.replaceAll('.', '-');
  }

  url(workspace, path = '/') { return `https://${this.host(workspace)}:${this.port}${path}`; }
  host(workspace) { return `${workspace}.${PARENT}`; }
  login(path = '/') { return `https://${LOGIN}:${this.port}${path}`; }
  own(name) { return this.login(`/.well-known/identity-spoa/${name}`); }

  // The shipped files, with the arguments for sign-in that identity.spoe.cfg names. The agent closes tunnels through the
  // master's socket, master.sock.
  async startHaproxy(certificate, authority) {
    const shipped = join(this.root, 'haproxy');
    const copy = join(this.directory, 'haproxy');
    mkdirSync(join(copy, 'pages'), { recursive: true });
    for (const file of readdirSync(shipped)) {
      if (statSync(join(shipped, file)).isFile()) copyFileSync(join(shipped, file), join(copy, file));
    }
    for (const page of readdirSync(join(shipped, 'pages'))) {
      copyFileSync(join(shipped, 'pages', page), join(copy, 'pages', page));
    }
    const spoe = readFileSync(join(copy, 'identity.spoe.cfg'), 'utf8');
    const more = spoe.split('\n').find((line) => line.startsWith('#     query=query fetch_mode'))?.slice(1).trim();
    const args = 'certificate_result=ssl_c_verify\n\nspoe-group authorize\n';
    if (!more || !spoe.includes(args)) throw new Error('identity.spoe.cfg is not what it was');
    writeFileSync(join(copy, 'identity.spoe.cfg'), spoe.replace(args, args.replace('verify\n', `verify ${more}\n`)));
    const env = {
      GATE_HTTP: `${this.address}:${await freePort(this.address)}`,
      GATE_HTTPS: `${this.address}:${this.port}`,
      GATE_CERT: certificate,
      GATE_UPSTREAM_CA: authority,
      GATE_LOGIN_HOST: LOGIN,
      GATE_LOGIN_PAGES: this.pages,
      IDENTITY_AGENT: `unix@${join(this.directory, 'spop.sock')}`,
    };
    const run = ['-W', '-db', '-S', join(this.directory, 'master.sock'), '-C', copy, '-f', 'haproxy.cfg'];
    const log = openSync(join(this.directory, 'haproxy.log'), 'w');
    const stdio = ['ignore', log, log];
    if (this.version) {
      const options = Object.entries(env).flatMap(([key, value]) => ['-e', `${key}=${value}`]);
      this.haproxy = spawn('docker', ['run', '--rm', '--network', 'host', '--user', '0', '--name', this.name,
        '-v', `${this.directory}:${this.directory}`, '-v', `${certificate}:${certificate}:ro`,
        '-v', `${authority}:${authority}:ro`, ...options, `identity-spoa/haproxy:${this.version}`, 'haproxy', ...run], { stdio });
    } else {
      this.haproxy = spawn('haproxy', run, { stdio, env: { ...process.env, ...env } });
    }
    await until('HAProxy to listen', () => {
      if (this.haproxy.exitCode !== null) throw new Error(`HAProxy ended: ${this.haproxyLog()}`);
      return this.haproxyLog().includes('Loading success');
    });
  }

  async startAgent() {
    const log = openSync(join(this.directory, 'agent.log'), 'a');
    const before = this.agentLog().length;
    this.agent = spawn(join(this.root, 'target/debug/identity-spoa'), ['run', '--config', join(this.directory, 'agent.toml')], {
      stdio: ['ignore', 'ignore', log],
      env: { ...process.env, RUST_LOG: 'debug,hyper=info,h2=info,reqwest=info,hyper_util=info,rustls=info' },
    });
    await until('the agent to be ready', () => {
      if (this.agent.exitCode !== null) throw new Error(`the agent ended: ${this.agentLog()}`);
      return this.agentLog().slice(before).includes('"ready"');
    });
  }

  async stopAgent(signal = 'SIGTERM') {
    if (!this.agent || this.agent.exitCode !== null || this.agent.signalCode !== null) return;
    const ended = new Promise((resolve) => this.agent.once('exit', resolve));
    this.agent.kill(signal);
    await ended;
  }

  read(name) {
    try { return readFileSync(join(this.directory, name), 'utf8'); } catch { return ''; }
  }
  agentLog() { return this.read('agent.log'); }
  haproxyLog() { return this.read('haproxy.log'); }
  audit() { return this.read('audit.jsonl').split('\n').filter(Boolean).map((line) => JSON.parse(line)); }

  async close() {
    await this.stopAgent('SIGKILL');
    if (this.version) {
      try { execFileSync('docker', ['rm', '-f', this.name], { stdio: 'ignore' }); } catch { /* it is gone */ }
    } else {
      this.haproxy?.kill();
    }
  }
}
