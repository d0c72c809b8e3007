from __future__ import annotations

from pathlib import Path

import pytest

from unified_latents.service.keys import SCOPES, Caller, KeyRing, create, load, parse


def test_a_key_opens_what_its_line_says() -> None:
    secret, key = create("alice", ["decode", "generate"], 60_000)
    assert parse(key.line()) == key
    assert key.line().endswith("scopes=generate,decode budget=60000")
    assert secret not in key.line()
    ring = KeyRing([create("bob", SCOPES)[1], parse(key.line())])
    assert ring.find(secret) == Caller("alice", frozenset({"generate", "decode"}), 60_000)


def test_keys_are_long_and_never_twice() -> None:
    secrets = {create("a", ["generate"])[0] for _ in range(20)}
    assert len(secrets) == 20
    assert all(len(secret) >= 43 for secret in secrets)


@pytest.mark.parametrize("token", ["", "ul_", "\udcff", "x" * 10_000])
def test_other_tokens_open_nothing(token: str) -> None:
    assert KeyRing([create("a", ["generate"])[1]]).find(token) is None
    assert KeyRing().find(token) is None


def test_keys_come_from_the_environment_and_a_file(tmp_path: Path) -> None:
    keys = [create(name, ["generate"]) for name in ("a", "b", "c")]
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\n{keys[2][1].line()}  # the third\n")
    ring = load(f"{keys[0][1].line()};{keys[1][1].line()}", file)
    assert len(ring) == 3
    assert [caller.name for secret, _ in keys if (caller := ring.find(secret))] == ["a", "b", "c"]
    with pytest.raises(OSError, match="missing"):
        load("", tmp_path / "missing")


DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("alice", "needs sha256"),
        (f"alice {DIGEST}", "needs scopes"),
        (f"alice {DIGEST} scopes=fly", "needs scopes"),
        (f"alice {DIGEST} {DIGEST} scopes=generate", "needs sha256"),
        (f"alice {DIGEST} scopes=generate scopes=admin", "needs sha256"),
        (f"alice {DIGEST} scopes=generate colour=red", "needs sha256"),
        (f"alice {DIGEST} scopes=generate budget=-1", "budget"),
        (f"alice {DIGEST} scopes=generate budget=0", "budget"),
        (f"{'a' * 65} {DIGEST} scopes=generate", "64 letters"),
        ("alice sha256:abc scopes=generate", "needs sha256"),
        (f"a {DIGEST} scopes=generate;a {DIGEST} scopes=decode", "same name"),
    ],
)
def test_lines_that_are_not_of_a_key(line: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        load(line, None)
    assert "0" * 64 not in str(caught.value)
