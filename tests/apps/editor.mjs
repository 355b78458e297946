// code-server: Visual Studio Code in a browser.
import { strict as assert } from 'node:assert';
import { createHash } from 'node:crypto';
import { createReadStream, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { block } from './servers/block.mjs';
import { closed, open, refused, stopped } from './access.mjs';
import { until } from './until.mjs';

const MEBIBYTES = 100;

async function sha256(file) {
  const hash = createHash('sha256');
  for await (const data of createReadStream(file)) hash.update(data);
  return hash.digest('hex');
}

// Picks a command from the palette.
async function command(page, name) {
  await page.keyboard.press('F1');
  const input = page.locator('.quick-input-widget input');
  await input.waitFor();
  await input.fill(`>${name}`);
  await page.locator('.quick-input-list .monaco-list-row', { hasText: name }).first().click();
}

export const tests = [{
  app: 'code-server',
  version: (gate) => gate.codeServer?.version ?? 'missing',
  what: `terminal, an extension's webview, ${MEBIBYTES} MiB uploaded, a file downloaded`,
  unless: (gate) => !gate.codeServer && 'code-server could not be made here: see target/apps/code-server.log',
  async run(gate) {
    const folder = join(gate.directory, 'project');
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, 'README.md'), '# Read me\n\nA *preview* is a webview of an extension.\n');
    const state = (name) => join(gate.directory, 'code-server', name);
    await gate.start('code-server', gate.codeServer.node, [
      gate.codeServer.entry, '--auth', 'none', '--bind-addr', `127.0.0.1:${gate.ports.editor}`,
      '--user-data-dir', state('data'), '--extensions-dir', state('extensions'), '--config', state('config.yaml'),
      '--disable-telemetry', '--disable-update-check', '--disable-workspace-trust', '--disable-getting-started-override', folder,
    ], { port: gate.ports.editor, env: { HOME: gate.directory, SHELL: '/bin/bash' } });
    const url = gate.url('editor', `/?folder=${encodeURIComponent(folder)}`);
    const person = await open(gate, 'alice', url, '.monaco-workbench .explorer-folders-view');
    const { page } = person;
    await page.locator('.explorer-folders-view >> text=README.md').waitFor();

    await command(page, 'Terminal: Create New Terminal');
    await page.locator('.terminal-wrapper.active, .xterm').first().waitFor();
    await page.locator('.xterm-helper-textarea').first().focus();
    await until('the shell', async () => {
      await page.keyboard.type('echo $((40+2)) > typed\n');
      await new Promise((resolve) => setTimeout(resolve, 500));
      return existsSync(join(folder, 'typed')) && readFileSync(join(folder, 'typed'), 'utf8') === '42\n';
    });

    // The new file has its place in the list: nothing moves under the pointer.
    await page.locator('.explorer-folders-view >> text=typed').waitFor();
    await page.locator('.explorer-folders-view >> text=README.md').dblclick();
    await page.locator('.tab[data-resource-name="README.md"]').waitFor();
    await page.locator('.editor-instance .view-lines').first().click();
    await page.keyboard.press('Control+k');
    await page.keyboard.press('v');
    const heading = await until('the webview', async () => {
      for (const frame of page.frames()) {
        const text = await frame.locator('h1').first().textContent({ timeout: 100 }).catch(() => undefined);
        if (text?.includes('Read me')) return text;
      }
      return undefined;
    });
    assert(heading);
    await gate.picture(page, 'code-server');

    // By the menu of the explorer, as people do it.
    const big = join(gate.directory, 'big.bin');
    writeFileSync(big, Buffer.concat(Array(MEBIBYTES).fill(block)));
    const readme = page.locator('.explorer-folders-view >> text=README.md');
    const explorer = await page.locator('.explorer-folders-view').boundingBox();
    await page.mouse.click(explorer.x + explorer.width / 2, explorer.y + explorer.height - 40, { button: 'right' });
    const [chooser] = await Promise.all([page.waitForEvent('filechooser'), page.locator('.monaco-menu >> text=Upload...').click()]);
    await chooser.setFiles(big);
    await until('the upload', () => existsSync(join(folder, 'big.bin')) && statSync(join(folder, 'big.bin')).size === MEBIBYTES << 20, { within: 180_000 });
    assert.equal(await until('the last bytes', async () => {
      const [one, other] = [await sha256(big), await sha256(join(folder, 'big.bin'))];
      return one === other && one;
    }), await sha256(big));

    await readme.click({ button: 'right' });
    const [download] = await Promise.all([page.waitForEvent('download'), page.locator('.monaco-menu >> text=Download...').click()]);
    assert.equal(readFileSync(await download.path(), 'utf8'), readFileSync(join(folder, 'README.md'), 'utf8'));

    await refused(gate, 'bob', gate.url('editor'));
    const live = person.sockets.live();
    const took = await stopped(gate, 'editor', live);
    await closed(gate, person, url);
    await person.close();
    return { took, note: `${live.length} WebSockets` };
  },
}];
