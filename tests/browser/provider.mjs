// The npm package oidc-provider with its own login form, over https on an address of loopback of its own
// (cookies do not distinguish ports). A person who types a name is that person.
import { createServer, request } from 'node:https';
import { generateKeyPairSync } from 'node:crypto';

import Provider from 'oidc-provider';

// Starts one. `client` has the addresses of the gate; `reach` is where its hosts are, since no name server
// knows them. `issued` gets every token. `others` are further clients, `settings` further settings of the package.
export async function startProvider({ address, tls, client, reach, issued, others = [], settings = {} }) {
  const counts = { authorize: 0 };
  const server = createServer(tls);
  await new Promise((resolve) => server.listen(0, address, resolve));
  const issuer = `https://${address}:${server.address().port}`;
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const provider = new Provider(issuer, {
    clients: [{
      client_id: 'gate',
      client_secret: 's3cret&+',
      id_token_signed_response_alg: 'ES256',
      backchannel_logout_session_required: true,
      ...client,
    }, ...others],
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['preferred_username'] },
    // The gate reads ID tokens only.
    conformIdTokenClaims: false,
    cookies: { keys: ['browser'], long: { secure: true }, short: { secure: true } },
    ...settings,
    features: { backchannelLogout: { enabled: true }, devInteractions: { enabled: true }, ...settings.features },
    findAccount: (ctx, name) => ({
      accountId: name,
      claims: () => ({
        sub: name, email: `${name}@example.com`, email_verified: true, preferred_username: name,
      }),
    }),
    jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'ES256' }] },
    // There is no form for consent, since the operator of the gate decided.
    async loadExistingGrant(ctx) {
      const { client: { clientId }, session: { accountId } } = ctx.oidc;
      const grant = new ctx.oidc.provider.Grant({ clientId, accountId });
      grant.addOIDCScope('openid email profile');
      await grant.save();
      return grant;
    },
    fetch: (url, options) => post(new URL(url), options, reach),
  });
  provider.use(async (ctx, next) => {
    if (ctx.path === '/auth') counts.authorize += 1;
    await next();
    if (ctx.path === '/token' && ctx.body?.id_token) issued.push(ctx.body.id_token, ctx.body.access_token);
  });
  provider.on('server_error', (ctx, error) => console.error('the provider:', error));
  server.on('request', provider.callback());
  return { issuer, counts, close: () => server.closeAllConnections() || server.close() };
}

// Back-channel logout reaches the gate as everything else does: at its address, under its name.
function post(url, { method, headers, body }, { host, ca }) {
  return new Promise((resolve, reject) => {
    const options = { method, ca, headers: Object.fromEntries(new Headers(headers)), servername: url.hostname };
    const lookup = (name, { all }, found) => (all ? found(null, [{ address: host, family: 4 }]) : found(null, host, 4));
    const sent = request(url, { ...options, lookup }, (response) => {
      response.resume().on('end', () => resolve(new Response(null, { status: response.statusCode })));
    });
    sent.on('error', reject).end(body?.toString());
  });
}
