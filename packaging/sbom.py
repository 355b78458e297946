"""Checks a CycloneDX list against its schema, against what Cargo links and against Cargo.lock."""

import json
import subprocess
import sys
import tomllib

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

path, target = sys.argv[1:]
with open(path, encoding="utf-8") as file:
    text = file.read()
error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(text)
if error is not None:
    sys.exit(f"{path} is not CycloneDX 1.5: {error}")

components = json.loads(text)["components"]
listed = {(component["name"], component["version"]): component for component in components}
with open("Cargo.lock", "rb") as file:
    locked = {(package["name"], package["version"]): package for package in tomllib.load(file)["package"]}
tree = subprocess.run(
    ["cargo", "tree", "--locked", "--edges", "normal,build", "--target", target, "--prefix", "none", "--format", "{p}"],
    check=True, capture_output=True, text=True,
).stdout
used = {(line.split()[0], line.split()[1].removeprefix("v")) for line in tree.splitlines() if line}
used = {crate for crate in used if "source" in locked[crate]}

wrong = []
wrong += [f"{crate} is used and not listed" for crate in used - listed.keys()]
wrong += [f"{crate} is listed and not in Cargo.lock" for crate in listed.keys() - locked.keys()]
for crate, component in listed.items():
    digests = {digest["content"] for digest in component.get("hashes", []) if digest["alg"] == "SHA-256"}
    if crate in locked and digests != {locked[crate].get("checksum")}:
        wrong.append(f"{crate} has not the digest of Cargo.lock")
    if not component.get("licenses"):
        wrong.append(f"{crate} has no licence")
    if not component.get("purl"):
        wrong.append(f"{crate} has no package URL")
if wrong:
    sys.exit("\n".join(wrong))
print(f"{len(listed)} crates are listed, the {len(used)} that Cargo uses among them, each as in Cargo.lock")
