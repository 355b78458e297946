// The npm package oidc-provider on loopback, for the interop tests: configured and no more.
//
// Prints `listening http://127.0.0.1:PORT` once it serves, and ends when its standard input does. The
// client "interop" takes tokens by client_credentials; the resource it names says which kind:
// https://AUDIENCE.test/KIND, KIND being an algorithm, "opaque", "encrypted" or "brief".
//   POST /interop/rotate   new keys, used from now on; the ones before stay published
//   POST /interop/retire   the ones before are published no longer
import { createSecretKey, generateKeyPair, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { promisify } from 'node:util';

import Provider from 'oidc-provider';

const generate = promisify(generateKeyPair);
const secret = createSecretKey(randomBytes(64));

// A private key for each family of algorithms; none says for which one of them.
async function generation() {
  const pairs = await Promise.all([
    generate('rsa', { modulusLength: 2048 }),
    generate('ec', { namedCurve: 'P-256' }),
    generate('ec', { namedCurve: 'P-384' }),
    generate('ec', { namedCurve: 'P-521' }),
    generate('ed25519'),
  ]);
  return pairs.map(({ privateKey }) => ({ ...privateKey.export({ format: 'jwk' }), use: 'sig' }));
}

function resourceServer(resource) {
  const { hostname, pathname } = new URL(resource);
  const kind = pathname.slice(1);
  const info = { scope: 'reach', audience: hostname.split('.')[0], accessTokenTTL: 300 };
  switch (kind) {
    case 'opaque':
      return { ...info, accessTokenFormat: 'opaque' };
    case 'encrypted': {
      const encrypt = { alg: 'dir', enc: 'A256CBC-HS512', key: secret };
      return { ...info, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' }, encrypt } };
    }
    case 'brief':
      return { ...info, accessTokenFormat: 'jwt', accessTokenTTL: 2, jwt: { sign: { alg: 'RS256' } } };
    default: {
      const sign = kind.startsWith('HS') ? { alg: kind, key: secret } : { alg: kind };
      return { ...info, accessTokenFormat: 'jwt', jwt: { sign } };
    }
  }
}

// The package reads its keys once, so other keys are another instance; its store is the process's.
function instance(issuer, keys) {
  const provider = new Provider(issuer, {
    clients: [{
      client_id: 'interop',
      client_secret: 'secret',
      token_endpoint_auth_method: 'client_secret_post',
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
      scope: 'reach',
    }, {
      // Who asks about opaque tokens.
      client_id: 'gate',
      client_secret: 'sec/ret+&',
      token_endpoint_auth_method: 'client_secret_basic',
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
    }],
    cookies: { keys: ['interop'] },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      dPoP: { enabled: true },
      introspection: { enabled: true, allowedPolicy: () => true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => undefined,
        getResourceServerInfo: (ctx, resource) => resourceServer(resource),
      },
    },
    jwks: { keys },
    scopes: ['reach'],
  });
  provider.on('server_error', (ctx, error) => console.error(error));
  return provider.callback();
}

let current = await generation();
let before = [];
let serve;

const server = createServer(async (request, response) => {
  if (request.method !== 'POST' || !request.url.startsWith('/interop/')) {
    serve(request, response);
    return;
  }
  if (request.url === '/interop/rotate') {
    const next = await generation();
    before = [...current, ...before];
    current = next;
  } else {
    before = [];
  }
  start();
  response.setHeader('content-type', 'application/json').end('{}');
});

function start() {
  // The first key that fits signs.
  serve = instance(`http://127.0.0.1:${server.address().port}`, [...current, ...before]);
}

server.listen(0, '127.0.0.1', () => {
  start();
  console.log(`listening http://127.0.0.1:${server.address().port}`);
});
process.stdin.on('end', () => process.exit()).resume();
