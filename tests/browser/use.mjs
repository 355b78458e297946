// In a page: uses another host in every way that pages have, and says what came of each.
export async function use({ api, socket, csrf = true, marker = '' }) {
  const results = {};
  const limit = (promise) => Promise.race([promise, new Promise((done) => { setTimeout(() => done('nothing'), 8000); })]);
  const attempt = async (name, work) => {
    try { results[name] = await limit(work()); } catch (error) { results[name] = `failed: ${error}`; }
  };
  const read = async (options) => {
    const reply = await fetch(`${api}/api${marker}`, { credentials: 'include', ...options });
    return reply.ok ? reply.json() : `${reply.status} ${await reply.text()}`;
  };
  await attempt('fetch', () => read({}));
  if (csrf) {
    await attempt('put', () => read({ method: 'PUT', headers: { 'content-type': 'application/json', 'x-csrf': '1' }, body: '{}' }));
  }
  await attempt('post', () => read({ method: 'POST', body: 'x' }));
  await attempt('socket', () => new Promise((done) => {
    const ws = new WebSocket(`${socket}/ws`);
    ws.onopen = () => ws.send('hello');
    ws.onmessage = ({ data }) => { ws.close(); done(data); };
    ws.onerror = () => done('refused');
  }));
  await attempt('events', () => new Promise((done) => {
    const source = new EventSource(`${api}/events${marker}`, { withCredentials: true });
    source.onmessage = ({ data }) => { source.close(); done(data); };
    source.onerror = () => { source.close(); done('refused'); };
  }));
  const element = (name, change) => new Promise((done) => {
    const made = Object.assign(document.createElement(name), change);
    made.onload = () => done('loaded');
    made.onerror = () => done('refused');
    document.head.append(made);
  });
  await attempt('image', () => element('img', { src: `${api}/pixel.svg${marker}` }));
  await attempt('crossorigin', () => element('img', { src: `${api}/pixel.svg?2`, crossOrigin: 'use-credentials' }));
  await attempt('script', () => element('script', { src: `${api}/lib.js${marker}` }));
  return results;
}

export const nothing = (results) => {
  for (const [name, result] of Object.entries(results)) {
    if (typeof result === 'object' || !/^(refused|nothing|failed)/.test(result)) {
      throw new Error(`${name} got ${JSON.stringify(result)}`);
    }
  }
};
