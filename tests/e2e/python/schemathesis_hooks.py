"""What schemathesis cannot know by itself: how archives are sent, and what it must not wait for.

An archive is a real one with a single file in it, so that the route is not only seen to refuse.
What is no archive goes out as plain bytes, which schemathesis can by itself.
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


@schemathesis.hook
def before_call(_context, case, _kwargs):
    """Leaves out what answers for as long as somebody listens: tests of their own wait for that."""
    query = case.query if isinstance(case.query, dict) else {}
    if case.path.endswith("/logs") and str(query.get("follow")).lower() in ("true", "1"):
        query["follow"] = "false"
    if case.path.endswith("/wait") and not query.get("timeout"):
        case.query = {**query, "timeout": "1ms"}
    body = case.body
    if case.path.endswith("/exec") and isinstance(body, dict) and body.get("detach") is True:
        body.pop("stream", None)
