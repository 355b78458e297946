// Attacks on the ports of a workspace, by pages of another one and by pages that look like its own.
import { strict as assert } from 'node:assert';
import { createServer as createHttp } from 'node:http';
import { createServer } from 'node:https';

import { freePort } from './gate.mjs';
import { nothing, use } from './use.mjs';

const api = (gate) => gate.url('8080-ported', '').replace(/\/$/, '');
const ways = (gate, more) => ({ api: api(gate), socket: api(gate).replace('https:', 'wss:'), ...more });

// Alice has sessions at her workspace's ports, and then opens the foe's page.
async function victim(gate, name = 'foe', path = '/page') {
  const person = await gate.person();
  await person.visit(gate.url('3000-ported'));
  await person.signIn('alice');
  await person.page.waitForSelector('h1:text-is("workspace ported")');
  await person.page.waitForFunction(() => document.readyState === 'complete');
  await person.visit(gate.url(name, path));
  await person.page.waitForFunction(() => document.readyState === 'complete');
  return person;
}

// What arrives at the ports in her name from now on.
function counting(gate) {
  const names = ['ported', 'api'];
  const before = names.map((name) => gate.workspaces[name].recording().length);
  return () => names.flatMap((name, at) => gate.workspaces[name].recording().slice(before[at])
    .split(/(?=(?:GET|POST|PUT|OPTIONS|HEAD) \/)/)
    .filter((text) => text && !text.startsWith('GET /favicon.ico '))
    .map((text) => text.split('\r\n')[0]));
}

// A server of someone else at the very address of the gate, at another port: cookies do not keep ports apart.
async function besides(gate, scheme) {
  const serve = (request, response) => response.setHeader('content-type', 'text/html').end('<!doctype html><title>besides</title>');
  const server = scheme === 'https' ? createServer(gate.tls, serve) : createHttp(serve);
  const port = await freePort(gate.address);
  await new Promise((done) => { server.listen(port, gate.address, done); });
  return { port, close: () => { server.closeAllConnections(); server.close(); } };
}

export const tests = {
  async 'q3 hostile 1: a page of another workspace, at a port of the same number, reaches nothing'(gate) {
    for (const name of ['foe', '3000-foe', '8080-foe']) {
      const person = await victim(gate, name);
      const since = counting(gate);
      nothing(await person.page.evaluate(use, ways(gate)));
      assert.deepEqual(since(), [], name);
      await person.close();
    }
  },

  async 'q3 hostile 2: a page at another port of the same address has another origin'(gate) {
    const server = await besides(gate, 'https');
    const person = await victim(gate);
    for (const name of ['3000-ported', '8080-ported', 'ported']) {
      await person.page.goto(`https://${gate.host(name)}:${server.port}/`);
      const since = counting(gate);
      nothing(await person.page.evaluate(use, ways(gate)));
      assert.deepEqual(since(), [], name);
    }
    await person.close();
    server.close();
  },

  async 'q3 hostile 3: a page of plain http has another origin'(gate) {
    const server = await besides(gate, 'http');
    const person = await victim(gate);
    // HSTS would not let the browser open it; a browser that never saw the gate has no session either.
    const reply = await person.page.goto(`http://${gate.host('plain-ported')}:${server.port}/`).catch((error) => error);
    assert(reply, 'it is opened or refused');
    const since = counting(gate);
    nothing(await person.page.evaluate(use, ways(gate)));
    assert.deepEqual(since(), []);
    await person.close();
    server.close();
  },

  async 'q3 hostile 4: a sandboxed frame and a data page have the origin null, also in a page of the workspace'(gate) {
    for (const name of ['foe', '3000-ported']) {
      const person = await victim(gate, name);
      const since = counting(gate);
      const code = `<!doctype html><script>(${use})(${JSON.stringify(ways(gate))}).then((results) => parent.postMessage(results, '*'));</script>`;
      const results = await person.page.evaluate((html) => Promise.all(['srcdoc', 'data'].map((how) => new Promise((done) => {
        const frame = document.createElement('iframe');
        frame.sandbox = 'allow-scripts';
        if (how === 'srcdoc') frame.srcdoc = html; else frame.src = `data:text/html,${encodeURIComponent(html)}`;
        window.addEventListener('message', ({ data, source }) => { if (source === frame.contentWindow) done(data); });
        document.body.append(frame);
      }))), code);
      // Images of the workspace's own sandboxed frame name its page in Referer.
      for (const result of results) {
        const { image, script, ...others } = result;
        nothing(name === 'foe' ? result : others);
      }
      assert.deepEqual(since().filter((line) => !/^GET \/(pixel\.svg|lib\.js) /.test(line)), [], name);
      if (name === 'foe') assert.deepEqual(since(), []);
      await person.close();
    }
  },

  async 'q3 hostile 5: a redirect of another workspace takes the origin away'(gate) {
    const person = await victim(gate, '3000-ported');
    const since = counting(gate);
    const to = (url) => `${gate.url('foe', '/away')}?to=${encodeURIComponent(url)}`;
    const results = await person.page.evaluate(async (urls) => {
      const results = [];
      for (const url of urls) {
        for (const options of [{}, { method: 'POST', body: 'x' }, { method: 'PUT', headers: { 'x-csrf': '1' } }]) {
          try {
            const reply = await fetch(url, { credentials: 'include', ...options });
            results.push(`${reply.status} ${await reply.text()}`);
          } catch (error) { results.push(`failed: ${error}`); }
        }
      }
      return results;
    }, [to(`${api(gate)}/api`), to(to(`${api(gate)}/api`))]);
    for (const result of results) assert(!result.includes('alice'), result);
    assert.deepEqual(since().filter((line) => line.includes('/api')), []);
    await person.close();
  },

  async 'q3 hostile 6: an open redirect of the workspace itself helps no other page'(gate) {
    const person = await victim(gate, '3000-foe');
    const since = counting(gate);
    const target = `${gate.url('3000-ported', '/away')}?to=${encodeURIComponent(`${api(gate)}/api`)}`;
    nothing(await person.page.evaluate(use, { ...ways(gate), api: target.replace(/$/, '&x=') }));
    assert.deepEqual(since().filter((line) => line.includes('/api') || line.includes('/away')), []);
    await person.close();
  },

  async 'q3 hostile 7: a service worker of another workspace cannot name another page'(gate) {
    const person = await victim(gate, '3000-foe', '/relay');
    await person.page.waitForSelector('#state:text-is("ready")');
    const since = counting(gate);
    const referrer = gate.url('3000-ported', '/front');
    const calls = ['no-cors', 'cors', 'same-origin'].flatMap((mode) => ['GET', 'POST'].flatMap((method) => [
      { mode, method, credentials: 'include' },
      { mode, method, credentials: 'include', referrer },
      { mode, method, credentials: 'include', referrer, referrerPolicy: 'unsafe-url' },
      { mode, method, credentials: 'include', referrerPolicy: 'no-referrer' },
      { mode, method, credentials: 'include', headers: { origin: referrer, referer: referrer, 'sec-fetch-site': 'same-origin' } },
    ])).map((options) => [`${api(gate)}/api`, options]);
    const { results } = await person.page.evaluate((all) => window.relay(all), calls);
    for (const [type, , text = ''] of results) {
      assert(type === 'error' || type === 'opaque', `${type} ${text}`);
      assert(!text.includes('alice'), text);
    }
    assert.deepEqual(since(), []);
    await person.close();
  },

  async 'q3 hostile 8: a preflight that the browser has stored is for the page that asked'(gate) {
    const person = await victim(gate, '3000-ported');
    const own = await person.page.evaluate(use, ways(gate));
    assert.equal(own.put.user, 'alice', 'and now the preflight is stored');
    await person.visit(gate.url('3000-foe', '/page'));
    const since = counting(gate);
    nothing(await person.page.evaluate(use, ways(gate)));
    assert.deepEqual(since(), []);
    await person.close();
  },

  async 'q3 hostile 9: an address or a policy of the page does not make its referrer another one'(gate) {
    const person = await victim(gate, 'foe', `/x/https://${gate.host('3000-ported')}/?${gate.url('3000-ported', '/')}`);
    const since = counting(gate);
    for (const policy of ['unsafe-url', 'origin', 'no-referrer', 'strict-origin']) {
      const results = await person.page.evaluate(async ({ policy, urls, own }) => {
        const meta = document.createElement('meta');
        Object.assign(meta, { name: 'referrer', content: policy });
        document.head.append(meta);
        history.replaceState(null, '', `/${encodeURIComponent(own)}/${own}`);
        return Promise.all(urls.map((src) => new Promise((done) => {
          const made = document.createElement(src.endsWith('.js') ? 'script' : 'img');
          Object.assign(made, { src: `${src}?${policy}`, referrerPolicy: policy });
          made.onload = () => done('loaded');
          made.onerror = () => done('refused');
          document.head.append(made);
        })));
      }, { policy, urls: [`${api(gate)}/pixel.svg`, `${api(gate)}/lib.js`], own: gate.url('3000-ported', '/') });
      assert.deepEqual(results, ['refused', 'refused'], policy);
    }
    assert.deepEqual(since(), []);
    await person.close();
  },

  async 'q3 hostile 10: no worker or page of a workspace sees the tickets for its ports'(gate) {
    const person = await victim(gate, '3000-foe', '/relay');
    await person.page.waitForSelector('#state:text-is("ready")');
    // The session ends at all of its hosts but the login host, so that all tickets are made again under the eyes of its worker.
    for (const name of ['foe', '3000-foe', '8080-foe']) await person.context.clearCookies({ domain: gate.host(name) });
    person.requests.length = 0;
    await person.visit(gate.url('3000-foe', '/relay'));
    await person.page.waitForSelector('#state:text-is("ready")');
    const made = person.requests.map(({ url }) => url).filter((url) => url.includes('/finish?'));
    assert(made.length >= 1, `${made}`);
    assert(person.requests.every(({ url, navigation }) => !(navigation && url.includes('/finish?'))), 'in no navigation');
    const { seen } = await person.page.evaluate(() => window.relay([]));
    const entries = await person.page.evaluate(() => JSON.stringify([performance.getEntries(), document.referrer, location.href]));
    for (const text of [...seen, entries]) assert(!text.includes('/finish?'), text);
    // Each is used up.
    const thief = await gate.person();
    for (const url of made) {
      await thief.page.goto(url);
      assert.deepEqual((await thief.cookies()).filter(({ name }) => name === '__Host-identity'), [], url);
    }
    await thief.close();
    await person.close();
  },
};
