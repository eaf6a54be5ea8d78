"""How schemathesis sends archives: a real one with a single file in it, so that the route is not
only seen to refuse. What is no archive goes out as plain bytes, which schemathesis can by itself.
"""

import io
import tarfile

import schemathesis


def archive(value, mode):
    content = str(value).encode(errors="ignore")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as tar:
        entry = tarfile.TarInfo("file")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return {"data": packed.getvalue()}


@schemathesis.serializer("application/x-tar")
def plain(_context, value):
    return archive(value, "w")


@schemathesis.serializer("application/gzip")
def zipped(_context, value):
    return archive(value, "w:gz")
