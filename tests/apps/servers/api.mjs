// An API with a log-in of its own: JSON Web Tokens that this server signs, sent as `Authorization: Bearer`. It has no
// CORS headers of its own.
//
// Start: node api.mjs PORT
import { createServer } from 'node:http';

import express from 'express';
import jwt from 'jsonwebtoken';
import { WebSocketServer } from 'ws';

const secret = 'the secret of the app itself';
const app = express();
app.use(express.json());
app.get('/', (request, response) => response.send('<!doctype html><title>api</title><h1>API</h1>'));
app.post('/login', (request, response) => {
  response.json({ token: jwt.sign({ name: request.body.name, role: 'editor' }, secret, { expiresIn: '5m' }) });
});
const authenticated = (request, response, next) => {
  const [scheme, token] = (request.headers.authorization ?? '').split(' ');
  try {
    request.login = jwt.verify(scheme === 'Bearer' ? token : '', secret);
    next();
  } catch (error) {
    response.status(401).json({ error: error.message });
  }
};
app.get('/me', authenticated, (request, response) => {
  response.json({ login: request.login.name, gate: request.headers['x-forwarded-user'] ?? null });
});
app.put('/items/:id', authenticated, (request, response) => {
  response.json({ id: request.params.id, ...request.body, by: request.login.name });
});
app.get('/open', (request, response) => response.json({ gate: request.headers['x-forwarded-user'] ?? null }));
app.get('/events', (request, response) => {
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' });
  let count = 0;
  const timer = setInterval(() => response.write(`data: ${count += 1}\n\n`), 100);
  response.on('close', () => clearInterval(timer));
});

const server = createServer(app);
const sockets = new WebSocketServer({ server, path: '/socket' });
sockets.on('connection', (socket) => {
  socket.on('error', () => {});
  socket.on('message', (data) => socket.send(`heard ${data}`));
});
server.listen(Number(process.argv[2]), '127.0.0.1');
