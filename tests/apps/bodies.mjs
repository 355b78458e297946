// Large bodies, `Expect: 100-continue`, slow clients and very many idle WebSockets.
import { strict as assert } from 'node:assert';
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { connect as connectHttp2 } from 'node:http2';
import { join } from 'node:path';
import { pipeline, Readable } from 'node:stream';
import { connect as connectTls } from 'node:tls';

import { ask, stopped } from './access.mjs';
import { curl, files } from './programs.mjs';
import { block, digest, pieces } from './servers/block.mjs';

const LONG = Boolean(process.env.LONG);
const MEBIBYTE = 1 << 20;
const SIZE = LONG ? 5120 * MEBIBYTE : 200 * MEBIBYTE;
// HAProxy needs two descriptors for each, and some for itself.
const descriptors = Number(/Max open files +\S+ +(\d+)/.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1] ?? 65_536);
const SOCKETS = Math.min(LONG ? 10_000 : 500, Math.floor((descriptors - 400) / 2));

// Sends a body over HTTP/1.1 or HTTP/2, and returns what the answer was.
function up(gate, url, headers, http2) {
  const body = () => Readable.from(pieces(0, SIZE), { objectMode: false });
  return new Promise((resolve, reject) => {
    const answer = (stream, status) => {
      const text = [];
      stream.on('data', (data) => text.push(data)).on('end', () => resolve({ status, body: Buffer.concat(text).toString() })).on('error', reject);
    };
    if (http2) {
      const session = session2(gate, url).on('error', reject);
      const stream = session.request({ ':method': 'PUT', ':path': new URL(url).pathname, 'content-length': SIZE, ...headers });
      stream.on('response', ({ ':status': status }) => answer(stream, status)).on('error', reject).on('close', () => session.close());
      pipeline(body(), stream, () => {});
    } else {
      const sent = ask(gate, url, { method: 'PUT', headers: { 'content-length': SIZE, ...headers } });
      sent.on('response', (response) => answer(response, response.statusCode)).on('error', reject);
      pipeline(body(), sent, () => {});
    }
  });
}

// Reads a body, and returns its length and hash.
function down(gate, url, headers, http2) {
  return new Promise((resolve, reject) => {
    const read = (stream) => {
      const hash = createHash('sha256');
      let bytes = 0;
      stream.on('data', (data) => { hash.update(data); bytes += data.length; });
      stream.on('end', () => resolve({ bytes, sha256: hash.digest('hex') })).on('error', reject);
    };
    if (http2) {
      const { pathname, search } = new URL(url);
      const session = session2(gate, url).on('error', reject);
      const stream = session.request({ ':path': pathname + search, ...headers });
      read(stream);
      stream.on('close', () => session.close());
    } else {
      ask(gate, url, { headers }).on('response', read).on('error', reject).end();
    }
  });
}

function session2(gate, url) {
  const { origin, hostname } = new URL(url);
  const createConnection = () => connectTls({ host: gate.address, port: gate.port, ca: gate.ca, servername: hostname, ALPNProtocols: ['h2'] });
  return connectHttp2(origin, { createConnection });
}

export const tests = [
  {
    app: LONG ? '5 GiB' : '200 MiB',
    version: () => 'HTTP/1.1 and HTTP/2',
    what: 'uploaded and downloaded, compared by hash',
    limit: 3_600_000,
    async run(gate) {
      const { url, authorization } = await files(gate);
      const whole = digest(SIZE);
      const rates = [];
      for (const http2 of [false, true]) {
        const began = Date.now();
        const sent = await up(gate, url('/sink'), { authorization }, http2);
        assert.equal(sent.status, 200, sent.body);
        const { bytes, sha256 } = JSON.parse(sent.body);
        assert.deepEqual([bytes, sha256], [SIZE, whole]);
        const middle = Date.now();
        assert.deepEqual(await down(gate, url(`/source?bytes=${SIZE}`), { authorization }, http2), { bytes: SIZE, sha256: whole });
        const rate = (from, to) => Math.round(SIZE / MEBIBYTE / ((to - from) / 1000));
        rates.push(`HTTP/${http2 ? 2 : '1.1'} ${rate(began, middle)} and ${rate(middle, Date.now())} MiB/s`);
      }
      return { note: rates.join(', ') };
    },
  },
  {
    app: '`Expect: 100-continue`',
    version: () => 'curl, Python, Node.js',
    what: 'a body of 20 MiB over HTTP/1.1 and HTTP/2, with and without a session: with, the server gets it whole; without, a readable 401 and no reset, also for clients that do not wait',
    async run(gate) {
      const { url, authorization } = await files(gate);
      const file = join(gate.directory, 'body.bin');
      writeFileSync(file, Buffer.concat(Array(20).fill(block)));
      const whole = digest(20 * MEBIBYTE);
      // HAProxy 2.6 ends an HTTP/2 stream whose body it does not read before it sends its answer, whatever the rule:
      // docs/apps.md. What it denies stays denied.
      const loses = gate.label === '2.6';
      for (const version of ['--http1.1', '--http2']) {
        for (const expect of ['100-continue', '']) {
          const send = (...more) => curl(gate, [version, '-H', `Expect: ${expect}`.trim(), '-X', 'PUT', '-T', file, ...more, url('/sink')]);
          const good = await send('-H', `Authorization: ${authorization}`);
          assert.deepEqual([good.code, good.status], [0, 200], good.err);
          assert.equal(JSON.parse(good.out).sha256, whole);
          const what = `curl ${version}${expect ? ' with Expect' : ''}`;
          for (const [credential, status] of [[[], 401], [['-H', `Authorization: Bearer ${await gate.token('bob')}`], 403]]) {
            const bad = await send(...credential);
            if (loses && (version === '--http2' || !expect)) {
              assert([0, status].includes(bad.status), `${what}: ${bad.err}`);
              continue;
            }
            assert.deepEqual([bad.code, bad.status], [0, status], `${what}: ${bad.err}`);
            assert.match(bad.out, /"decision_id":|decision /, `${what}: ${bad.out}`);
            if (expect && version === '--http1.1') assert.equal(bad.sent, 0, `${what} sent ${bad.sent} bytes`);
          }
        }
      }
      if (loses) return { note: 'without a session only with Expect over HTTP/1.1' };
      // Clients that send everything before they read.
      const python = await gate.run(gate.python, [join(gate.packages, 'blunt.py'), gate.address, String(gate.port), new URL(url('/')).hostname, join(gate.directory, 'ca.pem')]);
      assert.equal(python.code, 0, `Python: ${python.out} ${python.err}`);
      assert.equal(python.out.trim(), '401 401');
      for (const http2 of [false, true]) {
        const { status, body } = await up(gate, url('/sink'), {}, http2).catch((error) => ({ status: error.code }));
        assert.equal(status, 401, `Node.js, HTTP/${http2 ? 2 : 1.1}`);
        assert.match(body, /decision_id/);
      }
      return {};
    },
  },
  {
    app: 'a client of 1 KiB a second',
    version: () => '80 s',
    what: 'an upload and a download, both longer than the time-outs of HAProxy',
    limit: 200_000,
    async begin(gate) {
      await gate.start('slow', gate.node, [join(gate.packages, 'servers/files.mjs'), String(gate.ports.slow)], { port: gate.ports.slow });
      return gate.run(gate.python, [join(gate.packages, 'slow.py'), gate.address, String(gate.port), gate.host('slow'),
        join(gate.directory, 'ca.pem'), `Bearer ${await gate.token('alice')}`, '80'], { timeout: 180_000 });
    },
    async run(gate, begun) {
      const slow = await begun;
      assert.equal(slow.code, 0, `${slow.out} ${slow.err}`);
      assert.equal(JSON.parse(slow.out).sha256, digest(80 * 1024));
      return {};
    },
  },
  {
    app: `${SOCKETS.toLocaleString('en')} idle WebSockets`,
    version: () => (LONG ? '10 minutes' : '70 s'),
    what: 'each answers afterwards; all end with the workspace',
    limit: LONG ? 1_800_000 : 300_000,
    async begin(gate) {
      await gate.start('idle', gate.node, [join(gate.packages, 'servers/files.mjs'), String(gate.ports.idle)], { port: gate.ports.idle });
      const holder = await gate.hold('holder', gate.node, [join(gate.packages, 'idle.mjs')], {
        ADDRESS: gate.address, PORT: String(gate.port), HOST: gate.host('idle'), CA: join(gate.directory, 'ca.pem'),
        TOKEN: await gate.token('alice'), COUNT: String(SOCKETS), SECONDS: LONG ? '600' : '70',
      });
      holder.again = Number(await holder.says('opened', LONG ? 1_200_000 : 120_000));
      return holder;
    },
    async run(gate, begun) {
      const holder = await begun;
      const answered = await holder.says('answered', LONG ? 900_000 : 180_000);
      assert.equal(answered, `${SOCKETS}`);
      const took = await stopped(gate, 'idle', [{ what: `${SOCKETS} WebSockets`, ended: holder.says('ended', 20_000).then(Number) }]);
      gate.list();
      await holder.stop();
      return { took, note: holder.again ? `${holder.again} had 503 first` : undefined };
    },
  },
];
