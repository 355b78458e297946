#!/usr/bin/env bash
# Copies the pictures that docs/pictures/README.md shows from the last run of 'make browser'. With pngquant they get a third of
# the size.
set -eu
cd "$(dirname "$0")/../.."
for page in choose denied denied-with-owner stopped provisioning interrupted unmatched late refused-by-provider agent-away signed-out; do
    cp "target/browser/pages/$page-box.png" "docs/pictures/page-$page.png"
done
if command -v pngquant >/dev/null; then pngquant --nofs --force --ext .png 32 docs/pictures/page-*.png; fi
