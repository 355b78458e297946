// Real apps behind the gate: HAProxy, the agent, Chromium and programs, as people use them. Prints a line for each, the table
// of docs/apps.md, and `N passed, N failed` at the end. A picture of each app is in target/apps/pictures.
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { openStage } from './stage.mjs';
import { people } from './person.mjs';
import { merge, write } from './table.mjs';
import * as web from './web.mjs';
import * as editor from './editor.mjs';
import * as notebook from './notebook.mjs';
import * as data from './data.mjs';
import * as repository from './repository.mjs';
import * as programs from './programs.mjs';
import * as bodies from './bodies.mjs';

// The provider tells of what a production would need.
console.info = console.warn = () => {};
const root = resolve(process.argv[2]);
const all = process.argv.slice(3);
// The newest by default; `local` is the HAProxy of this machine, where there is no container engine.
const versions = process.env.VERSIONS ? process.env.VERSIONS.split(/[ ,]+/).filter(Boolean) : [all.at(-1) ?? 'local'];
const only = process.env.ONLY ? new RegExp(process.env.ONLY) : /./;
const artefacts = join(root, 'target/apps');
const packages = join(artefacts, 'packages');
const directory = mkdtempSync(join(tmpdir(), 'identity-spoa-apps-'));
mkdirSync(join(artefacts, 'pictures'), { recursive: true });

const tests = [web, editor, notebook, bodies, data, repository, programs].flatMap((module) => module.tests);
let [passed, failed, waiting] = [0, 0, 0];

// What the stage knows of packages and programs of others.
function tools(gate) {
  const python = join(artefacts, 'python/bin/python');
  const versionsOf = JSON.parse(readFileSync(join(artefacts, 'python.json'), 'utf8'));
  const editorFile = join(artefacts, 'code-server.json');
  const git = JSON.parse(readFileSync(join(artefacts, 'git.json'), 'utf8'));
  Object.assign(gate, {
    packages,
    python,
    git,
    node: join(artefacts, 'node'),
    packaged: (name) => JSON.parse(readFileSync(join(packages, 'node_modules', name, 'package.json'), 'utf8')).version,
    pythonPackage: (name) => `${name} ${versionsOf[name]}`,
    codeServer: existsSync(editorFile) ? JSON.parse(readFileSync(editorFile, 'utf8')) : undefined,
  });
}

const nameOf = ({ app, what }) => `${app}: ${what}`;

// What takes long by itself begins at once, while other tests run.
function begin(gate) {
  const begun = new Map();
  for (const one of tests.filter((one) => one.begin && only.test(nameOf(one)))) {
    const running = one.begin(gate);
    // Its test awaits it; Node must not report a failure before that.
    running.catch(() => {});
    begun.set(one, running);
  }
  return begun;
}

async function test(gate, one, begun) {
  const name = nameOf(one);
  if (!only.test(name)) return;
  const row = { app: one.app, version: await one.version(gate), what: one.what };
  const why = one.unless?.(gate);
  const start = Date.now();
  const before = new Set(people);
  const seconds = () => ((Date.now() - start) / 1000).toFixed(1);
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error('took too long')), one.limit ?? 300_000);
  });
  try {
    if (why) throw new Error(why);
    const { took, note } = await Promise.race([one.run(gate, begun), limit]);
    if (one.waiting) console.log(`        waits for nothing any more, its mark can go: ${one.waiting}`);
    passed += 1;
    const result = ['works', ...took === undefined ? [] : [`ends in ${took} ms`], ...note ? [note] : []].join('; ');
    merge(artefacts, gate.label, row, result);
    console.log(`ok      ${name} [HAProxy ${gate.label}]: ${result} (${seconds()} s)`);
  } catch (error) {
    const known = Boolean(one.waiting);
    if (known) waiting += 1;
    else failed += 1;
    merge(artefacts, gate.label, row, known ? `does not work yet: ${one.waiting}` : 'fails');
    const seen = await Promise.all([...people].filter((person) => !before.has(person)).map(async (person) => {
      await person.page.screenshot({ path: join(artefacts, 'pictures', `failed-${failed + waiting}.png`) }).catch(() => {});
      const saw = await person.saw();
      await person.close().catch(() => {});
      return saw;
    }));
    console.log(`${known ? 'waiting' : 'FAILED '} ${name} [HAProxy ${gate.label}] (${seconds()} s)\n${error.stack ?? error}\nThey saw:\n${seen.join('\n')}`
      .replaceAll('\n', '\n        '));
  } finally {
    clearTimeout(timer);
    // What a test that failed has stopped runs again for the next one.
    gate.list();
  }
}

const open = [];
// What was started ends with this program.
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.on(signal, async () => {
    await Promise.all(open.map((gate) => gate.end().catch(() => {})));
    process.exit(1);
  });
}
try {
  for (const [number, version] of versions.entries()) {
    const gate = await openStage({ root, directory, artefacts, number, version: version === 'local' ? undefined : version });
    gate.label = version;
    open.push(gate);
    tools(gate);
    const begun = begin(gate);
    for (const one of tests) await test(gate, one, begun.get(one));
    if (failed) keep(gate);
    await gate.end();
    open.pop();
  }
} catch (error) {
  failed += 1;
  console.log(`FAILED  the stage\n        ${error.stack}`);
} finally {
  for (const gate of open) {
    keep(gate);
    await gate.end().catch(() => {});
  }
  rmSync(directory, { recursive: true, force: true });
}
write(root, artefacts);
if (waiting) console.log(`${waiting} wait for a change of the gate`);
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);

// The logs of a stage in which a test failed.
function keep(gate) {
  for (const name of ['agent.log', 'haproxy.log', 'audit.jsonl', ...gate.programs.map((program) => `${program.name}.log`)]) {
    writeFileSync(join(artefacts, `${gate.label}-${name}`), gate.read(name));
  }
}
