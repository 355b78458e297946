// What web developers start: Vite, an API on another port, and an app with sessions of its own.
import { strict as assert } from 'node:assert';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { closed, get, open, refused, stopped } from './access.mjs';
import { until } from './until.mjs';

function project(gate) {
  const directory = join(gate.directory, 'front');
  mkdirSync(directory, { recursive: true });
  const write = (name, text) => writeFileSync(join(directory, name), text);
  write('index.html', '<!doctype html><title>front</title><h1>Front end</h1><p id="text"></p><script type="module" src="/main.js"></script>');
  write('main.js', `import { text } from './text.js';
const show = (text) => { document.querySelector('#text').textContent = text; };
show(text);
import.meta.hot?.accept('./text.js', (now) => show(now.text));
`);
  write('text.js', "export const text = 'one';\n");
  write('vite.config.js', 'export default { clearScreen: false };\n');
  const vite = join(gate.packages, 'node_modules/vite/bin/vite.js');
  const args = [vite, '--host', '127.0.0.1', '--port', String(gate.ports.front), '--strictPort'];
  const start = () => gate.start('vite', gate.node, args, { port: gate.ports.front, cwd: directory });
  return { write, start };
}

// Vite with the gate's hosts allowed, unless it runs already.
async function vite(gate) {
  if (gate.programs.some(({ name }) => name === 'vite')) return;
  const { write, start } = project(gate);
  write('vite.config.js', "export default { clearScreen: false, server: { allowedHosts: ['.ws.gate.test'] } };\n");
  await start();
}

async function api(gate) {
  if (gate.programs.some(({ name }) => name === 'api')) return;
  await gate.start('api', gate.node, [join(gate.packages, 'servers/api.mjs'), String(gate.ports.api)], { port: gate.ports.api });
}

// In a page: logs in at an API and asks it for who that is.
const ownLogin = async (at) => {
  const json = { 'content-type': 'application/json' };
  const own = { credentials: 'include' };
  const { token } = await (await fetch(`${at}/login`, { ...own, method: 'POST', headers: json, body: JSON.stringify({ name: 'ed' }) })).json();
  const authorization = `Bearer ${token}`;
  const me = await fetch(`${at}/me`, { ...own, headers: { authorization } });
  const put = await fetch(`${at}/items/7`, { ...own, method: 'PUT', headers: { ...json, authorization }, body: JSON.stringify({ name: 'x' }) });
  return { status: [me.status, put.status], me: await me.json().catch(() => null), put: await put.json().catch(() => null) };
};
const expected = { status: [200, 200], me: { login: 'ed', gate: 'alice' }, put: { id: '7', name: 'x', by: 'ed' } };

export const tests = [
  {
    app: 'Vite',
    version: (gate) => gate.packaged('vite'),
    what: 'page, hot reload over its WebSocket',
    async run(gate) {
      const url = gate.url('front');
      const { write, start } = project(gate);
      const strict = await start();
      // Vite's own check of hosts, which its setting mends: docs/apps.md.
      const person = await open(gate, 'alice', url, 'text=allowedHosts');
      await strict.stop();
      await vite(gate);
      await person.page.goto(url);
      await person.page.waitForSelector('#text:text-is("one")');
      await until("Vite's WebSocket", () => person.sockets.live().length === 1);
      await person.page.evaluate(() => { window.marker = 'kept'; });
      write('text.js', "export const text = 'two';\n");
      await person.page.waitForSelector('#text:text-is("two")');
      assert.equal(await person.page.evaluate(() => window.marker), 'kept', 'the page was not loaded again');
      await gate.picture(person.page, 'vite');
      await refused(gate, 'bob', url);
      const took = await stopped(gate, 'front', person.sockets.live());
      await closed(gate, person, url);
      await person.close();
      return { took };
    },
  },
  {
    app: 'Express',
    version: (gate) => gate.packaged('express'),
    what: 'API at port 8080, opened before in a tab, log-in of its own by `Authorization: Bearer`',
    async run(gate) {
      await api(gate);
      const url = gate.url('8080-front');
      const person = await open(gate, 'alice', url, 'h1:text-is("API")');
      assert.deepEqual(await person.page.evaluate(ownLogin, ''), expected);
      await refused(gate, 'bob', url, `${url}socket`);
      await person.close();
      return {};
    },
  },
  {
    app: 'Vite and Express',
    version: (gate) => `${gate.packaged('vite')}, ${gate.packaged('express')}`,
    what: 'page at one port, API at another that was never opened: fetch with preflights, the API\'s own `Bearer`, EventSource, WebSocket',
    async run(gate) {
      await vite(gate);
      await api(gate);
      const person = await open(gate, 'alice', gate.url('front'), '#text');
      const at = gate.url('8080-front', '');
      assert.deepEqual(await person.page.evaluate(ownLogin, at), expected);
      await gate.picture(person.page, 'vite-express');
      const heard = await person.page.evaluate((api) => Promise.all([
        new Promise((resolve) => {
          const events = new EventSource(`${api}/events`, { withCredentials: true });
          events.onmessage = ({ data }) => resolve(data);
          events.onerror = () => resolve('refused');
        }),
        new Promise((resolve) => {
          const socket = new WebSocket(`${api.replace('https:', 'wss:')}/socket`);
          socket.onopen = () => socket.send('hello');
          socket.onmessage = ({ data }) => resolve(data);
          socket.onerror = () => resolve('refused');
        }),
      ]), at);
      assert.deepEqual(heard, ['1', 'heard hello']);
      const live = person.sockets.live();
      assert.deepEqual(live.map(({ what }) => what), ['/', '/socket']);
      const took = await stopped(gate, 'front', live);
      await closed(gate, person, gate.url('front'));
      await person.close();
      return { took };
    },
  },
  {
    app: 'an app with sessions of its own',
    version: (gate) => `express-session ${gate.packaged('express-session')}`,
    what: 'form, cookie, redirect to its own address, check of `Origin`, WebSocket',
    async run(gate) {
      await gate.start('panel', gate.node, [join(gate.packages, 'servers/panel.mjs'), String(gate.ports.panel)], { port: gate.ports.panel });
      const url = gate.url('panel');
      const person = await open(gate, 'alice', url, 'h1:text-is("Log in")');
      await person.page.fill('input[name=user]', 'ed');
      await person.page.fill('input[name=password]', 'any');
      await person.page.click('button');
      await person.page.waitForURL(gate.url('panel', '/d/1?orgId=1'));
      await person.page.waitForSelector('#live:text-is("live for ed")');
      assert.equal(await person.page.textContent('#user'), 'ed');
      assert.equal(await person.page.textContent('#gate'), 'alice');
      assert.equal(await person.page.textContent('#cookies'), 'panel_session panel_theme', "its own cookies, and not the gate's");
      await gate.picture(person.page, 'sessions-of-its-own');
      await refused(gate, 'bob', url, gate.url('panel', '/api/live'));
      const took = await stopped(gate, 'panel', person.sockets.live());
      await closed(gate, person, url);
      await person.page.goto(gate.url('panel', '/d/2'));
      await person.page.waitForSelector('h1:text-is("Dashboard 2")');
      await person.page.click('text=Log out');
      await person.page.waitForSelector('h1:text-is("Log in")');
      await person.close();
      return { took };
    },
  },
  {
    app: "bob's own API",
    version: (gate) => gate.packaged('express'),
    what: 'another owner at another workspace; alice is refused',
    async run(gate) {
      await gate.start('bobs', gate.node, [join(gate.packages, 'servers/api.mjs'), String(gate.ports.bobs)], { port: gate.ports.bobs });
      const url = gate.url('bobs');
      const person = await open(gate, 'bob', url, 'h1:text-is("API")');
      const said = await person.page.evaluate(() => fetch('/open').then((reply) => reply.json()));
      assert.deepEqual(said, { gate: 'bob' });
      await refused(gate, 'alice', url, `${url}socket`);
      const { status } = await get(gate, url);
      assert.equal(status, 401);
      await person.close();
      return {};
    },
  },
];
