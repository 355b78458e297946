// The table of docs/apps.md: what was done with each app, and what came of it with each HAProxy. Results of several runs are
// collected in target/apps/results.json.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const [BEGIN, END] = ['<!-- made by WRITE=1 make apps -->', '<!-- end -->'];

function read(artefacts) {
  try {
    return JSON.parse(readFileSync(join(artefacts, 'results.json'), 'utf8'));
  } catch {
    return {};
  }
}

// Adds one result.
export function merge(artefacts, haproxy, { app, version, what }, result) {
  const results = read(artefacts);
  const row = results[app] ??= { results: {} };
  Object.assign(row, { version, what });
  row.results[haproxy] = result;
  writeFileSync(join(artefacts, 'results.json'), JSON.stringify(results, null, 1));
}

function table(results) {
  const haproxies = [...new Set(Object.values(results).flatMap(({ results }) => Object.keys(results)))]
    .sort((a, b) => a.localeCompare(b, 'en', { numeric: true }));
  const line = (cells) => `| ${cells.join(' | ')} |`;
  return [
    line(['app', 'version', 'what was done', ...haproxies.map((name) => `HAProxy ${name}`)]),
    line(Array(3 + haproxies.length).fill('---')),
    ...Object.entries(results).map(([app, { version, what, results: of }]) => line([app, version, what, ...haproxies.map((name) => of[name] ?? 'not run')])),
  ].join('\n');
}

// Prints the table, and with WRITE=1 writes it into the document.
export function write(root, artefacts) {
  const text = table(read(artefacts));
  console.log(`\n${text}\n`);
  if (!process.env.WRITE) return;
  const file = join(root, 'docs/apps.md');
  const page = readFileSync(file, 'utf8');
  const [before, rest] = page.split(BEGIN);
  writeFileSync(file, `${before}${BEGIN}\n\n${text}\n\n${END}${rest.slice(rest.indexOf(END) + END.length)}`);
}
