// Git over HTTPS: clone, fetch and push with a token of `identity-spoa login`.
import { strict as assert } from 'node:assert';
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { stopped } from './access.mjs';
import { block } from './servers/block.mjs';
import { loginArgs } from './stage.mjs';
import { until } from './until.mjs';

const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export const tests = [{
  app: 'Git',
  version: (gate) => gate.git.version,
  what: 'clone, push of 20 MiB, fetch; the token from `identity-spoa login`',
  async run(gate) {
    const { host, port } = new URL(gate.url('repo'));
    const bare = join(gate.directory, 'repositories/app.git');
    mkdirSync(bare, { recursive: true });
    await gate.run('git', ['init', '-q', '--bare', '-b', 'main', bare]);
    await gate.run('git', ['-C', bare, 'config', 'http.receivepack', 'true']);
    await gate.start('git', gate.node, [join(gate.packages, 'servers/git.mjs'), String(gate.ports.repo), join(gate.directory, 'repositories')], { port: gate.ports.repo });
    const work = join(gate.directory, 'clones');
    mkdirSync(work);
    const settings = (more) => ['-c', `http.curloptResolve=${host.split(':')[0]}:${port}:${gate.address}`, '-c', `http.sslCAInfo=${join(gate.directory, 'ca.pem')}`,
      '-c', 'user.name=Ed', '-c', 'user.email=ed@example.com', '-c', 'credential.helper=', ...more];
    const env = { GIT_TERMINAL_PROMPT: '0', HOME: gate.directory, GIT_SSL_CAINFO: join(gate.directory, 'ca.pem') };
    const git = (more, ...args) => gate.run(gate.git.command, [...gate.git.args, '-C', work, ...settings(more), ...args], { env });
    const url = gate.url('repo', '/app.git');

    const none = await git([], 'clone', url, 'none');
    assert.notEqual(none.code, 0);
    assert.match(none.err, /could not read Username|Authentication failed|401/);
    const token = await gate.token('alice');
    const login = [join(gate.root, 'target/debug/identity-spoa'), ...loginArgs(gate)];
    // Git 2.46 and later ask the helper for a Bearer token; earlier ones are given the header.
    const alice = gate.git.bearer
      ? ['-c', `credential.helper=!${[...login, '--format', 'git'].map(quote).join(' ')}`]
      : ['-c', `http.extraHeader=${(await gate.run(login[0], [...login.slice(1), '--format', 'header'])).out.trim()}`];
    assert(gate.git.bearer || alice[1].endsWith(token));
    const ok = ({ code, err }) => assert.equal(code, 0, err);
    ok(await git(alice, 'clone', url, 'one'));
    const one = join(work, 'one');
    writeFileSync(join(one, 'large.bin'), Buffer.concat(Array(20).fill(block)));
    writeFileSync(join(one, 'README.md'), '# App\n');
    ok(await git(alice, '-C', one, 'checkout', '-q', '-b', 'main'));
    ok(await git(alice, '-C', one, 'add', '.'));
    ok(await git(alice, '-C', one, 'commit', '-q', '-m', 'Add the app'));
    // Git with a helper's Bearer token sends the first request of a push in parts without it: docs/apps.md.
    const parts = await git(alice, '-C', one, 'push', '-q', 'origin', 'main');
    if (gate.git.bearer && /401/.test(parts.err)) alice.push('-c', 'http.postBuffer=104857600');
    else ok(parts);
    ok(await git(alice, '-C', one, 'push', '-q', 'origin', 'main'));
    ok(await git(alice, 'clone', '-q', url, 'two'));
    assert(readFileSync(join(work, 'two/large.bin')).equals(readFileSync(join(one, 'large.bin'))));
    ok(await git(alice, '-C', join(work, 'two'), 'fetch', 'origin'));

    const bob = ['-c', `http.extraHeader=Authorization: Bearer ${await gate.token('bob')}`];
    const refused = await git(bob, 'clone', url, 'bob');
    assert.notEqual(refused.code, 0);
    assert.match(refused.err, /403/);

    // A push whose hook takes its time.
    writeFileSync(join(bare, 'hooks/pre-receive'), '#!/bin/sh\ntouch "$GIT_DIR/began"\nexec sleep 60\n');
    chmodSync(join(bare, 'hooks/pre-receive'), 0o755);
    writeFileSync(join(one, 'README.md'), '# App, again\n');
    ok(await git(alice, '-C', one, 'commit', '-q', '-a', '-m', 'Change it'));
    // By Git of this machine: the end of a container takes time too.
    const header = ['-c', `http.extraHeader=Authorization: Bearer ${token}`];
    const push = gate.run('git', ['-C', one, ...settings(header), 'push', '-q', 'origin', 'main'], { env }).then((ended) => ({ ...ended, at: Date.now() }));
    let early;
    push.then((ended) => { early = ended; });
    await until('the hook', () => {
      if (early) throw new Error(`the push ended: ${early.err}`);
      return existsSync(join(bare, 'began'));
    });
    const took = await stopped(gate, 'repo', [{ what: 'a push', ended: push.then(({ at }) => at) }]);
    assert.notEqual((await push).code, 0);
    gate.list();
    return { took, note: `${gate.git.bearer ? 'as credential helper' : 'as header'}${alice.length > 2 ? ', with `http.postBuffer`' : ''}` };
  },
}];
