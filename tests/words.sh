#!/usr/bin/env bash
# Finds the words of docs/style/words.txt in the code, the documents and the configuration, or in the PATHs given: prints
# file:line:word: plain form, and ends with status 1 if there are any. A phrase may go on in the next line of a comment.
set -eu
here=$(pwd)
cd "$(dirname "$0")/.."
exec python3 - "$here" "$@" <<'PYTHON'
import os, re, subprocess, sys

LIST = "docs/style/words.txt"
ALL = ["src", "docs", "haproxy", "README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "Makefile", "tests",
       "tools", "benches", "packaging"]
# The list itself, the guide and the test that quote it, and what is made from texts that are searched where they stand.
SKIP = {LIST, "tests/it/log_messages.rs", "docs/style/README.md", "docs/configuration.md", "docs/agent.schema.json", "docs/agent.example.toml", "docs/texts.toml"}
# Locked dependencies, pictures, and data that others wrote.
FOREIGN = re.compile(r"(^|/)(package-lock\.json|requirements\.txt|[^/]*\.lock)$|\.(svg|png|der|pem)$|^tests/(data|vectors)/")
# What may stand between two words of a phrase: whitespace, and a comment that goes on in the next line.
GAP = r"(?:[ \t]+|[ \t]*\n[ \t]*(?://[/!]?|\#|\*)?[ \t]*)"

# The name of a test in a document: it is searched where the test is.
TEST = re.compile(r"`[a-z0-9 ]+::[^`\n]+`")

words = []
with open(LIST, encoding="utf-8") as file:
    for number, line in enumerate(file, 1):
        line = line.rstrip("\n")
        if not line or line.startswith("#"):
            continue
        pattern, tab, plain = line.partition("\t")
        if not tab or not plain:
            sys.exit(f"{LIST}:{number}: expected an expression, a tab and the plain form")
        words.append((re.compile(pattern.replace("(?<!there )", "(?<!there\0)").replace(" ", GAP)
                                 .replace("\0", " "), re.IGNORECASE), plain))

here, paths = sys.argv[1], sys.argv[2:]
root = os.getcwd()
paths = [os.path.relpath(os.path.join(here, path), root) for path in paths] or ALL
found = 0
listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *paths],
                        check=True, capture_output=True).stdout.decode()
for path in sorted(set(filter(None, listed.split("\0")))):
    if path in SKIP or FOREIGN.search(path) or not os.path.isfile(path):
        continue
    with open(path, "rb") as file:
        raw = file.read()
    if b"\0" in raw:
        continue
    # An underscore separates words of a name as a space does those of a sentence; the length stays.
    text = raw.decode("utf-8", "replace").replace("_", " ")
    if path.endswith(".md"):
        text = TEST.sub(lambda test: " " * len(test.group()), text)
    hits = sorted((match.start(), " ".join(match.group().split()), plain)
                  for word, plain in words for match in word.finditer(text))
    for start, word, plain in hits:
        print(f"{path}:{text.count(chr(10), 0, start) + 1}:{word}: {plain}")
    found += len(hits)
if found:
    print(f"{found} places have words that {LIST} forbids", file=sys.stderr)
    sys.exit(1)
PYTHON
