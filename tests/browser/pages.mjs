// Every page: kept as a picture in both schemes and on a phone, and held to WCAG 2 AA by axe-core.
import { strict as assert } from 'node:assert';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

import { ask, NAVIGATION } from './person.mjs';
import { signedIn } from './scenarios.mjs';
import { until } from './until.mjs';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

// Checks the page that a browser shows. It is not loaded again: some exist only once.
async function look(gate, person, name) {
  const { page } = person;
  const file = (kind) => join(gate.artefacts, 'pages', `${name}-${kind}.png`);
  const html = await page.content();
  assert(!/<script|\son[a-z]+=|javascript:/i.test(html), html);
  assert(await page.getAttribute('html', 'lang'), 'a language');
  assert.equal(await page.locator('h1').count(), 1);
  for (const scheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme: scheme });
    for (const [kind, width, height] of [[scheme, 1000, 720], [`${scheme}-phone`, 375, 720]]) {
      await page.setViewportSize({ width, height });
      await page.screenshot({ path: file(kind), fullPage: true });
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.equal(wide, 0, `${kind}: wider than the screen`);
    }
    // The box alone, for docs/pictures.
    await page.setViewportSize({ width: 1000, height: 720 });
    if (scheme === 'light') await page.locator('main').screenshot({ path: file('box') });
    // A person who uses a keyboard sees the focus.
    if (scheme === 'light' && await page.locator('a, button').count()) {
      await page.keyboard.press('Tab');
      const focused = await page.evaluate(() => {
        const { tagName } = document.activeElement;
        const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
        document.activeElement.blur();
        return `${tagName} ${outlineStyle} ${outlineWidth}`;
      });
      assert.match(focused, /^(A|BUTTON) solid 3px$/);
    }
    const { violations, passes } = await page.evaluate(`${axe};axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] })`);
    assert.deepEqual(violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.html} ${node.failureSummary}`)}`), [], scheme);
    assert(passes.some(({ id }) => id === 'color-contrast'), 'contrast was computed');
  }
  await page.emulateMedia({ colorScheme: null });
  assert.deepEqual(person.complaints, []);
}

async function isStyled(page) {
  const style = await page.locator('main').evaluate((it) => getComputedStyle(it).borderRadius);
  assert.equal(style, '12px', 'the style is there');
}

export const chooser = {
  async 'two providers to choose from, in the operator\'s look'(gate) {
    const person = await gate.person();
    await person.visit(gate.url('hostile', '/x?y=1'));
    assert.equal(await person.heading(), 'Sign in');
    assert.equal(await person.page.title(), 'Sign in · Example workspaces');
    assert.deepEqual((await person.page.locator('a.button').allTextContents()), ['Sign in with Example Corp', 'Sign in with Partner & Sons']);
    assert(await person.page.locator('img').evaluate((image) => image.complete && image.naturalWidth > 0), 'the logo');
    await look(gate, person, 'choose');
    await person.page.click('text=Partner & Sons');
    assert(person.page.url().startsWith(gate.providers[1].issuer));
    await person.signIn('paula');
    await person.page.waitForURL(gate.url('hostile', '/x?y=1'));
    assert.equal(await person.page.textContent('#user'), 'paula');
    assert(gate.workspaces.hostile.recording().includes(gate.providers[1].issuer), 'the issuer is told');
    // A person of the same name at the other provider is another person.
    await person.visit(gate.login());
    await person.page.click('text=Sign in as another person');
    await person.page.click('text=Partner & Sons');
    await person.signIn('alice');
    await person.page.waitForSelector('h1:text-is("You are signed in")');
    await person.visit(gate.url('mine'));
    assert.equal(await person.heading(), 'No access');
    const text = await person.page.textContent('main');
    assert(text.includes('alice (Partner & Sons)') && text.includes('Ask alice to share it'), text);
    await look(gate, person, 'denied-with-owner');
    const logo = await ask(gate, gate.own('logo'));
    assert.equal(logo.headers['content-type'], 'image/svg+xml');
    assert.equal(logo.headers['x-content-type-options'], 'nosniff');
    assert(logo.headers['content-security-policy'].includes('sandbox'));
    // The operator's own words.
    await person.visit(gate.own('signed-out'));
    assert((await person.page.textContent('main')).includes('Goodbye.'));
    await look(gate, person, 'signed-out-own-text');
    await person.close();
  },
};

export const tests = {
  async 'every page is one that people can read'(gate) {
    const person = await signedIn(gate, 'alice');
    const show = async (name, url, status, heading) => {
      const reply = await person.visit(url);
      assert.equal(reply.status(), status, name);
      assert.equal(await person.heading(), heading);
      assert.match(reply.headers()['content-security-policy'], /^default-src 'none'; /);
      assert.equal(reply.headers()['content-type'], 'text/html; charset=utf-8');
      assert.equal(reply.headers()['cache-control'], 'no-store');
      await isStyled(person.page);
      await look(gate, person, name);
    };
    await show('home', gate.login(), 200, 'You are signed in');
    await show('sign-out', gate.own('sign-out'), 200, 'Sign out?');
    await show('denied', gate.url('bobs', '/his'), 403, 'No access');
    await show('nothing', gate.login('/nowhere'), 404, 'There is nothing here');
    await show('failed', gate.own('callback/corp?code=x&state=y'), 400, 'That did not work');
    await show('late', gate.url('mine', '/.well-known/identity-spoa/finish?t=x'), 400, 'That took too long');
    await show('late-without-session', gate.url('bobs', '/.well-known/identity-spoa/arrived?to=/x'), 400, 'That took too long');
    await show('unmatched', `https://no.such.gate.test:${gate.port}/`, 421, 'There is nothing here');
    for (const [phase, status, heading] of [
      ['stopped', 404, 'This workspace is not running'],
      ['provisioning', 503, 'This workspace is starting'],
      ['interrupted', 503, 'This workspace is away for a moment'],
    ]) {
      gate.list({ mine: { phase } });
      await until(phase, async () => (await person.visit(gate.url('mine'))).status() === status);
      await show(phase, gate.url('mine', '/x?y'), status, heading);
    }
    gate.list({ mine: { owner: 'carol' } });
    await until('the change', async () => (await person.visit(gate.url('mine'))).status() === 403);
    await show('denied-in-place', gate.url('mine', '/x?y'), 403, 'No access');
    gate.list();
    await until('the change', async () => (await person.visit(gate.url('mine'))).status() === 200);
    // Trying again is opening the same address again.
    await person.visit(gate.url('second'));
    gate.list({ second: { phase: 'provisioning' } });
    await until('the change', async () => (await person.visit(gate.url('second', '/a?b=1'))).status() === 503);
    gate.list();
    await until('the workspace', async () => {
      await person.page.click('a:text-is("Try again")').catch(() => {});
      return (await person.heading()) === 'workspace second';
    });
    assert.equal(person.page.url(), gate.url('second', '/a?b=1'));
    // A provider that is away, and one that says no.
    const state = async () => {
      const stranger = await gate.person();
      await stranger.visit(gate.url('mine', '/x'));
      await stranger.page.waitForSelector('input[name=login]');
      const asked = stranger.requests.map((sent) => new URL(sent.url)).find(({ pathname }) => pathname === '/auth');
      return [stranger, asked.searchParams.get('state')];
    };
    const [stranger, text] = await state();
    await stranger.visit(gate.own(`callback/corp?error=access_denied&state=${text}`));
    assert.equal(await stranger.heading(), 'That did not work');
    await look(gate, stranger, 'refused-by-provider');
    await stranger.page.click('a:text-is("Try again")');
    await stranger.signIn('alice');
    await stranger.page.waitForURL(gate.url('mine', '/x'));
    await stranger.close();
    await person.visit(gate.own('signed-out'));
    await look(gate, person, 'signed-out');
    await person.close();
  },

  async 'without the agent there is still a page, of HAProxy\'s own'(gate) {
    const person = await signedIn(gate, 'alice');
    await gate.stopAgent('SIGKILL');
    for (const [name, url] of [['agent-away', gate.url('mine', '/x')], ['agent-away-login', gate.login()]]) {
      const reply = await person.visit(url);
      assert.equal(reply.status(), 503, name);
      assert.equal(await person.heading(), 'The gate does not answer');
      assert.match(reply.headers()['content-security-policy'], /^default-src 'none'; /);
      await isStyled(person.page);
      await look(gate, person, name);
      const id = await person.page.textContent('.decision');
      await until('the line in the log', () => gate.haproxyLog().includes(id));
    }
    assert.equal((await ask(gate, gate.url('mine'), { headers: { accept: '*/*' } })).status, 503);
    await gate.startAgent();
    await until('the gate to open', async () => (await ask(gate, gate.url('mine'), { headers: NAVIGATION })).status === 302);
    await person.page.click('a:text-is("Try again")');
    await person.visit(gate.url('mine', '/x'));
    assert.equal(await person.heading(), 'workspace mine');
    await person.close();
  },
};
