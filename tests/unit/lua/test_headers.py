"""What a script's header says is so, or this goes red."""

import re

import pytest

from gate.slots import keys, scripts

FILES = {path.stem: path.read_text() for path in sorted(scripts.FOLDER.glob("*.lua"))}
VERBS = [name for name in FILES if not name.startswith("_")]


def header_and_body(text: str) -> tuple[str, str]:
    lines = text.splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("--"))
    header = "\n".join(line.removeprefix("--").removeprefix(" ") for line in lines[:end])
    code = "\n".join(re.sub(r"--.*", "", line) for line in lines[end:])
    return header, code


def part(header: str, title: str) -> str:
    found = re.search(rf"^{title}.*?\n((?:^ .*\n?|^\n)*)", header + "\n", re.MULTILINE)
    return found.group(1) if found else ""


def test_the_files_are_the_verbs() -> None:
    assert sorted(VERBS) == sorted([*scripts.WITH_PRELUDE, *scripts.ALONE])


@pytest.mark.parametrize("verb", VERBS)
def test_it_says_what_it_is_and_what_it_guarantees(verb: str) -> None:
    header, _ = header_and_body(FILES[verb])
    assert header.startswith(f"{verb}: ")
    assert re.search(r"^Guarantee: ", header, re.MULTILINE)


@pytest.mark.parametrize("verb", VERBS)
def test_its_arguments_are_those_it_reads(verb: str) -> None:
    header, body = header_and_body(FILES[verb])
    said = {int(n) for n in re.findall(r"^  (\d+) ", part(header, "ARGV"), re.MULTILINE)}
    read = {int(n) for pair in re.findall(r"ARGV\[(\d+)\]|for i = (\d+), #ARGV", body) for n in pair if n}
    assert said == read


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "inspect"])
def test_its_replies_are_those_it_gives(verb: str) -> None:
    header, body = header_and_body(FILES[verb])
    said = set(re.findall(r"^  ([a-z_]+)(?: |$)", part(header, "Replies"), re.MULTILINE))
    given = set(re.findall(r"(?:finish|answer|stands)\([^'{)]*'([a-z_]+)'", body))
    given |= set(re.findall(r"or '([a-z_]+)', (?:\{|known)", body)) | set(re.findall(r"word = '([a-z_]+)'", body))
    assert said == given


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("inspect", "rebuild")])
def test_the_fields_of_its_replies_are_named(verb: str) -> None:
    header, body = header_and_body(FILES[verb])
    replies = re.sub(r"\s+", " ", part(header, "Replies"))
    for table in re.findall(r"finish\([^{]*\{([^}]*)\}", body):
        for field in re.findall(r"(\w+) = ", table):
            assert re.search(rf"\b{field}\b", replies), f"{field} is given and not named"


def test_the_prelude_names_its_keys_in_order() -> None:
    header, body = header_and_body(FILES["_prelude"])
    named = re.findall(r"^  (\d) (\w+) +([A-Z]+) ", part(header, "KEYS"), re.MULTILINE)
    assert [name for _, name, _ in named] == list(keys.ROLES)
    sizes = re.search(r"ipairs\(\{('ZCARD'.*?)\}\)", body)
    assert sizes is not None
    asked = {"ZSET": "ZCARD", "LIST": "LLEN", "HASH": "HLEN", "STREAM": "XLEN"}
    assert [asked[kind] for *_, kind in named] == re.findall(r"'(\w+)'", sizes.group(1))


@pytest.mark.parametrize("name", FILES)
def test_no_key_is_given_a_time_to_live(name: str) -> None:
    assert not re.search(r"'(P?EXPIRE\w*|SETEX|PSETEX|GETEX)'", FILES[name])


def test_inspect_only_reads() -> None:
    _, body = header_and_body(FILES["inspect"])
    commands = set(re.findall(r"redis\.call\('(\w+)'", body))
    assert commands <= {"TIME", "HGET", "HMGET", "ZRANGE", "LLEN", "LRANGE", "XLEN"}
