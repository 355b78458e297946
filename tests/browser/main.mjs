// The proof in a real browser: Chromium, HAProxy, the agent and an OpenID provider, as people meet them.
// Prints a line for each test and `N passed, N failed` at the end.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { certificates, freePort, Gate, LOGIN, PARENT } from './gate.mjs';
import { people, Person } from './person.mjs';
import { startProvider } from './provider.mjs';
import { startWorkspace } from './workspace.mjs';
import * as core from './scenarios.mjs';
import * as hostile from './hostile.mjs';
import * as pages from './pages.mjs';
import * as late from './late.mjs';
import * as ports from './ports.mjs';
import * as hostilePorts from './hostile_ports.mjs';

// The provider tells of what a production would need.
console.info = console.warn = () => {};
const root = resolve(process.argv[2]);
const versions = process.argv.slice(3);
const only = process.env.ONLY ? new RegExp(process.env.ONLY) : /./;
const directory = mkdtempSync(join(tmpdir(), 'identity-spoa-browser-'));
const artefacts = join(root, 'target/browser');
mkdirSync(join(artefacts, 'pages'), { recursive: true });

const open = [];
let passed = 0;
let failed = 0;

async function test(name, run) {
  if (!only.test(name)) return;
  const start = Date.now();
  const before = new Set(people);
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error('took longer than two minutes')), 120_000);
  });
  try {
    await Promise.race([run(), limit]);
    passed += 1;
    console.log(`ok      ${name} (${((Date.now() - start) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failed += 1;
    const seen = await Promise.all([...people].filter((person) => !before.has(person)).map(async (person) => {
      const saw = await person.saw();
      await person.close();
      return saw;
    }));
    console.log(`FAILED  ${name}\n${error.stack ?? error}\nThey saw:\n${seen.join('\n')}`.replaceAll('\n', '\n        '));
  } finally {
    clearTimeout(timer);
  }
}

// A gate with its own agent, HAProxy and workspaces. With `two`, it has two providers and an operator's own look.
async function stage(number, version, { two = false, lifetimes = '' } = {}) {
  const address = `127.${40 + (process.pid % 150)}.${(process.pid >> 8) % 250}.${number + 1}`;
  const idps = ['127.0.1.1', '127.0.1.2'];
  const own = join(directory, `gate${number}`);
  mkdirSync(own);
  const tls = certificates(own, idps);
  const port = await freePort(address);
  const gate = new Gate({ root, directory: own, version, address, port, pages: `127.0.0.1:${await freePort('127.0.0.1')}` });
  Object.assign(gate, { ca: tls.ca, pin: tls.pin, tls, artefacts, issued: [], logs: [] });
  const names = ['corp', 'partner'].slice(0, two ? 2 : 1);
  gate.providers = await Promise.all(names.map((name, at) => startProvider({
    address: idps[at],
    tls,
    reach: { host: address, ca: tls.ca },
    issued: gate.issued,
    client: {
      redirect_uris: [gate.own(`callback/${name}`)],
      post_logout_redirect_uris: [gate.own('signed-out')],
      backchannel_logout_uri: gate.own(`back-channel/${name}`),
    },
  })));
  const attack = { targets: () => [gate.url('mine', '/secret'), gate.url('second', '/secret'), gate.login()], parent: () => PARENT };
  const workspaces = await Promise.all(
    ['mine', 'second', 'bobs', 'hostile', 'nasty', 'moving', 'ported', 'api', 'foe'].map((name) => startWorkspace(name, attack)),
  );
  gate.workspaces = Object.fromEntries(workspaces.map((workspace) => [workspace.name, workspace]));
  gate.list = (change = {}) => {
    const workspace = (id, owner, more = '') => {
      const { owner: now = owner, phase = 'running' } = change[id] ?? {};
      const at = gate.workspaces[id] ? `, destination: "127.0.0.1:${gate.workspaces[id].port}"` : '';
      return `  - { id: ${id}, owner: { issuer: corp, username: ${now} }, phase: ${phase}${at}${more} }\n`;
    };
    const ports = (all) => `, ports: [${all.map(([port, name, more]) => (
      `{ port: ${port}, destination: "127.0.0.1:${gate.workspaces[name].port}"${more ? `, ${more}` : ''} }`)).join(', ')}]`;
    const text = 'workspaces:\n'
      + workspace('mine', 'alice') + workspace('second', 'alice') + workspace('bobs', 'bob')
      + workspace('hostile', 'mallory', ', admission: authenticated') + workspace('nasty', 'mallory', ', admission: authenticated')
      + workspace('moving', 'alice')
      + workspace('ported', 'alice', ports([[3000, 'ported'], [8080, 'api'], [8081, 'api', 'cors_answers: workspace'], [9000, 'api', 'cross_origin: none'], ...(change.ports ?? [])]))
      + workspace('foe', 'mallory', `, admission: authenticated${ports([[3000, 'foe'], [8080, 'foe']])}`);
    writeFileSync(join(own, 'workspaces.yaml'), text);
  };
  gate.list();
  writeFileSync(join(own, 'secret'), 's3cret&+\n', { mode: 0o600 });
  const issuer = (name, at) => `[[issuer]]
name = "${name}"
issuer = "${gate.providers[at].issuer}"
audience = "workspaces"
match = ["username", "subject"]
ca_file = "ca.pem"
unknown_key_seconds = 1
[issuer.sign_in]
client_id = "gate"
client_secret_file = "secret"
${two ? `label = "${at ? 'Partner & Sons' : 'Example Corp'}"\n` : ''}`;
  const look = `[sign_in.pages]
title = "Example workspaces"
logo_file = "logo.svg"
help_text = "Questions? The platform team is glad to help, Monday to Friday."
contact = "mailto:platform@example.com"
texts_file = "texts.toml"
show_owner = true
`;
  writeFileSync(join(own, 'logo.svg'), '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" width="32" height="32">'
    + '<rect width="32" height="32" rx="8" fill="#0b57b0"/><path d="M8 21 16 9l8 12z" fill="#fff"/></svg>\n');
  writeFileSync(join(own, 'texts.toml'), 'signed_out_text = "Goodbye. Every workspace is closed."\n');
  writeFileSync(join(own, 'agent.toml'), `[agent]
listen = ["unix:spop.sock"]
socket_mode = "0666"
${names.map(issuer).join('\n')}
[sign_in]
host = "${LOGIN}"
port = ${port}
listen = "${gate.pages}"
encryption_keys_file = "keys"
${lifetimes}
${two ? look : ''}
[[host]]
pattern = '(?:(?<port>[0-9]+)-)?(?<workspace>[a-z]+)\\.ws\\.gate\\.test'
[workspaces]
file = "workspaces.yaml"
[destinations]
allow = ["127.0.0.0/8"]
[audit]
file = "audit.jsonl"
`);
  open.push(gate);
  await gate.startAgent();
  await gate.startHaproxy(join(own, 'gate.pem'), join(own, 'ca.pem'));
  gate.person = (options) => Person.open(gate, options);
  gate.closeAll = async () => {
    await gate.close();
    for (const each of [...workspaces, ...gate.providers]) each.close();
  };
  return gate;
}

let status = 1;
try {
  const newest = versions.at(-1);
  const [gate, other] = await Promise.all([
    stage(0, newest),
    stage(1, newest, { two: true, lifetimes: 'idle_seconds = 60\nabsolute_seconds = 75' }),
  ]);
  // Sessions end while the rest goes on.
  const ending = late.begin(other);
  for (const [name, run] of Object.entries(core.tests)) await test(name, () => run(gate));
  for (const [name, run] of Object.entries(ports.tests)) await test(name, () => run(gate));
  for (const [name, run] of Object.entries(hostile.tests)) await test(name, () => run(gate));
  for (const [name, run] of Object.entries(hostilePorts.tests)) await test(name, () => run(gate));
  for (const [name, run] of Object.entries(pages.chooser)) await test(name, () => run(other));
  for (const version of versions.slice(0, -1)) {
    const older = await stage(2 + versions.indexOf(version), version);
    for (const name of core.everywhere) await test(`${name} [HAProxy ${version}]`, () => core.tests[name](older));
    for (const name of ports.everywhere) await test(`${name} [HAProxy ${version}]`, () => ports.tests[name](older));
    await test(`p1 [HAProxy ${version}]`, () => hostile.nothingArrived(older));
    await older.closeAll();
  }
  for (const [name, run] of Object.entries(late.tests)) await test(name, () => run(other, ending));
  // Its last test takes the agent away.
  for (const [name, run] of Object.entries(pages.tests)) await test(name, () => run(gate));
  for (const one of [gate, other]) await test(`p1 no secret of the gate reached a workspace or a log${one === other ? ' (two providers)' : ''}`, () => hostile.nothingArrived(one));
  status = failed ? 1 : 0;
} catch (error) {
  failed += 1;
  console.log(`FAILED  the stage\n        ${error.stack}`);
} finally {
  for (const gate of open) {
    if (failed) {
      for (const name of ['agent.log', 'haproxy.log', 'audit.jsonl']) {
        writeFileSync(join(artefacts, `${gate.directory.split('/').at(-1)}-${name}`), gate.read(name));
      }
    }
    await gate.closeAll?.();
  }
  rmSync(directory, { recursive: true, force: true });
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(status);
