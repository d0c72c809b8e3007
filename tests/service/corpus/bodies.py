"""Forms, JSON and HTTP itself, bent: what never reaches a picture or a latent."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator

from tests.service.corpus.pictures import saved
from tests.service.corpus.wire import CLOSED, Case, head, request

JSON = "application/json"
_ENCODE = "/encode?model=tiny"
_FORM = "multipart/form-data; boundary=edge"
_GOOD = json.dumps({"model": "tiny", "label": "circle"}).encode()


def cases(max_body: int) -> Iterator[tuple[str, Case]]:
    """Name and request of each; `max_body` is the server's limit in bytes."""
    yield from _forms()
    yield from _jsons()
    yield from _types()
    yield from _lengths(max_body)
    yield from _chunks(max_body)
    yield from _protocol()


def part(body: bytes, *, name: str = "image", extra: bytes = b"") -> bytes:
    """One file of a form."""
    disposition = f'Content-Disposition: form-data; name="{name}"; filename="x.png"\r\n'.encode()
    return b"--edge\r\n" + disposition + extra + b"\r\n" + body + b"\r\n"


def _forms() -> Iterator[tuple[str, Case]]:
    good, end = saved("PNG"), b"--edge--\r\n"
    nested = b'--in\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--in--'
    inner = b"Content-Type: multipart/mixed; boundary=in\r\n"
    many = b"".join(part(b"x", name=f"p{i}") for i in range(10**4))
    fields = b'--edge\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n' * 10**4
    bodies = {
        "without a boundary": ("multipart/form-data", part(good) + end),
        "with a boundary of 10 000 letters": (f"{_FORM}{'x' * 10**4}", part(good) + end),
        "without its last boundary": (_FORM, part(good)),
        "that is empty": (_FORM, b""),
        "of boundaries only": (_FORM, b"--edge\r\n" * 10**4),
        "of ten thousand files": (_FORM, many + end),
        "of ten thousand fields": (_FORM, fields + end),
        "with endless part headers": (_FORM, part(good, extra=b"X-A: b\r\n" * 10**5) + end),
        "with one endless part header": (_FORM, part(good, extra=b"X: " + b"a" * 2**20) + end),
        "with a header that never ends": (_FORM, b"--edge\r\n" + b"a" * 2**20),
        "in a form": (_FORM, part(nested, extra=inner) + end),
        "with the wrong field": (_FORM, part(good, name="file") + end),
        "with two pictures": (_FORM, part(good) * 2 + end),
        "with a field that is no file": (_FORM, fields[:60] + end),
        "with a name in no encoding": (
            _FORM,
            b'--edge\r\nContent-Disposition: form-data; name="\xff\x00"\r\n\r\n' + end,
        ),
    }
    for name, (kind, body) in bodies.items():
        yield f"form {name}", request(_ENCODE, kind, body, 422, "image")


def _jsons() -> Iterator[tuple[str, Case]]:
    base = '{"model": "tiny", "label": 0, '
    bodies = {
        "not UTF-8": (b'{"label": "\xff\xfe"}', "body"),
        "half a surrogate": (b'{"label": "\\ud800"}', "body"),
        "cut": (_GOOD[:-5], "body"),
        "empty": (b"", "body"),
        "null": (b"null", "body"),
        "ten thousand levels deep": (b'{"label":' * 7000, "body"),
        "ten thousand brackets": (b"[" * 10_000, "body"),
        "NaN": (f'{base}"guidance": NaN}}'.encode(), "guidance"),
        "Infinity": (f'{base}"guidance": -Infinity}}'.encode(), "guidance"),
        "1e999": (f'{base}"guidance": 1e999}}'.encode(), "guidance"),
        "seed of 2^64": (f'{base}"seed": {2**64}}}'.encode(), "seed"),
        "seed of 5 000 digits": (f'{base}"seed": {"9" * 5000}}}'.encode(), "body"),
        "n of 2^31": (f'{base}"n": {2**31}}}'.encode(), "n"),
        "a label below zero": (b'{"label": -1}', "label"),
        "a label that is a list": (b'{"label": [0]}', "label"),
        "a label of 10 000 letters": (f'{{"label": "{"x" * 10_000}"}}'.encode(), "label"),
        "steps beyond the limit": (f'{base}"steps": {{"base": 100000}}}}'.encode(), "steps.base"),
        "an interval the wrong way": (
            f'{base}"guidance_interval": [1, 0]}}'.encode(),
            "guidance_interval",
        ),
        "a field of its own": (f'{base}"__class__": 1}}'.encode(), "__class__"),
        "a model of 10 000 letters": (f'{{"label": 0, "model": "{"m" * 9000}"}}'.encode(), "model"),
    }
    for name, (body, field) in bodies.items():
        yield f"json {name}", request("/generate", JSON, body, 422, field)
    yield "json too long", request("/generate", JSON, b'{"label": "' + b"x" * 2**20, 422, "body")
    keys = b"{" + b",".join(b'"k%d":1' % i for i in range(10**5)) + b"}"
    yield "json of 10^5 keys", request(_ENCODE, JSON, keys, 413, "body")
    yield (
        "json picture that is not base64",
        request(_ENCODE, JSON, b'{"image": "%%%"}', 422, "image"),
    )


def _types() -> Iterator[tuple[str, Case]]:
    bomb = gzip.compress(bytes(10 * 2**20))
    field = "Content-Encoding"
    yield "gzip bomb", request(_ENCODE, "image/png", bomb, 415, field, Content_Encoding="gzip")
    stacked = request("/generate", JSON, bomb, 415, field, Content_Encoding="gzip, gzip, br")
    yield "gzip in gzip", stacked
    for kind in ("image/svg+xml", "image/tiff", "text/html", "", "a/b" * 5000):
        yield f"type {kind[:20]!r}", request(_ENCODE, kind, b"<svg/>", 415, "Content-Type")
    yield (
        "a picture as a latent",
        request("/decode", "image/png", saved("PNG"), 415, "Content-Type"),
    )
    yield "a PNG that is a GIF", request(_ENCODE, "image/png", saved("GIF"), 422, "image")
    yield "a pile of query", request(f"{_ENCODE}&{'a=1&' * 2000}", "image/png", b"x", 422)
    yield "levels of 2^64", request(f"{_ENCODE}&levels={2**64}", "image/png", b"x", 422, "levels")
    yield "no such model", request("/encode?model=%00%ff", "image/png", b"x", 404, "model")
    yield "no such route", request("/../../etc/passwd", "image/png", b"x", 404)


def _lengths(max_body: int) -> Iterator[tuple[str, Case]]:
    said = {"in bytes": max_body + 1, "of 2^63": 2**63}
    for name, length in said.items():
        yield (
            f"length {name} over the limit",
            request(_ENCODE, "image/png", b"x", 413, "body", length=length),
        )
    yield "length of 40 digits", request(_ENCODE, "image/png", b"", 400, length=10**40)
    yield "length below zero", request(_ENCODE, "image/png", b"x", 400, length=-1)
    yield "length longer than the body", request("/generate", JSON, _GOOD, CLOSED, length=5000)
    yield "length shorter than the body", request("/generate", JSON, _GOOD, 422, "body", length=9)
    two = head("/generate", JSON, Content_Length="5", Content_length="9")
    yield "two lengths", Case((two, _GOOD), 400)


def _chunks(max_body: int) -> Iterator[tuple[str, Case]]:
    top = head("/generate", JSON, Transfer_Encoding="chunked")
    size = b"%x\r\n" % len(_GOOD)
    flood = b"100000\r\n" + b"\x00" * 2**20 + b"\r\n"
    pieces = {
        "size that is no number": ((b"xyz\r\n" + _GOOD,), 400),
        "size below zero": ((b"-5\r\n" + _GOOD,), 400),
        "size of 17 digits": ((b"f" * 17 + b"\r\n" + _GOOD,), CLOSED),
        "size of 2^63": ((b"8000000000000000\r\n" + _GOOD,), CLOSED),
        "size that is too small": ((b"3\r\n" + _GOOD + b"\r\n0\r\n\r\n",), 400),
        "aborted in a chunk": ((size + _GOOD[:10],), CLOSED),
        "without an end": ((size + _GOOD + b"\r\n",), CLOSED),
        "with an endless extension": ((b"5;" + b"a" * 2**22,), 400),
        "with endless trailers": (
            (size + _GOOD[:-1] + b" \r\n0\r\n" + b"X-T: y\r\n" * 10**5,),
            400,
        ),
        "one byte at a time": ((*[b"1\r\n[\r\n"] * 2000, b"0\r\n\r\n"), 422),
    }
    for name, (body, status) in pieces.items():
        yield f"chunked {name}", Case((top, *body), status)
    picture = head(_ENCODE, "image/png", Transfer_Encoding="chunked")
    over = max_body // 2**20 + 2
    yield "chunked flood", Case((picture, *[flood] * over), 413, "body")
    both = head("/generate", JSON, Transfer_Encoding="chunked", Content_Length="5")
    yield "chunked with a length", Case((both, size), 400, "Content-Length")
    odd = head("/generate", JSON, Transfer_Encoding="gzip, chunked, xyz")
    yield "chunked, then something else", Case((odd, _GOOD), 400)


def _protocol() -> Iterator[tuple[str, Case]]:
    line = b"POST /generate HTTP/1.1\r\nHost: localhost\r\n"
    yield "no HTTP at all", Case((b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,), 400)
    yield "HTTP/9.9", Case((b"POST /generate HTTP/99.9\r\nHost: localhost\r\n\r\n",), 400)
    yield "a header without a colon", Case((line + b"nonsense\r\n\r\n",), 400)
    yield "a header of 8 MB", Case((line + b"X: ", *[b"a" * 2**20] * 8, b"\r\n\r\n"), 400)
    yield "headers without end", Case((line, *[b"X-A: b\r\n" * 10**4] * 100), 400)
    yield "a target of 1 MB", Case((b"POST /" + b"a" * 2**20 + b" HTTP/1.1\r\n\r\n",), 400)
    yield "hidden line breaks", Case((line + b"X: a\rb\x00c\r\n\r\n",), 400)
