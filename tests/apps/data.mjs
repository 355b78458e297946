// Streamlit: an app of one script, whose page lives on a WebSocket.
import { strict as assert } from 'node:assert';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { closed, open, refused, stopped } from './access.mjs';

const script = `import streamlit as st

st.title("Data")
name = st.text_input("Name")
if name:
    st.write(f"Hello {name} from {st.context.headers.get('X-Forwarded-User')}")
file = st.file_uploader("File")
if file:
    st.write(f"{file.name} has {len(file.getvalue())} bytes")
st.download_button("Get it", b"made by the app\\n", file_name="made.txt")
`;

export const tests = [{
  app: 'Streamlit',
  version: (gate) => gate.pythonPackage('streamlit'),
  what: 'widgets over its WebSocket, a file uploaded and downloaded; its CORS and XSRF checks as they are by default',
  async run(gate) {
    writeFileSync(join(gate.directory, 'data.py'), script);
    await gate.start('streamlit', gate.python, [
      '-m', 'streamlit', 'run', join(gate.directory, 'data.py'), '--server.port', String(gate.ports.data),
      '--server.address', '127.0.0.1', '--server.headless', 'true', '--browser.gatherUsageStats', 'false',
    ], { port: gate.ports.data, env: { HOME: gate.directory } });
    const url = gate.url('data');
    const person = await open(gate, 'alice', url, 'h1:has-text("Data")');
    const { page } = person;
    await page.getByLabel('Name').fill('Ed');
    await page.keyboard.press('Enter');
    await page.waitForSelector('text=Hello Ed from alice');
    const file = join(gate.directory, 'upload.txt');
    writeFileSync(file, 'x'.repeat(300_000));
    await page.locator('input[type=file]').setInputFiles(file);
    await page.waitForSelector('text=upload.txt has 300000 bytes');
    const [download] = await Promise.all([page.waitForEvent('download'), page.click('text=Get it')]);
    assert.equal(readFileSync(await download.path(), 'utf8'), 'made by the app\n');
    await gate.picture(page, 'streamlit');
    await refused(gate, 'bob', url, gate.url('data', '/_stcore/stream'));
    const took = await stopped(gate, 'data', person.sockets.live());
    await closed(gate, person, url);
    await person.close();
    return { took };
  },
}];
