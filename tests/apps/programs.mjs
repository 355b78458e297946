// Programs with a token: curl, a WebSocket client, gRPC-web, server-sent events, a download that is resumed.
import { strict as assert } from 'node:assert';
import { createHash } from 'node:crypto';
import { createReadStream, existsSync, statSync } from 'node:fs';
import { connect as connectHttp2 } from 'node:http2';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import { createGunzip } from 'node:zlib';

import { createClient } from '@connectrpc/connect';
import { createGrpcWebTransport, Http2SessionManager } from '@connectrpc/connect-node';
import { WebSocket } from 'ws';

import { ask, closed, get, open, refused, stopped } from './access.mjs';
import { digest } from './servers/block.mjs';
import { Echo } from './servers/echo.mjs';
import { until } from './until.mjs';

const MEBIBYTE = 1 << 20;
const LONG = Boolean(process.env.LONG);

// The server of workspace files, and tokens of its owner and of another person.
export async function files(gate) {
  if (!gate.programs.some(({ name }) => name === 'files')) {
    await gate.start('files', gate.node, [join(gate.packages, 'servers/files.mjs'), String(gate.ports.files)], { port: gate.ports.files });
  }
  const authorization = `Bearer ${await gate.token('alice')}`;
  return { url: (path) => gate.url('files', path), authorization, other: `Bearer ${await gate.token('bob')}` };
}

// curl, which finds the gate and trusts it. Returns what it printed, and `code` of the process.
export async function curl(gate, args, options) {
  const { hostname, port } = new URL(gate.url('files'));
  const got = await gate.run('curl', ['-sS', '--noproxy', '*', '--resolve', `${hostname}:${port}:${gate.address}`,
    '--cacert', join(gate.directory, 'ca.pem'), '-w', '%{stderr}\n%{http_code} %{http_version} %{size_upload} %{size_download}', ...args], options);
  const [status, version, sent, received] = (got.err.trim().split('\n').at(-1) ?? '').split(' ');
  return { ...got, status: Number(status), version, sent: Number(sent), received: Number(received) };
}

async function sha256(file) {
  const hash = createHash('sha256');
  for await (const data of createReadStream(file)) hash.update(data);
  return hash.digest('hex');
}

// A transport of gRPC-web to the gate, over one HTTP/2 connection.
function transport(gate, url, authorization) {
  const { hostname, origin } = new URL(url);
  const createConnection = () => connectTls({ host: gate.address, port: gate.port, ca: gate.ca, servername: hostname, ALPNProtocols: ['h2'] });
  return createGrpcWebTransport({
    baseUrl: origin,
    httpVersion: '2',
    sessionManager: new Http2SessionManager(origin, {}, { createConnection }),
    interceptors: [(next) => (request) => { request.header.set('authorization', authorization); return next(request); }],
  });
}

// In a page: one call of gRPC-web by hand, as browsers' libraries do it. The text of the answer.
async function sayInPage(value) {
  const text = new TextEncoder().encode(value);
  const body = new Uint8Array([0, 0, 0, 0, text.length + 2, 0x0a, text.length, ...text]);
  const headers = { 'content-type': 'application/grpc-web+proto', 'x-grpc-web': '1' };
  const reply = await fetch('/apps.Echo/Say', { method: 'POST', headers, body });
  const data = new Uint8Array(await reply.arrayBuffer());
  const length = new DataView(data.buffer).getUint32(1);
  const said = new TextDecoder().decode(data.subarray(7, 5 + length));
  return { said, trailers: new TextDecoder().decode(data.subarray(5 + length + 5)) };
}

export const tests = [
  {
    app: 'curl',
    version: async (gate) => /curl (\S+)/.exec((await gate.run('curl', ['--version'])).out)[1],
    what: '`--http2` and `--http1.1`: GET, upload, a download that ends with the workspace',
    async run(gate) {
      const { url, authorization, other } = await files(gate);
      for (const [version, form] of [['--http2', '2'], ['--http1.1', '1.1']]) {
        const page = await curl(gate, [version, '-H', `Authorization: ${authorization}`, url('/')]);
        assert.deepEqual([page.code, page.status, page.version], [0, 200, form], page.err);
        assert.match(page.out, /<p id="user">alice/);
        for (const [who, status] of [[other, 403], [undefined, 401], ['Bearer junk', 401]]) {
          const no = await curl(gate, [version, ...who ? ['-H', `Authorization: ${who}`] : [], url('/')]);
          assert.deepEqual([no.code, no.status], [0, status], no.err);
        }
      }
      const downloads = ['--http2', '--http1.1'].map((version) => ({
        what: `curl ${version}`,
        ended: curl(gate, [version, '-o', '/dev/null', '-H', `Authorization: ${authorization}`, url(`/source?rate=8&bytes=${1 << 30}`)])
          .then(({ code, received }) => { assert(code !== 0 && received > 0, `${code} ${received}`); return Date.now(); }),
      }));
      // What lasts is known to the agent after three seconds; younger ones end too.
      await new Promise((resolve) => setTimeout(resolve, 1000));
      const took = await stopped(gate, 'files', downloads);
      gate.list();
      return { took };
    },
  },
  {
    app: 'a WebSocket client',
    version: (gate) => `ws ${gate.packaged('ws')}`,
    what: 'with a token, compressed, 1 MiB each way',
    async run(gate) {
      const { url, authorization, other } = await files(gate);
      const { hostname } = new URL(url('/'));
      const dial = (headers) => new WebSocket(url('/socket').replace('https:', 'wss:'), {
        headers, ca: gate.ca, servername: hostname, lookup: (name, { all }, found) => (all ? found(null, [{ address: gate.address, family: 4 }]) : found(null, gate.address, 4)),
      });
      const status = (headers) => new Promise((resolve) => {
        const socket = dial(headers);
        socket.on('unexpected-response', (request, response) => { resolve(response.statusCode); request.destroy(); });
        socket.on('open', () => { resolve(101); socket.terminate(); });
        socket.on('error', () => {});
      });
      assert.deepEqual([await status({ authorization: other }), await status({})], [403, 401]);
      const socket = dial({ authorization });
      const ended = new Promise((resolve) => { socket.on('close', () => resolve(Date.now())).on('error', () => {}); });
      await new Promise((resolve, reject) => { socket.on('open', resolve).on('error', reject); });
      assert.match(socket.extensions, /permessage-deflate/);
      const large = Buffer.alloc(MEBIBYTE, 'all work and no play ');
      const echoed = new Promise((resolve) => { socket.once('message', resolve); });
      socket.send(large);
      assert(large.equals(await echoed));
      const took = await stopped(gate, 'files', [{ what: 'a WebSocket', ended }]);
      gate.list();
      return { took };
    },
  },
  {
    app: 'gRPC-web',
    version: (gate) => `connect ${gate.packaged('@connectrpc/connect-node')}`,
    what: 'a call from a page, a call and a stream from a program over HTTP/2',
    async run(gate) {
      const { url, authorization, other } = await files(gate);
      const person = await open(gate, 'alice', url('/'), 'h1:text-is("files")');
      const { said, trailers } = await person.page.evaluate(sayInPage, 'hello');
      assert.equal(said, 'said hello');
      assert.match(trailers, /grpc-status: ?0/);
      const client = createClient(Echo, transport(gate, url('/'), authorization));
      assert.equal((await client.say({ value: 'there' })).value, 'said there');
      await assert.rejects(createClient(Echo, transport(gate, url('/'), other)).say({ value: 'there' }), /permission_denied|403/);
      await assert.rejects(createClient(Echo, transport(gate, url('/'), 'Bearer junk')).say({ value: 'there' }), /unauthenticated|401/);
      let count = 0;
      const ended = (async () => {
        try {
          for await (const { value } of client.repeat({ value: 'again' })) { assert.equal(value, `again ${count += 1}`); }
        } catch (error) {
          if (error.code === 'ERR_ASSERTION') throw error;
        }
        return Date.now();
      })();
      await until('the stream', () => count > 5);
      const took = await stopped(gate, 'files', [{ what: 'a stream', ended }]);
      await closed(gate, person, url('/'));
      await person.close();
      return { took };
    },
  },
  {
    app: LONG ? 'server-sent events for an hour' : 'server-sent events',
    version: () => (LONG ? 'an hour' : '20 s'),
    what: 'EventSource in a page, and a program that takes them compressed, over HTTP/1.1 and HTTP/2',
    limit: LONG ? 4_000_000 : undefined,
    async run(gate) {
      const { url, authorization, other } = await files(gate);
      assert.equal((await get(gate, url('/events'), { headers: { authorization: other } })).status, 403);
      const person = await open(gate, 'alice', url('/'), 'h1:text-is("files")');
      await person.page.evaluate(() => {
        window.heard = 0;
        const events = new EventSource('/events?every=250');
        events.onmessage = () => { window.heard += 1; };
        events.onerror = () => { window.ended ??= Date.now(); };
      });
      const streams = [];
      const read = (what, stream) => {
        const one = { what, text: '' };
        const out = stream.pipe(createGunzip());
        out.setEncoding('utf8').on('data', (data) => { one.text += data; }).on('error', () => {});
        one.ended = new Promise((resolve) => { stream.on('close', () => resolve(Date.now())); });
        stream.on('error', () => {});
        streams.push(one);
      };
      const headers = { authorization, 'accept-encoding': 'gzip' };
      const first = ask(gate, url('/events?every=250'), { headers }).on('error', () => {});
      first.on('response', (response) => read('HTTP/1.1', response)).end();
      const { origin, hostname } = new URL(url('/'));
      const session = connectHttp2(origin, { createConnection: () => connectTls({ host: gate.address, port: gate.port, ca: gate.ca, servername: hostname, ALPNProtocols: ['h2'] }) });
      session.on('error', () => {});
      read('HTTP/2', session.request({ ':path': '/events?every=250', ...headers }));
      const seconds = LONG ? 3600 : 20;
      const heard = () => Promise.all([person.page.evaluate(() => window.heard), ...streams.map(({ text }) => text.split('\n\n').length - 1)]);
      await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
      const counts = await heard();
      assert(streams.length === 2 && counts.every((count) => count > seconds * 2), `${counts}`);
      assert.equal(await person.page.evaluate(() => window.ended), undefined);
      await gate.picture(person.page, 'server-sent-events');
      const page = { what: 'EventSource', ended: until('the end in the page', () => person.page.evaluate(() => window.ended), { within: 15_000 }) };
      const took = await stopped(gate, 'files', [...streams, page]);
      session.destroy();
      await closed(gate, person, url('/'));
      await person.close();
      return { took };
    },
  },
  {
    app: 'a download that is resumed',
    version: () => 'curl -C -',
    what: 'interrupted by a stop of the workspace, resumed by Range, compared with the whole',
    async run(gate) {
      const { url, authorization, other } = await files(gate);
      const length = 64 * MEBIBYTE;
      const file = join(gate.directory, 'resumed.bin');
      const args = ['-o', file, '-H', `Authorization: ${authorization}`];
      const first = curl(gate, [...args, url(`/source?rate=8&bytes=${length}`)]);
      await until('a part of it', () => existsSync(file) && statSync(file).size > 4 * MEBIBYTE);
      const took = await stopped(gate, 'files', [{ what: 'a download', ended: first.then(() => Date.now()) }]);
      assert.notEqual((await first).code, 0);
      gate.list();
      const part = statSync(file).size;
      assert(part > 0 && part < length, `${part}`);
      await until('the workspace', async () => (await get(gate, url('/'), { headers: { authorization } })).status === 200);
      const rest = await curl(gate, ['-C', '-', ...args, url(`/source?bytes=${length}`)]);
      assert.deepEqual([rest.code, rest.status, rest.received], [0, 206, length - part], rest.err);
      assert.equal(await sha256(file), digest(length));
      const no = await get(gate, url(`/source?bytes=${length}`), { headers: { authorization: other, range: 'bytes=1-' } });
      assert.equal(no.status, 403);
      return { took };
    },
  },
];
