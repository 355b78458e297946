// An app with sessions of its own, as dashboards have them: a form, a cookie, redirects to its own address, and a
// check that a posted form and a WebSocket come from its own origin.
//
// Start: node panel.mjs PORT
import { createServer } from 'node:http';

import express from 'express';
import session from 'express-session';
import { WebSocketServer } from 'ws';

const app = express();
// Behind the gate, the address that people see is in X-Forwarded-*.
app.set('trust proxy', 'loopback');
const sessions = session({
  name: 'panel_session',
  secret: 'panel',
  resave: false,
  saveUninitialized: false,
  cookie: { httpOnly: true, sameSite: 'lax', secure: true },
});
const own = (request) => !request.headers.origin || new URL(request.headers.origin).host === request.headers.host;
app.use(sessions, express.urlencoded());
app.use((request, response, next) => {
  if (request.method === 'GET' || own(request)) next();
  else response.status(403).send('origin not allowed');
});
app.get('/login', (request, response) => {
  response.cookie('panel_theme', 'dark', { secure: true });
  response.send('<!doctype html><title>panel</title><h1>Log in</h1><form method="post"><input name="user"><input name="password" type="password"><button>Log in</button></form>');
});
app.post('/login', (request, response) => {
  request.session.user = request.body.user;
  // The whole address, as the app believes it to be.
  response.redirect(303, `${request.protocol}://${request.headers.host}/d/1?orgId=1`);
});
app.get('/logout', (request, response) => {
  request.session.destroy(() => response.clearCookie('panel_session').redirect('/login'));
});
app.use((request, response, next) => (request.session.user ? next() : response.redirect('/login')));
app.get('/d/:id', (request, response) => response.send(`<!doctype html><title>panel</title><h1>Dashboard ${request.params.id}</h1>
  <p id="user">${request.session.user}</p><p id="gate">${request.headers['x-forwarded-user']}</p>
  <p id="cookies">${(request.headers.cookie ?? '').split('; ').map((one) => one.split('=')[0]).sort().join(' ')}</p>
  <p id="live">waiting</p><a href="/logout">Log out</a>
  <script>
    const socket = new WebSocket(location.origin.replace('http', 'ws') + '/api/live');
    socket.onmessage = ({ data }) => { document.querySelector('#live').textContent = data; };
  </script>`));

const server = createServer(app);
const sockets = new WebSocketServer({ noServer: true });
server.on('upgrade', (request, socket, head) => {
  sessions(request, { on() {}, end() {}, writeHead() {}, setHeader() {}, getHeader() {} }, () => {
    if (!own(request) || !request.session.user) {
      socket.end('HTTP/1.1 403 Forbidden\r\n\r\n');
      return;
    }
    sockets.handleUpgrade(request, socket, head, (live) => live.send(`live for ${request.session.user}`));
  });
});
server.listen(Number(process.argv[2]), '127.0.0.1');
