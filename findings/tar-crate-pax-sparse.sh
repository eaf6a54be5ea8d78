#!/usr/bin/env bash
# The Rust crate tar 0.4.46 and sparse files in archives that bsdtar (libarchive 3.6.2) writes by default.
#
# One expects the sparse file under its own name, or an error for a form that is not known. Seen: the crate
# says nothing. It gives an entry named `GNUSparseFile.0/NAME` whose bytes are the map of holes followed by
# the data, while GNU tar's older form of the same file comes out right. Two readers of one layer thus see
# two contents under one digest.
set -eu

crate=0.4.46
archiver=3.6.2-1+deb12u4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

apt-get -o APT::Sandbox::User=root download -q "libarchive-tools=$archiver" >/dev/null
dpkg-deb -x libarchive-tools_*.deb root
if ! ldconfig -p | grep -q libarchive.so.13; then
    apt-get -o APT::Sandbox::User=root download -q "libarchive13=$archiver" >/dev/null
    dpkg-deb -x libarchive13_*.deb root
    LD_LIBRARY_PATH=$work/root/usr/lib/$(uname -m)-linux-gnu
    export LD_LIBRARY_PATH
fi

mkdir files
truncate -s 1M files/holes
printf 'after the hole' | dd of=files/holes bs=1 seek=524288 conv=notrunc status=none
root/usr/bin/bsdtar -C files -cf pax.tar holes
tar --sparse --format=gnu -C files -cf gnu.tar holes

mkdir -p reader/src
cat >reader/Cargo.toml <<END
[package]
name = "reader"
version = "0.0.0"
edition = "2021"
[dependencies]
tar = { version = "=$crate", default-features = false }
[workspace]
END
cat >reader/src/main.rs <<'END'
use std::io::Read;

fn main() {
    for archive in std::env::args().skip(1) {
        let mut archive = tar::Archive::new(std::fs::File::open(archive).unwrap());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            println!("{} {}", entry.path().unwrap().display(), content.len());
        }
    }
}
END
cargo build --quiet --manifest-path reader/Cargo.toml
reader/target/debug/reader pax.tar gnu.tar | tee seen

if grep -q '^GNUSparseFile' seen && grep -qx 'holes 1048576' seen; then
    echo "as found: the newer form is passed on unread, the older one is expanded"
else
    echo "changed: sparse entries are no longer read as they were found" >&2
    exit 1
fi
