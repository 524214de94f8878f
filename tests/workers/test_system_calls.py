"""The filter of system calls, run here as the kernel runs it, for both architectures."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from workers.sandbox.seccomp import _ALLOWED, _ALLOWED_BY_COMMAND, seccomp_filter

ALLOW, KILL, NOT_IMPLEMENTED = 0x7FFF0000, 0x80000000, 0x00050000 | 38
WORDS = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def decide(program: bytes, number: int, word: int, second_argument: int = 0) -> int:
    """What the kernel does with a system call: a BPF machine of the three instructions that filters here have."""
    data = struct.pack("<IIQQQ", number, word, 0, 0, second_argument)
    instructions = list(struct.iter_unpack("<HBBI", program))
    accumulator = position = 0
    while True:
        code, if_true, if_false, operand = instructions[position]
        position += 1
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, operand)[0]
        elif code == 0x15:
            position += if_true if accumulator == operand else if_false
        else:
            assert code == 0x06
            return int(operand)


# clone, fork, vfork, execve, clone3, socket, kill, tgkill, ptrace, prlimit64, mkdir, chmod, truncate, bpf and
# io_uring_setup by their numbers, and `read` of the 32-bit interface of x86_64.
FORBIDDEN = {
    "x86_64": (56, 57, 58, 59, 435, 41, 62, 234, 101, 302, 83, 90, 76, 321, 425, 0x40000000),
    "aarch64": (220, 221, 435, 198, 129, 131, 117, 261, 34, 53, 45, 280, 425),
}


@pytest.mark.parametrize("machine", WORDS)
def test_the_filter_allows_what_is_listed_and_nothing_else(machine: str) -> None:
    program, word, column = seccomp_filter(machine), WORDS[machine], list(WORDS).index(machine)
    for number in {numbers[column] for numbers in _ALLOWED.values()} - {None}:
        assert number is not None
        assert decide(program, number, word) == ALLOW
        assert decide(program, number, word ^ 1) == KILL
    for number in FORBIDDEN[machine]:
        assert decide(program, number, word) == NOT_IMPLEMENTED
    for pair, commands in _ALLOWED_BY_COMMAND.values():
        allowed = {command for command in range(2048) if decide(program, pair[column], word, command) == ALLOW}
        assert allowed == {command for command in commands if command < 2048}


@pytest.mark.parametrize(
    ("machine", "header"),
    [
        ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        ("aarch64", "/usr/include/asm-generic/unistd.h"),
    ],
)
def test_system_calls_have_the_kernels_numbers(machine: str, header: str) -> None:
    if not Path(header).is_file():
        pytest.skip(f"the kernel's headers are not installed: {header}")
    found = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text()))
    # The generic table has an older name for it.
    found.setdefault("newfstatat", found.get("fstatat", ""))
    column = list(WORDS).index(machine)
    listed = {name: numbers[column] for name, numbers in _ALLOWED.items()}
    listed |= {name: pair[column] for name, (pair, _) in _ALLOWED_BY_COMMAND.items()}
    assert {name: str(number) for name, number in listed.items() if number is not None} == {
        name: found[name] for name, number in listed.items() if number is not None
    }


def test_an_architecture_without_a_list_is_refused() -> None:
    with pytest.raises(ValueError, match="riscv64; there are: x86_64, aarch64"):
        seccomp_filter("riscv64")
