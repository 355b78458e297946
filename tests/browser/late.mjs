// Sessions that end by themselves, while other tests run.
import { strict as assert } from 'node:assert';

import { ask, NAVIGATION } from './person.mjs';
import { until } from './until.mjs';

async function signIn(gate) {
  const person = await gate.person();
  await person.visit(gate.url('mine'));
  await person.page.click('text=Sign in with Example Corp');
  await person.signIn('alice');
  await person.page.waitForSelector('h1:text-is("workspace mine")');
  return person;
}

// Two people sign in; then one of them asks for something now and again, the other does nothing.
export function begin(gate) {
  const began = (async () => {
    const busy = await signIn(gate);
    const began = Date.now();
    const idle = await signIn(gate);
    const at = Date.now();
    const cookie = `__Host-identity=${await busy.cookie(gate.host('mine'))}`;
    const ended = until('the end of the session', async () => {
      const { status } = await ask(gate, gate.url('mine'), { headers: { accept: 'application/json', cookie } });
      return status === 401 && Date.now() - began;
    }, { within: 100_000, every: 1000 });
    // Its test awaits it; Node must not report a failure before that.
    ended.catch(() => {});
    return { busy, idle, at, ended };
  })();
  began.catch(() => {});
  return began;
}

export const tests = {
  async 'c7 a session without a request ends, and the browser comes back by itself'(gate, ending) {
    const { idle, at } = await ending;
    await until('a minute to pass', () => Date.now() - at > 61_000, { within: 70_000 });
    const cookie = `__Host-identity=${await idle.cookie(gate.host('mine'))}`;
    assert.equal((await ask(gate, gate.url('mine'), { headers: { ...NAVIGATION, cookie } })).status, 302);
    idle.requests.length = 0;
    await idle.visit(gate.url('mine', '/later'));
    await idle.page.click('text=Sign in with Example Corp');
    await idle.page.waitForURL(gate.url('mine', '/later'));
    assert.equal(await idle.page.textContent('#user'), 'alice');
    await idle.close();
  },
  async 'c7 a session that is used ends at its end'(gate, ending) {
    const { busy, ended } = await ending;
    const after = await ended;
    assert(after > 70_000 && after < 90_000, `${after} ms`);
    await busy.visit(gate.url('mine', '/later'));
    await busy.page.click('text=Sign in with Example Corp');
    await busy.page.waitForURL(gate.url('mine', '/later'));
    await busy.close();
  },
};
