// Git's own server program, git http-backend (CGI), behind a small HTTP server.
//
// Start: node git.mjs PORT DIRECTORY
import { spawn } from 'node:child_process';
import { createServer } from 'node:http';

const [port, directory] = process.argv.slice(2);
createServer((request, response) => {
  const url = new URL(request.url, 'http://workspace');
  const { headers } = request;
  const backend = spawn('git', ['http-backend'], {
    env: {
      PATH: process.env.PATH,
      GIT_PROJECT_ROOT: directory,
      GIT_HTTP_EXPORT_ALL: '1',
      GIT_CONFIG_COUNT: '1',
      GIT_CONFIG_KEY_0: 'safe.directory',
      GIT_CONFIG_VALUE_0: '*',
      REQUEST_METHOD: request.method,
      PATH_INFO: decodeURIComponent(url.pathname),
      QUERY_STRING: url.search.slice(1),
      CONTENT_TYPE: headers['content-type'] ?? '',
      ...headers['content-length'] && { CONTENT_LENGTH: headers['content-length'] },
      ...headers['content-encoding'] && { HTTP_CONTENT_ENCODING: headers['content-encoding'] },
      ...headers['git-protocol'] && { GIT_PROTOCOL: headers['git-protocol'] },
      // Who may push was decided by the gate; the name is for the reflog.
      REMOTE_USER: headers['x-forwarded-user'] ?? '',
      REMOTE_ADDR: '127.0.0.1',
    },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  backend.stdin.on('error', () => {});
  request.pipe(backend.stdin);
  let head = Buffer.alloc(0);
  const begin = (data) => {
    head = Buffer.concat([head, data]);
    const end = head.indexOf('\r\n\r\n');
    if (end < 0) return;
    backend.stdout.off('data', begin);
    let status = 200;
    for (const line of head.subarray(0, end).toString().split('\r\n')) {
      const [name, value] = [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1).trim()];
      if (name.toLowerCase() === 'status') status = Number(value.split(' ')[0]);
      else response.setHeader(name, value);
    }
    response.writeHead(status);
    response.write(head.subarray(end + 4));
    backend.stdout.pipe(response);
  };
  backend.stdout.on('data', begin);
  backend.on('close', () => response.end());
  response.on('close', () => backend.kill());
}).listen(Number(port), '127.0.0.1');
