#!/usr/bin/env bash
# skopeo 1.9.3 converting a layer to zstd:chunked.
#
# An image's configuration names each layer by the digest of its uncompressed tar (OCI image specification,
# "layer DiffID"). One expects a converted image to keep its configuration and that digest to stay true.
# Seen: the tar is written anew without the padding that its archiver had added (GNU tar fills up to 10,240
# bytes), the configuration is kept, and so the new layer no longer has the digest that it names. Tools that
# verify diff ids refuse the image that skopeo wrote without a word.
set -eu

version=1.9.3+ds1-1+b10
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

get() { apt-get -o APT::Sandbox::User=root download -q "$@" >/dev/null; }
get "skopeo=$version"
dpkg-deb -x skopeo_*.deb root
if ! ldconfig -p | grep -q libgpgme.so.11; then
    get libgpgme11 && dpkg-deb -x libgpgme11_*.deb root
    get libassuan0 && dpkg-deb -x libassuan0_*.deb root
    LD_LIBRARY_PATH=$work/root/usr/lib/$(uname -m)-linux-gnu
    export LD_LIBRARY_PATH
fi
command -v zstd >/dev/null || {
    get zstd && dpkg-deb -x zstd_*.deb root
    PATH=$work/root/usr/bin:$PATH
}

echo '{"default":[{"type":"insecureAcceptAnything"}]}' >policy.json
mkdir files
echo hello >files/greeting
tar --format=gnu --owner=0 --group=0 --mtime=@0 -C files -cf layer.tar greeting

python3 - <<'END'
import gzip
import hashlib
import json
import os

os.makedirs("in/blobs/sha256")


def blob(data, media_type):
    digest = hashlib.sha256(data).hexdigest()
    with open("in/blobs/sha256/" + digest, "wb") as file:
        file.write(data)
    return {"mediaType": media_type, "digest": "sha256:" + digest, "size": len(data)}


layer = open("layer.tar", "rb").read()
kind = "application/vnd.oci.image."
config = {
    "architecture": "amd64",
    "os": "linux",
    "config": {},
    "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
}
manifest = {
    "schemaVersion": 2,
    "mediaType": kind + "manifest.v1+json",
    "config": blob(json.dumps(config).encode(), kind + "config.v1+json"),
    "layers": [blob(gzip.compress(layer), kind + "layer.v1.tar+gzip")],
}
entry = blob(json.dumps(manifest).encode(), kind + "manifest.v1+json")
entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
json.dump({"schemaVersion": 2, "manifests": [entry]}, open("in/index.json", "w"))
json.dump({"imageLayoutVersion": "1.0.0"}, open("in/oci-layout", "w"))
END

root/usr/bin/skopeo --policy policy.json copy --quiet \
    --dest-compress-format zstd:chunked --dest-compress oci:in:latest oci:out:latest

python3 - <<'END'
import hashlib
import json
import subprocess
import sys


def read(descriptor):
    return open("out/blobs/" + descriptor["digest"].replace(":", "/"), "rb").read()


manifest = json.loads(read(json.load(open("out/index.json"))["manifests"][0]))
named = json.loads(read(manifest["config"]))["rootfs"]["diff_ids"][0]
layer = subprocess.run(["zstd", "-dc"], input=read(manifest["layers"][0]), capture_output=True, check=True).stdout
seen = "sha256:" + hashlib.sha256(layer).hexdigest()
print("the configuration names", named)
print("the layer of", len(layer), "bytes has", seen)
if named != seen and len(layer) < len(open("layer.tar", "rb").read()):
    print("as found: the padding is gone and the diff id no longer fits")
else:
    sys.exit("changed: the layer has the digest that the configuration names")
END
