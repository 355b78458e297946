#!/usr/bin/env bash
# Gets code-server from npm into target/apps/code-server and compiles the native modules that it needs, with the headers of the Node.js
# in target/apps/nodejs. The package's own installation does the same, and fetches programs that no package registry has.
# Writes where it is into target/apps/code-server.json.
set -eu
cd "$(dirname "$0")/../../.."
here=tests/apps/code-server state=$PWD/target/apps
rm -rf "$state/code-server" "$state/code-server.json"
mkdir "$state/code-server"
cp "$here"/package*.json "$state/code-server/"
npm --prefix "$state/code-server" ci --ignore-scripts --no-audit --no-fund
package=$state/code-server/node_modules/code-server
# Visual Studio Code in it has lists of its own, with versions and digests.
for part in lib/vscode lib/vscode/extensions; do
    npm --prefix "$package/$part" install --ignore-scripts --omit=dev --no-audit --no-fund
done
modules=$package/lib/vscode/node_modules
gyp=$(find "$state/nodejs/" -path '*node-gyp/bin/node-gyp.js' | head -n 1)
# Terminals need the first; without the others, logs are not written and some work of files is slower.
for module in node-pty @vscode/spdlog @vscode/native-watchdog @parcel/watcher @vscode/fs-copyfile; do
    [ -e "$modules/$module/binding.gyp" ] || continue
    if ! (cd "$modules/$module" && node "$gyp" rebuild --nodedir="$state/nodejs"); then
        echo "could not compile $module"
        [ "$module" != node-pty ] || exit 1
    fi
done
version=$(node -p 'require(process.argv[1]).version' "$package/package.json")
printf '{"entry": "%s", "node": "%s", "version": "%s"}\n' "$package/out/node/entry.js" "$state/nodejs/bin/node" "$version" >"$state/code-server.json"
