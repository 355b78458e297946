// Holds many WebSockets that say nothing; the environment says where. Prints `opened N`, N being how many were refused with 503 at
// first and tried again; then `answered N` when it has asked each of them something; then `ended TIME`, the time (ms since 1970) at
// which the last of them was closed.
import { readFileSync } from 'node:fs';

import { WebSocket } from 'ws';

const { ADDRESS, PORT, HOST, CA, TOKEN } = process.env;
const [count, seconds] = [Number(process.env.COUNT), Number(process.env.SECONDS)];
const ca = readFileSync(CA);
const sockets = [];
let [closed, again] = [0, 0];
let last;

// A gate without an answer in time refuses with 503, and its client comes back a second later.
async function open() {
  for (let tries = 0; ; tries += 1) {
    try {
      return await dial();
    } catch (error) {
      if (tries >= 5 || !/503/.test(error.message)) throw error;
      again += 1;
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}

function dial() {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`wss://${HOST}:${PORT}/socket`, {
      ca,
      perMessageDeflate: false,
      headers: { authorization: `Bearer ${TOKEN}` },
      lookup: (name, { all }, found) => (all ? found(null, [{ address: ADDRESS, family: 4 }]) : found(null, ADDRESS, 4)),
    });
    socket.on('error', reject).on('open', () => {
      sockets.push(socket);
      socket.on('close', () => { closed += 1; last = Date.now(); });
      resolve(socket);
    });
  });
}

for (let at = 0; at < count; at += 50) await Promise.all(Array.from({ length: Math.min(50, count - at) }, open));
console.log('opened', again);
await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
let answered = 0;
await Promise.race([
  Promise.all(sockets.map((socket) => new Promise((resolve) => {
    socket.once('message', () => { answered += 1; resolve(); });
    if (socket.readyState === WebSocket.OPEN) socket.send('there?');
  }))),
  new Promise((resolve) => setTimeout(resolve, 30_000)),
]);
console.log('answered', answered);
for (const socket of sockets) socket.on('error', () => {});
while (closed < count) await new Promise((resolve) => setTimeout(resolve, 5));
console.log('ended', last);
