#!/usr/bin/env bash
# Copies the pictures of the pages that docs/pages.md shows from the last run of 'make browser'.
set -eu
cd "$(dirname "$0")/../.."
for page in choose denied denied-with-owner stopped provisioning interrupted unmatched late refused-by-provider agent-away signed-out; do
    cp "target/browser/pages/$page-box.png" "docs/pictures/page-$page.png"
done
