// Attacks: by code in workspaces, and by a person who got a cookie, a ticket or an address.
import { strict as assert } from 'node:assert';
import { Agent } from 'node:https';

import { LOGIN, PARENT } from './gate.mjs';
import { ask, NAVIGATION, secrets, keep } from './person.mjs';
import { signedIn } from './scenarios.mjs';
import { until } from './until.mjs';

const OURS = '/.well-known/identity-spoa/';

// Goes a person's way to a workspace up to the page that delivers the ticket. Returns the ticket's address, to
// which no browser went, and the cookie with the secret for it.
async function ticket(gate, person, workspace) {
  const first = await ask(gate, gate.url(workspace, '/kept'), { headers: NAVIGATION });
  const [name, value] = first.headers['set-cookie'][0].split(';')[0].split('=');
  const login = await person.cookie(LOGIN, '__Host-identity_login');
  const headers = { ...NAVIGATION, cookie: `__Host-identity_login=${login}` };
  const { status, body } = await ask(gate, first.headers.location, { headers });
  assert.equal(status, 200, body);
  const url = new URL(body.split('<img ').find((text) => text.includes('/finish?t=')).split('"')[1]);
  keep(value, `cookie of ${url.hostname}`);
  keep(url.searchParams.get('t'), `ticket of ${url.hostname}`);
  return { url: url.href, name, value, start: first.headers.location };
}

// Loads the address of a ticket as the login host's page does. Returns the session's cookie, if it was worth one.
async function deliver(gate, url, cookie, agent) {
  const headers = { origin: gate.login(''), 'sec-fetch-dest': 'image', 'sec-fetch-mode': 'cors', cookie };
  const reply = await ask(gate, url, { headers, agent });
  assert.equal(reply.status, 204, reply.body);
  return (reply.headers['set-cookie'] ?? []).find((text) => text.startsWith('__Host-identity='));
}

export const tests = {
  async 'p2 a cookie stolen from one host is refused at another'(gate) {
    const person = await signedIn(gate, 'alice');
    const stolen = await person.cookie(gate.host('mine'));
    const login = await person.cookie(LOGIN, '__Host-identity_login');
    const thief = await gate.person();
    for (const host of [gate.host('second'), gate.host('moving'), LOGIN]) {
      for (const name of ['__Host-identity', '__Host-identity_login']) {
        for (const value of host === LOGIN ? [stolen] : [stolen, login]) {
          await thief.context.clearCookies();
          const url = `https://${host}:${gate.port}/`;
          await thief.context.addCookies([{ name, value, url, secure: true, httpOnly: true, sameSite: 'Lax' }]);
          await thief.visit(url);
          if (host === LOGIN) assert.equal(await thief.heading(), 'Sign in');
          else await thief.page.waitForSelector('input[name=login]');
        }
      }
    }
    await thief.close();
    await person.close();
  },

  async 'p3 a ticket is worth nothing again, elsewhere or in another browser'(gate) {
    const person = await signedIn(gate, 'alice', 'second');
    const late = async (who, address) => {
      const reply = await who.visit(address);
      assert.equal(reply.status(), 400);
      assert.equal(await who.heading(), 'That took too long');
      assert.equal(await who.page.getAttribute('a.button', 'href'), '/');
      assert(!who.page.url().includes('?'), who.page.url());
    };
    const thief = await signedIn(gate, 'bob', 'bobs');
    const first = await ticket(gate, person, 'mine');
    await late(person, first.url.replace(gate.host('mine'), gate.host('moving')));
    assert(await deliver(gate, first.url, `${first.name}=${first.value}`), 'its own browser');
    assert.equal(await deliver(gate, first.url, `${first.name}=${first.value}`), undefined, 'again');
    const second = await ticket(gate, person, 'mine');
    await late(thief, second.url);
    await thief.visit(gate.url('mine'));
    assert.equal(await thief.heading(), 'No access');
    assert.equal(await deliver(gate, second.url, `${second.name}=${second.value}`), undefined, 'used up');
    await person.visit(gate.url('mine', '/kept'));
    assert.equal(person.page.url(), gate.url('mine', '/kept'));
    await thief.close();
    await person.close();
  },

  async 's6 a page that brings its visitor to a sign-in of another machine gains nothing'(gate) {
    const alice = await signedIn(gate, 'alice');
    await alice.visit(gate.url('hostile', '/worker'));
    await alice.page.waitForSelector('#state:text-is("ready")');
    gate.workspaces.hostile.reports.length = 0;
    // The other machine begins at the same host, keeps the secret, and tells the page where it was sent.
    const thief = await gate.person();
    const begin = async () => {
      await thief.visit(gate.url('hostile', '/theirs'));
      await thief.page.waitForSelector('input[name=login]');
      const starts = thief.requests.map(({ url }) => url).filter((url) => url.includes('/start?r='));
      return starts.at(-1);
    };
    const read = [];
    const tickets = [];
    for (const way of ['popup', 'frame', 'fetch', 'planted', 'top', 'worker']) {
      await alice.visit(gate.url('hostile', '/worker'));
      await alice.page.waitForSelector('#state:text-is("ready")');
      // The page is open, and the session at its host ends.
      await alice.context.clearCookies({ domain: gate.host('hostile') });
      const start = await begin();
      const secrets = (await thief.cookies(gate.host('hostile'))).map(({ name, value }) => ({ name, value }));
      assert(secrets.length > 0, 'the other machine has a secret');
      alice.requests.length = 0;
      const windows = alice.context.pages().length;
      if (way === 'top') {
        await alice.page.evaluate((url) => { location.href = url; }, start);
        await alice.page.waitForSelector('h1:text-is("That took too long")');
      } else if (way === 'worker') {
        await alice.page.evaluate((url) => window.mislead(url), start);
        await alice.page.goto(gate.url('hostile', '/misled'));
        await alice.page.waitForSelector('h1:text-is("That took too long")');
      } else {
        read.push(...await alice.page.evaluate(attack, { way, start, secrets }));
      }
      for (const page of alice.context.pages().slice(windows)) {
        await page.waitForSelector(way === 'planted' ? 'h1:text-is("workspace hostile")' : 'h1:text-is("That took too long")');
        await page.close();
      }
      const mine = alice.requests.map(({ url }) => url).filter((url) => url.includes('/finish?t='));
      if (['frame', 'fetch'].includes(way)) assert.deepEqual(mine, [], `${way}: there is no ticket`);
      else assert(mine.length > 0, `${way}: the way was gone`);
      tickets.push(...mine);
      // Even with the ticket, which no page has: it is used up.
      for (const url of mine) {
        assert.equal(await deliver(gate, url, secrets.map(({ name, value }) => `${name}=${value}`).join('; ')), undefined, way);
        await thief.visit(url);
        assert.equal(await thief.heading(), 'That took too long');
      }
      await thief.visit(gate.url('hostile', '/theirs'));
      await thief.page.waitForSelector('input[name=login]');
      assert.equal(await thief.cookie(gate.host('hostile')), undefined, `${way}: the thief is not signed in`);
    }
    const all = [...read, ...gate.workspaces.hostile.reports].join('\n');
    assert(read.length > 0 && all.includes('/arrived?to='), 'the page and the worker looked');
    for (const url of tickets) assert(!all.includes(new URL(url).searchParams.get('t')), 'a ticket was seen');
    assert(!/finish\?t=/.test(all), all);
    await thief.close();
    await alice.close();
  },

  async 'a service worker of a hostile workspace gains nothing at another host'(gate) {
    const person = await signedIn(gate, 'alice');
    await person.visit(gate.url('second'));
    await person.visit(gate.url('hostile', '/worker'));
    await person.page.waitForSelector('#state:text-is("ready")');
    // From now on it sees every navigation at its host, the way to sign in among them.
    await person.context.clearCookies({ domain: gate.host('hostile') });
    await person.visit(gate.url('hostile', '/worker'));
    await person.page.waitForSelector('#state:text-is("ready")');
    const seen = counting(gate);
    await person.page.evaluate(() => window.attack());
    await person.page.waitForSelector('#state:text-is("done")', { timeout: 40_000 });
    const { reports } = gate.workspaces.hostile;
    const told = reports.map((text) => JSON.parse(text));
    assert(told.some(({ failed }) => failed), 'it tried');
    assert.deepEqual(told.filter(({ reached, text }) => reached && text), [], 'it read nothing');
    assert.deepEqual(seen(), [], 'and nothing it sent arrived in her name');
    // Of her way it saw nothing that counts.
    const all = reports.join('\n');
    assert(!/finish\?t=/.test(all), all);
    for (const [value, what] of secrets) assert(!all.includes(value), `the worker saw a ${what}`);
    // And she goes on as before.
    await person.visit(gate.url('mine', '/after'));
    assert.equal(await person.heading(), 'workspace mine');
    await person.close();
  },

  async 'a hostile workspace cannot act in her name at another'(gate) {
    const person = await signedIn(gate, 'alice');
    await person.visit(gate.url('second'));
    const seen = counting(gate);
    await person.visit(gate.url('nasty', '/forge'));
    await person.page.waitForSelector('#state:text-is("done")', { timeout: 40_000 });
    assert.deepEqual(seen(), []);
    // A link is a link, to whatever host.
    await person.page.evaluate((url) => { location.href = url; }, gate.url('mine', '/linked'));
    await person.page.waitForURL(gate.url('mine', '/linked'));
    assert.equal(await person.heading(), 'workspace mine');
    await person.close();
  },

  async 'a hostile workspace that sets cookies of our names changes nothing'(gate) {
    const person = await signedIn(gate, 'alice');
    const before = await person.cookies();
    await person.visit(gate.url('nasty', '/cookies'));
    await person.page.waitForSelector('#state');
    for (const { name, domain, value } of await person.context.cookies()) {
      assert(value !== 'evil' || domain === gate.host('nasty') || !name.startsWith('__Host-'), `${name} at ${domain}`);
    }
    for (const cookie of before) {
      const now = (await person.cookies(cookie.domain)).find(({ name }) => name === cookie.name);
      assert.equal(now?.value, cookie.value, `${cookie.name} at ${cookie.domain}`);
    }
    for (const name of ['mine', 'second', 'nasty']) {
      person.requests.length = 0;
      await person.visit(gate.url(name, '/calm'));
      assert.equal(await person.heading(), `workspace ${name}`);
      assert.equal(await person.page.textContent('#user'), 'alice');
      assert(person.requests.filter(({ navigation }) => navigation).length <= 4);
    }
    await person.visit(gate.login());
    assert.equal(await person.heading(), 'You are signed in');
    await person.close();
    // Set before there is a session: the way to sign in heals it.
    const early = await gate.person();
    for (const name of ['__Host-identity', '__Host-identity_pre']) {
      await early.context.addCookies([{ name, value: 'evil', url: gate.url('nasty'), secure: true }]);
    }
    await early.visit(gate.url('nasty', '/healed'));
    await early.signIn('alice');
    await early.page.waitForURL(gate.url('nasty', '/healed'));
    assert.equal(await early.page.textContent('#user'), 'alice');
    await early.close();
  },

  async 'l5 nothing leads anywhere but to our hosts and the provider'(gate) {
    const person = await signedIn(gate, 'alice');
    const paths = [
      '//evil.test', '//evil.test/', '///evil.test/', '/\\evil.test/', '/%5cevil.test/', '/%5c%5cevil.test', '/%2f%2fevil.test/',
      '/.//evil.test/', '/..//evil.test/', '/@evil.test/', '/x:y@evil.test/', '/%09/evil.test/', '/%0d%0aLocation:%20https://evil.test',
      '/?next=https://evil.test/', '/?https://evil.test', '/https://evil.test/', '/javascript:alert(1)', `/${'a'.repeat(3000)}//evil.test`,
    ];
    // Without a session at that host each time, so that all of the way is gone.
    for (const path of paths) {
      await person.context.clearCookies({ domain: gate.host('second') });
      await person.visit(`https://${gate.host('second')}:${gate.port}${path}`);
      assert.equal(new URL(person.page.url()).hostname, gate.host('second'), path);
    }
    const evil = ['https://evil.test/', '//evil.test/', '/\\evil.test/', 'https:evil.test', '\\\\evil.test', '/%2f/evil.test',
      'javascript:alert(1)', 'https://login.gate.test@evil.test/', `https://${gate.host('mine')}.evil.test/`, '/\tevil.test', '/ /evil.test'];
    for (const text of evil) {
      const value = encodeURIComponent(text);
      for (const address of [
        gate.own(`start?r=${value}`), gate.own(`start?r=${value}&with=corp&ask=1`), gate.own(`start?with=${value}`),
        gate.own(`start?to=${value}&redirect_uri=${value}&next=${value}&rd=${value}`),
        gate.own(`callback/corp?code=x&state=${value}&redirect_uri=${value}&iss=${value}`), gate.own(`callback/${value}?code=x&state=y`),
        gate.own(`signed-out?post_logout_redirect_uri=${value}&state=${value}`), gate.own(`sign-out?to=${value}`),
        gate.own(`switch?to=${value}`), gate.login(`/?to=${value}`), gate.login(`/${value}`),
        gate.url('mine', `${OURS}finish?t=${value}&to=${value}`), gate.url('mine', `${OURS}start?r=${value}`),
        gate.url('mine', `${OURS}refused?to=${value}`),
      ]) {
        const reply = await ask(gate, address, { headers: NAVIGATION });
        allowed(gate, reply, address);
      }
      // The one address that takes a path: all of the way, in the browser.
      await person.context.clearCookies({ domain: gate.host('mine') });
      await person.visit(gate.url('mine', `${OURS}switch?to=${value}`));
      await person.signIn('alice');
      await person.page.waitForSelector('h1:text-is("workspace mine")');
      assert.equal(new URL(person.page.url()).hostname, gate.host('mine'), text);
    }
    const hosts = new Set(person.requests.filter(({ navigation }) => navigation).map(({ url }) => new URL(url).hostname));
    const known = [LOGIN, gate.host('mine'), gate.host('second'), new URL(gate.providers[0].issuer).hostname];
    assert.deepEqual([...hosts].filter((host) => !known.includes(host)), []);
    await person.close();
  },

  async 'c6 a changed or shortened cookie or ticket signs no person in, and nothing breaks'(gate) {
    const person = await signedIn(gate, 'alice', 'second');
    const fresh = () => ticket(gate, person, 'mine');
    const whole = await fresh();
    const session = await person.cookie(gate.host('second'));
    const login = await person.cookie(LOGIN, '__Host-identity_login');
    // An attempt that is at the provider.
    const stranger = await gate.person();
    await stranger.visit(gate.url('mine'));
    await stranger.page.waitForSelector('input[name=login]');
    const attempt = (await stranger.cookies(LOGIN))[0];
    const asked = stranger.requests.map((sent) => new URL(sent.url)).find(({ pathname }) => pathname === '/auth');
    const callback = gate.own(`callback/corp?code=x&state=${asked.searchParams.get('state')}&iss=${encodeURIComponent(gate.providers[0].issuer)}`);
    const sealed = stranger.requests.map((sent) => new URL(sent.url)).find(({ searchParams }) => searchParams.has('r'));
    const agent = new Agent({ keepAlive: true, maxSockets: 8 });
    const cookie = (name, value) => ({ ...NAVIGATION, cookie: `${name}=${value}` });
    const get = (address, headers) => ask(gate, address, { headers, agent });
    const one = await fresh();
    const text = new URL(one.url).searchParams.get('t');
    const nothing = (cookie) => cookie === undefined;
    const kinds = [
      // First, as a ticket is good for half a minute.
      ['ticket', text, (v) => deliver(gate, gate.url('mine', `${OURS}finish?t=${encodeURIComponent(v)}`), `${one.name}=${one.value}`, agent), nothing],
      ['session', session, (v) => get(gate.url('second'), cookie('__Host-identity', v)), ({ status }) => status === 302],
      ['login session', login, (v) => get(gate.login(), cookie('__Host-identity_login', v)), ({ status, body }) => status === 200 && body.includes('Choose where')],
      // A ticket is used up by a wrong secret, so that each has one of its own.
      ['secret', whole.value, async (v) => deliver(gate, (await fresh()).url, `${whole.name}=${v}`, agent), nothing],
      ['attempt', attempt.value, (v) => get(callback, cookie(attempt.name, v)), ({ status, body }) => status === 400 && body.includes('does not belong to a sign-in')],
      ['start', sealed.searchParams.get('r'), (v) => get(gate.own(`start?r=${encodeURIComponent(v)}`), NAVIGATION), ({ status }) => status === 400],
    ];
    let count = 0;
    for (const [kind, value, send, good] of kinds) {
      const changed = [];
      for (let at = 0; at < value.length; at += 1) {
        changed.push(value.slice(0, at));
        for (const bit of [1, 2, 4, 32]) {
          const flipped = String.fromCharCode(value.charCodeAt(at) ^ bit);
          // Those that end a cookie's value or its header cannot be sent in one.
          if (/[!-:<-~]/.test(flipped)) changed.push(value.slice(0, at) + flipped + value.slice(at + 1));
        }
      }
      changed.push(`${value}A`, `${value}=`, `A${value}`, value.toUpperCase(), `${value}${value}`);
      const queue = changed.filter((one) => one !== value);
      await Promise.all(Array.from({ length: 8 }, async () => {
        for (let next = queue.pop(); next !== undefined; next = queue.pop()) {
          const reply = await send(next);
          count += 1;
          if (!good(reply)) assert.fail(`${kind} ${JSON.stringify(next)}: ${reply.status ?? reply} ${reply.body}`);
        }
      }));
      // The one that was not changed is good.
      if (kind === 'ticket') assert(await deliver(gate, one.url, `${one.name}=${one.value}`));
    }
    agent.destroy();
    assert(count > 2000, `${count}`);
    await stranger.close();
    await person.close();
  },
};

// In a page of a workspace: opens where another machine was sent, in some way, and returns all that it can read of it.
async function attack({ way, start, secrets }) {
  const read = [`${way} began`];
  const look = (what, value) => { try { read.push(`${what} ${value()}`); } catch (error) { read.push(`${what} ${error}`); } };
  if (way === 'planted') for (const { name, value } of secrets) document.cookie = `${name}=${value}; Path=/; Secure`;
  let view;
  if (way === 'popup' || way === 'planted') view = window.open(start);
  if (way === 'frame') {
    const frame = document.body.appendChild(document.createElement('iframe'));
    frame.src = start;
    view = frame.contentWindow;
  }
  if (way === 'fetch') {
    for (const mode of ['cors', 'no-cors', 'navigate']) {
      for (const redirect of ['follow', 'manual']) {
        try {
          const reply = await fetch(start, { mode, redirect, credentials: 'include' });
          read.push(`fetch ${reply.type} ${reply.url} ${await reply.text()}`);
        } catch (error) { read.push(`fetch ${error}`); }
      }
    }
  }
  for (const end = Date.now() + 3000; view && Date.now() < end;) {
    look('address', () => view.location.href);
    look('text', () => view.document.documentElement.outerHTML);
    look('windows', () => `${view.closed} ${view.length} ${view.name}`);
    look('entries', () => JSON.stringify(view.performance.getEntries()));
    await new Promise((done) => { setTimeout(done, 5); });
  }
  look('entries', () => JSON.stringify(performance.getEntries()));
  return [...new Set(read)];
}

function allowed(gate, { status, headers }, address) {
  assert(status < 500, `${address}: ${status}`);
  if (!headers.location) return;
  const { hostname, protocol } = new URL(headers.location, address);
  const known = [LOGIN, new URL(gate.providers[0].issuer).hostname];
  assert(protocol === 'https:' && (known.includes(hostname) || hostname.endsWith(`.${PARENT}`)), `${address}: ${headers.location}`);
}

// What arrives at her workspaces from now on in her name without her having opened it.
function counting(gate) {
  const names = ['mine', 'second'];
  const before = names.map((name) => gate.workspaces[name].recording().length);
  return () => names.flatMap((name, at) => {
    const since = gate.workspaces[name].recording().slice(before[at]);
    const requests = since.split(/(?=(?:GET|POST|OPTIONS|HEAD) \/)/).filter((text) => /^x-forwarded-user: alice/im.test(text))
      // Which the browser asks for by itself.
      .filter((text) => !text.startsWith('GET /favicon.ico '));
    return requests.map((text) => text.split('\r\n')[0]);
  });
}

// P1, of everything the browsers of this run ever held.
export async function nothingArrived(gate) {
  for (const token of gate.issued) keep(token, 'token');
  for (const token of gate.issued) keep(token?.split('.').at(-1), 'signature');
  assert(secrets.size > 10, 'there are secrets to look for');
  let bytes = 0;
  for (const [name, { recording }] of Object.entries(gate.workspaces)) {
    const text = recording();
    bytes += text.length;
    const decoded = text.replaceAll(/%([0-9a-f]{2})/gi, (_, hex) => String.fromCharCode(Number.parseInt(hex, 16)));
    for (const [value, what] of secrets) {
      assert(!text.includes(value) && !decoded.includes(value), `${name} got a ${what}`);
    }
    const cookies = text.match(/^cookie:.*__Host-identity.*$/gim);
    assert.equal(cookies, null, `${name} got ${cookies}`);
  }
  assert(bytes > 1000, 'the workspaces recorded something');
  for (const log of ['agent.log', 'haproxy.log', 'audit.jsonl']) {
    const text = gate.read(log);
    for (const [value, what] of secrets) assert(!text.includes(value), `${log} has a ${what}`);
  }
}
