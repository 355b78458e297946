// What people do with several ports of one workspace.
import { strict as assert } from 'node:assert';

import { until } from './until.mjs';
import { use } from './use.mjs';

// On every version of HAProxy.
export const everywhere = ['q3 a page uses another port of its workspace the first time, without a tab of it'];

const at = (gate, port) => gate.url(`${port}-ported`, '').replace(/\/$/, '');
const front = async (gate, options) => {
  const person = await gate.person(options);
  await person.visit(gate.url('3000-ported', '/front?a=b'));
  await person.signIn('alice');
  await person.page.waitForSelector('h1:text-is("workspace ported")');
  return person;
};
const ways = (gate, port) => ({ api: at(gate, port), socket: at(gate, port).replace('https:', 'wss:') });

export const tests = {
  async 'q3 a page uses another port of its workspace the first time, without a tab of it'(gate) {
    const person = await front(gate);
    assert.equal(person.page.url(), gate.url('3000-ported', '/front?a=b'));
    const asked = gate.providers[0].counts.authorize;
    const { fetch, put, post, ...others } = await person.page.evaluate(use, ways(gate, 8080));
    const origin = at(gate, 3000);
    assert.deepEqual(fetch, { method: 'GET', user: 'alice', origin });
    assert.deepEqual(put, { method: 'PUT', user: 'alice', origin, csrf: '1' });
    assert.deepEqual(post, { method: 'POST', user: 'alice', origin });
    assert.deepEqual(others, {
      socket: 'hello', events: 'alice', image: 'loaded', crossorigin: 'loaded', script: 'loaded',
    });
    assert.equal(gate.providers[0].counts.authorize, asked, 'the provider was asked once');
    assert.equal(person.context.pages().length, 1);
    assert.deepEqual(person.complaints, []);
    // The editor's page uses the ports, too, and the other way round.
    await person.visit(gate.url('ported', '/editor'));
    assert.equal((await person.page.evaluate(use, ways(gate, 3000))).fetch.user, 'alice');
    await person.visit(gate.url('8080-ported', '/docs'));
    const back = { api: gate.url('ported', ''), socket: gate.url('ported', '').replace('https:', 'wss:') };
    const { fetch: fetched, socket } = await person.page.evaluate(use, back);
    assert.deepEqual([fetched.user, socket], ['alice', 'hello']);
    await person.close();
  },

  async 'q3 the sessions of all ports come without scripts, too'(gate) {
    const person = await front(gate, { javaScriptEnabled: false });
    const hosts = (await person.cookies()).filter(({ name }) => name === '__Host-identity').map(({ domain }) => domain);
    assert.deepEqual(hosts.sort(), ['3000-ported', '8080-ported', '8081-ported', 'ported'].map((name) => gate.host(name)).sort(),
      'of those that are open to the pages of the workspace');
    for (const { secure, httpOnly, sameSite } of await person.cookies()) {
      assert.deepEqual({ secure, httpOnly, sameSite }, { secure: true, httpOnly: true, sameSite: 'Lax' });
    }
    await person.close();
  },

  async 'q2 a page can read why it is refused'(gate) {
    const person = await front(gate);
    await person.context.clearCookies({ domain: gate.host('8080-ported') });
    const { fetch, put } = await person.page.evaluate(use, ways(gate, 8080));
    for (const refusal of [fetch, put]) {
      assert(refusal.startsWith('401 ') && refusal.includes('credential_missing'), JSON.stringify(refusal));
    }
    // Closed to other pages by its setting, also with a session.
    const tab = await person.newPage();
    await tab.goto(gate.url('9000-ported', '/mine'));
    await tab.waitForSelector('h1:text-is("workspace api")');
    await tab.close();
    const closed = await person.page.evaluate(use, ways(gate, 9000));
    for (const refusal of [closed.fetch, closed.put, closed.post]) {
      assert(refusal.startsWith('403 ') && refusal.includes('origin_foreign'), JSON.stringify(refusal));
    }
    assert.deepEqual([closed.socket, closed.events, closed.image, closed.script], ['refused', 'refused', 'refused', 'refused']);
    await person.close();
  },

  async 'q2 an app that answers CORS itself does so, and its preflights come without a credential'(gate) {
    const person = await front(gate);
    const before = gate.workspaces.api.recording().length;
    const [own, replaced] = await person.page.evaluate(async (urls) => Promise.all(urls.map(async (url) => {
      const reply = await fetch(`${url}/own`, { method: 'PUT', headers: { 'x-csrf': '1' }, credentials: 'include' });
      return { ...await reply.json(), own: reply.headers.get('x-own') };
    })), [at(gate, 8081), at(gate, 8080)]);
    assert.deepEqual(own, { user: 'alice', own: 'yes' });
    assert.deepEqual(replaced, { user: 'alice', own: 'yes' }, 'what is exposed stays the word of the app');
    const asked = gate.workspaces.api.recording().slice(before).split(/(?=(?:OPTIONS|PUT) \/own)/).filter((text) => text.startsWith('OPTIONS '));
    assert.equal(asked.length, 1, 'of the port that answers itself');
    assert(!/^(cookie|authorization|x-forwarded-user|x-identity-subject):/im.test(asked[0]), asked[0]);
    await person.close();
  },

  async 'q3 a port that appears later works when its page is opened again'(gate) {
    const person = await front(gate);
    gate.list({ ports: [[7777, 'api']] });
    try {
      await until('the session there', async () => {
        await person.page.goto(gate.url('3000-ported', '/front?a=b'));
        await person.page.waitForSelector('h1:text-is("workspace ported")');
        return (await person.cookies(gate.host('7777-ported'))).length > 0;
      });
      assert.equal(person.page.url(), gate.url('3000-ported', '/front?a=b'));
      assert.equal((await person.page.evaluate(use, ways(gate, 7777))).put.user, 'alice');
    } finally {
      gate.list();
    }
    await person.close();
  },

  async 'q3 who signs out is out at every port'(gate) {
    const person = await front(gate);
    const page = await person.newPage();
    await page.goto(gate.login());
    await page.click('button:text-is("Sign out")');
    await page.click('button[name=logout]');
    await page.waitForSelector('h1:text-is("You are signed out")');
    const { fetch } = await person.page.evaluate(use, ways(gate, 8080));
    assert(fetch.startsWith('401 '), JSON.stringify(fetch));
    await person.close();
  },
};
