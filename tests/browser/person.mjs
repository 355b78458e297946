// A person with a browser: a real Chromium with an empty profile of its own.
import { mkdtempSync, rmSync } from 'node:fs';
import { request } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { chromium } from 'playwright-core';

// Whatever the browser ever held that must stay between it and us: value to what it is.
export const secrets = new Map();
const OURS = /^__Host-identity/i;
const PARAMETERS = ['r', 't', 's', 'code', 'state', 'nonce', 'id_token_hint'];

export function keep(value, what) {
  if (value && value.length >= 16) secrets.set(value, what);
}

// The people whose browsers are open, so that a failed test can show their pages and close them.
export const people = new Set();

export class Person {
  // `gate` is where every host of the name `*.test` is.
  static async open(gate, { pin, ...options } = {}) {
    const profile = mkdtempSync(join(tmpdir(), 'identity-spoa-profile-'));
    const context = await chromium.launchPersistentContext(profile, {
      executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
      headless: true,
      args: [
        '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
        '--disable-component-update', '--disable-sync', '--no-proxy-server',
        `--host-resolver-rules=MAP *.test ${gate.address}`,
        `--ignore-certificate-errors-spki-list=${pin ?? gate.pin}`,
      ],
      ...options,
    });
    context.setDefaultTimeout(20_000);
    const person = new Person();
    Object.assign(person, { context, profile, requests: [], complaints: [], pending: new Set() });
    context.on('request', (sent) => person.sent(sent));
    context.on('response', (got) => person.later(person.got(got)));
    context.on('console', (message) => {
      if (/Content Security Policy/i.test(message.text())) person.complaints.push(message.text());
    });
    person.page = context.pages()[0] ?? await context.newPage();
    people.add(person);
    return person;
  }

  sent(sent) {
    this.requests.push({ url: sent.url(), navigation: sent.isNavigationRequest(), method: sent.method() });
    const url = new URL(sent.url());
    for (const name of PARAMETERS) {
      const of = ['t', 's'].includes(name) ? `ticket of ${url.hostname}` : name;
      keep(url.searchParams.get(name), of);
    }
  }

  async got(response) {
    for (const { name, value } of await response.headersArray()) {
      const [pair] = value.split(';');
      const at = pair.indexOf('=');
      if (name.toLowerCase() === 'set-cookie' && OURS.test(pair)) {
        keep(pair.slice(at + 1), `cookie of ${new URL(response.url()).hostname}`);
      }
    }
  }

  later(promise) {
    const settled = promise.catch(() => {}).finally(() => this.pending.delete(settled));
    this.pending.add(settled);
  }

  async newPage() { return this.context.newPage(); }

  // The gate's cookies at a host.
  async cookies(host) {
    const all = await this.context.cookies();
    return all.filter(({ name, domain }) => OURS.test(name) && (!host || domain === host));
  }

  async cookie(host, name = '__Host-identity') {
    return (await this.cookies(host)).find((cookie) => cookie.name === name)?.value;
  }

  // Types a name into the provider's own form.
  async signIn(name, page = this.page) {
    await page.waitForSelector('input[name=login]');
    await page.fill('input[name=login]', name);
    await page.fill('input[name=password]', 'any');
    await page.click('button[type=submit]');
  }

  // Where the page delivers a ticket, the browser goes on by itself.
  async visit(url, page = this.page) {
    const reply = await page.goto(url);
    if (reply && await reply.headerValue('refresh')) {
      const ours = '/.well-known/identity-spoa/';
      await page.waitForURL((now) => !['start', 'callback', 'arrived?'].some((name) => now.href.includes(ours + name)));
    }
    return reply;
  }
  async heading(page = this.page) { return (await page.textContent('h1')).trim(); }

  async saw() {
    const seen = await Promise.all(this.context.pages().map(async (page) => {
      const text = await page.textContent('body', { timeout: 1000 }).catch(() => '');
      return `${page.url()}: ${text.trim().replaceAll(/\s+/g, ' ').slice(0, 400)}`;
    }));
    return [...seen, ...this.complaints].join('\n');
  }

  async close() {
    people.delete(this);
    for (const { value, domain } of await this.cookies()) keep(value, `cookie of ${domain}`);
    await Promise.all(this.pending);
    await this.context.close();
    rmSync(this.profile, { recursive: true, force: true });
  }
}

// One request without a browser, which follows nothing.
export function ask(gate, url, { method = 'GET', headers = {}, agent } = {}) {
  const { hostname } = new URL(url);
  return new Promise((resolve, reject) => {
    const lookup = (name, { all }, found) => (all ? found(null, [{ address: gate.address, family: 4 }]) : found(null, gate.address, 4));
    const sent = request(url, { method, headers, lookup, ca: gate.ca, servername: hostname, agent }, (response) => {
      const body = [];
      response.on('data', (data) => body.push(data)).on('end', () => resolve({
        status: response.statusCode, headers: response.headers, body: Buffer.concat(body).toString(),
      }));
    });
    sent.on('error', reject).end();
  });
}
export const NAVIGATION = { accept: 'text/html', 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'document' };
