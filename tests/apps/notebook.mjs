// JupyterLab, started by a JupyterHub whose people log in at the same provider. The agent is the hub's proxy.
import { strict as assert } from 'node:assert';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';

import { HUB } from './stage.mjs';
import { get, open, refused, stopped } from './access.mjs';
import { until } from './until.mjs';

export const tests = [{
  app: 'JupyterLab through JupyterHub',
  version: (gate) => `${gate.pythonPackage('jupyterlab')}, ${gate.pythonPackage('jupyterhub')}`,
  what: 'log-in by OAuth at the same provider, server started, notebook run',
  async run(gate) {
    const state = join(gate.directory, 'hub');
    mkdirSync(state);
    const hub = await gate.start('jupyterhub', gate.python, ['-m', 'jupyterhub', '-f', join(gate.packages, 'jupyterhub_config.py')], {
      port: gate.ports.hub,
      cwd: state,
      env: {
        HUB_STATE: state,
        HUB_BIND: `127.0.0.1:${gate.ports.hub}`,
        HUB_PUBLIC: gate.hubUrl,
        HUB_PROXY_API: `http://127.0.0.1:${gate.ports.routes}`,
        HUB_PROXY_TOKEN: gate.secrets.routes,
        HUB_AGENT_TOKEN: gate.secrets.agent,
        HUB_ADMIN_TOKEN: gate.secrets.admin,
        HUB_ISSUER: gate.provider.issuer,
        // The provider's certificate is of this run's authority.
        SSL_CERT_FILE: join(gate.directory, 'ca.pem'),
        HOME: state,
      },
    });
    const headers = { authorization: `Bearer ${await gate.token('alice')}` };
    await until('the hub behind the gate', async () => (await get(gate, `${gate.hubUrl}/hub/api`, { headers })).status === 200);
    // First the gate's sign-in; the hub's is a redirect then.
    const person = await open(gate, 'alice', `${gate.hubUrl}/hub/spawn`);
    const { page } = person;
    const at = `https://alice.${HUB}:${gate.port}`;
    await page.waitForURL((url) => url.href.startsWith(`${at}/user/alice/lab`), { timeout: 120_000 });
    await page.locator('.jp-LauncherCard[data-category="Notebook"]').first().click({ timeout: 120_000 });
    const cell = page.locator('.jp-Notebook .jp-Cell .cm-content').first();
    await cell.waitFor();
    // A cell that is run before its kernel is there is not run.
    await page.waitForSelector('text=/ipykernel.*Idle/', { timeout: 60_000 });
    await cell.click();
    await page.keyboard.type('import sys; print(40 + 2, sys.version_info.major)');
    await page.keyboard.press('Shift+Enter');
    await page.waitForSelector('.jp-OutputArea-output:has-text("42 3")', { timeout: 60_000 });
    await gate.picture(page, 'jupyterlab');
    const kernels = person.sockets.live(/channels/);
    assert(kernels.length > 0, 'a WebSocket of a kernel');
    await refused(gate, 'bob', `${at}/user/alice/lab`, `${at}/user/alice/api/kernels/x/channels`);
    // Another owner has a server too.
    const bob = await open(gate, 'bob', `${gate.hubUrl}/hub/spawn`);
    await bob.page.waitForURL((url) => url.href.startsWith(`https://bob.${HUB}:${gate.port}/user/bob/lab`), { timeout: 120_000 });
    await bob.close();
    const took = await stopped(gate, 'alice', person.sockets.live(), async () => {
      const reply = await fetch(`http://127.0.0.1:${gate.ports.hub}/hub/api/users/alice/server`, {
        method: 'DELETE', headers: { authorization: `token ${gate.secrets.admin}` },
      });
      assert([202, 204].includes(reply.status), `${reply.status}`);
    });
    await person.close();
    await hub.stop();
    return { took };
  },
}];
