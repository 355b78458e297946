// What people do.
import { strict as assert } from 'node:assert';

import { LOGIN } from './gate.mjs';
import { ask, NAVIGATION } from './person.mjs';
import { until } from './until.mjs';

// On every version of HAProxy.
export const everywhere = ['first visit to content, without scripts', 'a denied user gets the reason and can sign in with another account',
  'a websocket opens from its own origin and from no other', 'signing out ends it everywhere'];

async function content(page, name) {
  await page.waitForSelector(`h1:text-is("workspace ${name}")`);
}

export async function signedIn(gate, who, workspace = 'mine', options = {}) {
  const person = await gate.person(options);
  await person.visit(gate.url(workspace));
  await person.signIn(who);
  await content(person.page, workspace);
  return person;
}

export const tests = {
  async 'first visit to content, without scripts'(gate) {
    const person = await gate.person({ javaScriptEnabled: false });
    const address = gate.url('mine', '/some/where?a=1&b=%20%2F&c=%C3%A4');
    await person.visit(address);
    assert(person.page.url().startsWith(gate.providers[0].issuer), person.page.url());
    await person.signIn('alice');
    await content(person.page, 'mine');
    assert.equal(person.page.url(), address);
    assert.equal(await person.page.textContent('#url'), '/some/where?a=1&b=%20%2F&c=%C3%A4');
    assert.equal(await person.page.textContent('#user'), 'alice');
    const cookies = await person.cookies();
    assert.deepEqual(cookies.map(({ name, domain }) => `${name} ${domain}`).sort(),
      [`__Host-identity ${gate.host('mine')}`, `__Host-identity_login ${LOGIN}`], 'nothing is left of the way');
    for (const { path, secure, httpOnly, sameSite } of cookies) {
      assert.deepEqual({ path, secure, httpOnly, sameSite }, { path: '/', secure: true, httpOnly: true, sameSite: 'Lax' }, 'c1');
    }
    await person.close();
  },

  async 'a second workspace without a second login'(gate) {
    const person = await signedIn(gate, 'alice');
    const before = gate.providers[0].counts.authorize;
    await person.visit(gate.url('second', '/two'));
    await content(person.page, 'second');
    assert.equal(person.page.url(), gate.url('second', '/two'));
    assert.equal(gate.providers[0].counts.authorize, before, 'the provider was not asked');
    const values = new Set((await person.cookies()).map(({ value }) => value));
    assert.equal(values.size, 3, 'a cookie for each host');
    await person.close();
  },

  async 'two tabs at once, of two workspaces'(gate) { await tabs(gate, ['mine', 'second']); },
  async 'two tabs at once, of one workspace'(gate) { await tabs(gate, ['mine', 'mine', 'mine']); },

  async 'tabs that open together when a person is signed in'(gate) {
    const person = await signedIn(gate, 'alice', 'second');
    const pages = await Promise.all([1, 2, 3, 4].map(() => person.newPage()));
    await Promise.all(pages.map((page, at) => page.goto(gate.url('mine', `/tab${at}`))));
    for (const [at, page] of pages.entries()) {
      await content(page, 'mine');
      assert.equal(page.url(), gate.url('mine', `/tab${at}`));
    }
    assert((await person.cookies(gate.host('mine'))).length <= 5, 'cookies do not pile up');
    await person.close();
  },

  async 'a denied user gets the reason and can sign in with another account'(gate) {
    const person = await signedIn(gate, 'alice');
    const reply = await person.visit(gate.url('bobs', '/his?x=1'));
    assert.equal(reply.status(), 403);
    assert.equal(await person.heading(), 'No access');
    const text = await person.page.textContent('main');
    for (const part of ['alice', gate.host('bobs'), 'not_permitted', 'owner']) assert(text.includes(part), text);
    assert(!text.includes('bob@') && !/\bbob\b/.test(text), 'whose it is, is not told');
    const decision = await person.page.textContent('.decision');
    await until('the record', () => gate.audit().some((line) => line.decision_id === decision && line.user === 'alice'));
    await person.page.click('text=Sign in as another person');
    await person.signIn('bob');
    await content(person.page, 'bobs');
    assert.equal(person.page.url(), gate.url('bobs', '/his?x=1'));
    assert.equal(await person.page.textContent('#user'), 'bob');
    await person.close();
  },

  async 'a person who loses access gets the reason at that address, and can sign in with another account'(gate) {
    const person = await signedIn(gate, 'alice', 'moving');
    const address = gate.url('moving', '/deep/er?q=1&r=2');
    await person.visit(address);
    gate.list({ moving: { owner: 'bob' } });
    const reply = await until('the change', async () => {
      const got = await person.visit(address);
      return got.status() === 403 && got;
    });
    assert.equal(person.page.url(), address);
    assert.equal(reply.headers()['cache-control'], 'no-store');
    assert.equal(await person.heading(), 'No access');
    const text = await person.page.textContent('main');
    assert(text.includes('alice') && text.includes('not_permitted'), text);
    const decision = await person.page.textContent('.decision');
    await until('the record', () => gate.audit().some((line) => line.decision_id === decision));
    await person.page.click('text=Sign in as another person');
    await person.signIn('bob');
    await content(person.page, 'moving');
    assert.equal(person.page.url(), address);
    gate.list();
    await person.close();
  },

  async 'signing out ends it everywhere'(gate) {
    const person = await signedIn(gate, 'alice');
    await person.visit(gate.url('second'));
    await content(person.page, 'second');
    const kept = await person.context.cookies();
    await person.visit(gate.login());
    assert.equal(await person.heading(), 'You are signed in');
    await person.page.click('button:text-is("Sign out")');
    // The provider asks, too.
    await person.page.click('button[name=logout]');
    await person.page.waitForSelector('h1:text-is("You are signed out")');
    assert.equal(person.page.url(), gate.own('signed-out'));
    // What was copied of the cookies before is worth nothing, at any host.
    await person.context.addCookies(kept.filter(({ name }) => name.startsWith('__Host-identity')));
    for (const name of ['mine', 'second']) {
      await person.visit(gate.url(name));
      await person.page.waitForSelector('input[name=login]');
    }
    await person.visit(gate.login());
    assert.equal(await person.heading(), 'Sign in');
    assert.deepEqual(person.complaints, []);
    await person.close();
  },

  async 'back-channel logout'(gate) {
    const person = await signedIn(gate, 'alice');
    const other = await signedIn(gate, 'alice');
    // At the provider itself, without us.
    const tab = await person.newPage();
    await tab.goto(`${gate.providers[0].issuer}/session/end`);
    await tab.click('button[name=logout]');
    await until('the end of the session', async () => {
      const headers = { ...NAVIGATION, cookie: `__Host-identity=${await person.cookie(gate.host('mine'))}` };
      return (await ask(gate, gate.url('mine'), { headers })).status === 302;
    });
    await person.visit(gate.url('mine'));
    await person.page.waitForSelector('input[name=login]');
    assert(gate.audit().some(({ event, sessions }) => event === 'back_channel_logout' && sessions === '1'));
    // Another browser of the same person has a session of its own.
    await other.visit(gate.url('mine'));
    await content(other.page, 'mine');
    await person.close();
    await other.close();
  },

  async 'stale cookies heal themselves, and nothing goes round'(gate) {
    const person = await signedIn(gate, 'alice');
    await gate.stopAgent();
    await gate.startAgent();
    // The sessions are gone with the agent, the cookies are not; the provider knows her still.
    await until('the way in', async () => (await ask(gate, gate.url('mine'), { headers: NAVIGATION })).status === 302);
    person.requests.length = 0;
    await person.visit(gate.url('mine', '/again'));
    await content(person.page, 'mine');
    assert.equal(person.page.url(), gate.url('mine', '/again'));
    assert(person.requests.filter(({ navigation }) => navigation).length <= 7, JSON.stringify(person.requests));
    for (const value of ['x', 'A'.repeat(43), '%00', '"', 'A'.repeat(3000)]) {
      const cookies = (await person.cookies()).filter(({ name }) => name.startsWith('__Host-identity'));
      await person.context.addCookies(cookies.map((cookie) => ({ ...cookie, value })));
      for (const name of ['__Host-identity_pre', '__Host-identity_pre_x', '__Host-identity_at_x']) {
        for (const host of [gate.host('mine'), LOGIN]) {
          await person.context.addCookies([{ name, value, url: `https://${host}:${gate.port}`, secure: true }]);
        }
      }
      person.requests.length = 0;
      await person.visit(gate.url('mine', '/healed'));
      await content(person.page, 'mine');
      assert(person.requests.filter(({ navigation }) => navigation).length <= 7, JSON.stringify(person.requests));
    }
    await person.close();
  },

  async 'a websocket opens from its own origin and from no other'(gate) {
    const person = await signedIn(gate, 'alice');
    await person.visit(gate.url('hostile'));
    await content(person.page, 'hostile');
    const speak = (page) => page.evaluate((url) => new Promise((resolve) => {
      const socket = new WebSocket(url);
      socket.onopen = () => socket.send('hello');
      socket.onmessage = ({ data }) => { resolve(`said ${data}`); socket.close(); };
      socket.onerror = () => resolve('refused');
    }), gate.url('mine', '/socket').replace('https:', 'wss:'));
    const seen = () => gate.workspaces.mine.recording().split('/socket').length;
    const before = seen();
    assert.equal(await speak(person.page), 'refused', 'from a sibling host');
    await person.visit(gate.login());
    // Our own pages' policy would refuse it anyway: any page of another site, then.
    await person.visit(`http://127.0.0.1:${gate.workspaces.nasty.port}/`);
    assert.equal(await speak(person.page), 'refused', 'from another site');
    assert.equal(seen(), before, 'and the workspace saw nothing of it');
    await person.visit(gate.url('mine'));
    assert.equal(await speak(person.page), 'said hello');
    await person.close();
  },
};

async function tabs(gate, names) {
  const person = await gate.person();
  const pages = await Promise.all(names.map(() => person.newPage()));
  await Promise.all(pages.map((page, at) => page.goto(gate.url(names[at], `/tab${at}`))));
  for (const page of pages) await page.waitForSelector('input[name=login]');
  for (const [at, page] of pages.entries()) {
    await person.signIn('alice', page);
    await content(page, names[at]);
    assert.equal(page.url(), gate.url(names[at], `/tab${at}`));
  }
  await person.close();
}
