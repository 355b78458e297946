// A workspace's server for programs: uploads, downloads with Range, server-sent events, WebSockets, gRPC-web.
//
// Start: node files.mjs PORT
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';
import { pipeline, Readable } from 'node:stream';
import { constants, createGzip } from 'node:zlib';

import { connectNodeAdapter } from '@connectrpc/connect-node';
import { WebSocketServer } from 'ws';

import { pieces } from './block.mjs';
import { Echo } from './echo.mjs';

const rpc = connectNodeAdapter({
  routes: (router) => router.service(Echo, {
    say: ({ value }) => ({ value: `said ${value}` }),
    async* repeat({ value }, { signal }) {
      for (let count = 1; !signal.aborted; count += 1) {
        yield { value: `${value} ${count}` };
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    },
  }),
});

const server = createServer((request, response) => {
  const url = new URL(request.url, 'http://workspace');
  const page = pages[url.pathname];
  if (page) page(request, response, url.searchParams);
  else rpc(request, response);
});
// Slow clients are the point.
Object.assign(server, { requestTimeout: 0, headersTimeout: 0, keepAliveTimeout: 120_000 });

async function* slowly(pieces, rate) {
  for (const piece of pieces) {
    yield piece;
    if (rate) await new Promise((resolve) => setTimeout(resolve, 1000 / rate));
  }
}

const pages = {
  '/': (request, response) => {
    const user = request.headers['x-forwarded-user'] ?? 'anonymous';
    response.setHeader('content-type', 'text/html; charset=utf-8').end(`<!doctype html><title>files</title><h1>files</h1><p id="user">${user}</p>`);
  },
  // Takes a body and says what it was.
  '/sink': (request, response) => {
    const hash = createHash('sha256');
    let bytes = 0;
    request.on('data', (data) => { hash.update(data); bytes += data.length; });
    request.on('end', () => response.setHeader('content-type', 'application/json').end(JSON.stringify({
      bytes, sha256: hash.digest('hex'), expect: request.headers.expect ?? null, version: request.httpVersion,
    })));
  },
  // `bytes` bytes, whole or the range that is asked for; `rate` MiB a second at most.
  '/source': (request, response, query) => {
    const length = Number(query.get('bytes'));
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
    const start = range ? Number(range[1]) : 0;
    const end = range?.[2] ? Number(range[2]) + 1 : length;
    response.writeHead(range ? 206 : 200, {
      'content-type': 'application/octet-stream',
      'content-length': end - start,
      'accept-ranges': 'bytes',
      etag: `"${length}"`,
      ...range && { 'content-range': `bytes ${start}-${end - 1}/${length}` },
    });
    pipeline(Readable.from(slowly(pieces(start, end), Number(query.get('rate') ?? 0)), { objectMode: false }), response, () => {});
  },
  // An event every `every` milliseconds, compressed where the client takes it.
  '/events': (request, response, query) => {
    const gzip = /\bgzip\b/.test(request.headers['accept-encoding'] ?? '');
    response.writeHead(200, {
      'content-type': 'text/event-stream',
      'cache-control': 'no-cache',
      ...gzip && { 'content-encoding': 'gzip' },
    });
    const out = gzip ? createGzip() : response;
    if (gzip) pipeline(out, response, () => {});
    let count = 0;
    const timer = setInterval(() => {
      count += 1;
      out.write(`id: ${count}\ndata: event ${count}\n\n`);
      if (gzip) out.flush(constants.Z_SYNC_FLUSH);
    }, Number(query.get('every') ?? 100));
    response.on('close', () => { clearInterval(timer); out.destroy(); });
  },
};

const sockets = new WebSocketServer({ server, path: '/socket', perMessageDeflate: true });
sockets.on('connection', (socket) => {
  socket.on('error', () => {});
  socket.on('message', (data, binary) => socket.send(data, { binary }));
});

server.listen(Number(process.argv[2]), '127.0.0.1');
