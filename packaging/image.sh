#!/usr/bin/env bash
# Makes the image identity-spoa:VERSION from packaging/Containerfile with docker, or with ENGINE=podman or
# ENGINE=buildah. Prints its name. It has the program of packaging/build.sh, or the given one:
#
#     packaging/image.sh [PROGRAM]
#
# With ROOT_ONLY=1 only the root file system is made, a tar whose path is printed.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/.."
program=${1:-$("$here/build.sh" static)}
if readelf -l "$program" | grep -q INTERP; then
    echo "image.sh: $program needs libraries, and the image has none: packaging/build.sh static" >&2
    exit 1
fi
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$("$here/date.sh")}
image=identity-spoa:$version
out=target/package/image
root=$out/root
rm -rf "$out"
umask 022
mkdir -p "$root"/{etc/ssl/certs,etc/identity-spoa,usr/bin,usr/share/identity-spoa,usr/share/doc/identity-spoa,var/lib,var/log,run,tmp}
install -m 0755 "$program" "$root/usr/bin/identity-spoa"
# The path is that of Debian's ca-certificates; build the image again when they change.
install -m 0644 "${CA_CERTIFICATES:-/etc/ssl/certs/ca-certificates.crt}" "$root/etc/ssl/certs/ca-certificates.crt"
install -m 0644 LICENSE "$root/usr/share/doc/identity-spoa/"
cp -r haproxy "$root/usr/share/identity-spoa/haproxy"
chmod -R u=rwX,go=rX "$root"
echo 'identity-spoa:x:65532:65532::/var/lib/identity-spoa:/sbin/nologin' >"$root/etc/passwd"
echo 'identity-spoa:x:65532:' >"$root/etc/group"
# Names come from /etc/hosts, then from DNS: the two ways that are part of a static glibc.
printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$root/etc/nsswitch.conf"
chmod 1777 "$root/tmp"
# What it writes to is its own, everything else is root's. Volumes that start empty take this over.
own=$out/own
mkdir -p "$own"/{run,var/lib,var/log}/identity-spoa
chmod 0700 "$own"/var/*/identity-spoa
pack() { tar --sort=name --format=gnu --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" "$@"; }
pack --owner=0 --group=0 -cf "$out/root.tar" -C "$root" .
pack --owner=65532 --group=65532 -rf "$out/root.tar" -C "$own" ./run/identity-spoa ./var/lib/identity-spoa ./var/log/identity-spoa
rm -rf "$root" "$own"
if [ -n "${ROOT_ONLY:-}" ]; then
    echo "$PWD/$out/root.tar"
    exit
fi
labels=(
    --label "org.opencontainers.image.title=identity-spoa"
    --label "org.opencontainers.image.version=$version"
    --label "org.opencontainers.image.licenses=Apache-2.0"
    --label "org.opencontainers.image.revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)"
)
case ${ENGINE:-docker} in
docker)
    [ -z "${ENGINE:-}" ] && tests/containers/engine.sh
    docker build -q -t "$image" "${labels[@]}" -f packaging/Containerfile "$out" >&2
    ;;
podman | buildah)
    # These can say when it was made, so that the image has the same digest everywhere.
    "$ENGINE" build -q --timestamp "$SOURCE_DATE_EPOCH" -t "$image" "${labels[@]}" -f packaging/Containerfile "$out" >&2
    ;;
*)
    echo "image.sh: ENGINE is docker, podman or buildah, not '$ENGINE'" >&2
    exit 2
    ;;
esac
echo "$image"
