"""The system calls that a program may make, as a seccomp filter.

A list of what is allowed, because what is not thought of must not work. It has no call that makes a process or a
thread, runs another program, opens a socket, signals or traces a process, changes owners, modes, limits or mounts, or
makes a directory or a link. Everything else is answered with "not implemented", which callers expect and survive.
"""

from __future__ import annotations

import platform
import struct

# Numbers on (x86_64, aarch64), from the kernel's unistd.h; None where an architecture has only the newer call.
_ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # files that are open, or may be opened
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "close": (3, 57), "close_range": (436, 436), "lseek": (8, 62), "open": (2, None),
    "openat": (257, 56), "stat": (4, None), "lstat": (6, None), "fstat": (5, 80), "newfstatat": (262, 79),
    "statx": (332, 291), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, None), "readlinkat": (267, 78), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50),
    "getdents64": (217, 61), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "pipe": (22, None),
    "pipe2": (293, 59), "ftruncate": (77, 46), "fallocate": (285, 47), "fsync": (74, 82), "fdatasync": (75, 83),
    "fadvise64": (221, 223), "statfs": (137, 43), "fstatfs": (138, 44), "unlink": (87, None),
    "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "umask": (95, 166),
    # waiting
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72), "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21), "epoll_wait": (232, None), "epoll_pwait": (281, 22), "futex": (202, 98),
    "pause": (34, None), "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "sched_yield": (24, 124),
    "restart_syscall": (219, 128),
    # memory
    "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216), "madvise": (28, 233),
    "brk": (12, 214), "msync": (26, 227),
    # signals to itself: handlers and timers
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "getitimer": (36, 102), "setitimer": (38, 103), "alarm": (37, None),
    # clocks, and questions about itself and the machine
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169), "time": (201, None),
    "times": (100, 153), "getrusage": (98, 165), "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178),
    "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177),
    "getpgrp": (111, None), "getpgid": (121, 155), "getsid": (124, 156), "getgroups": (115, 158),
    "sched_getaffinity": (204, 123), "getcpu": (309, 168), "getrandom": (318, 278), "uname": (63, 160),
    "sysinfo": (99, 179),
    # the interpreter's own start and end
    "arch_prctl": (158, None), "set_tid_address": (218, 96), "set_robust_list": (273, 99), "rseq": (334, 293),
    "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip

# Calls of many uses: number, and the values of the second argument that are allowed.
# fcntl: copies of a file descriptor and its flags, but no owner: the kernel signals an owner.
# ioctl: what a file's opening asks (is it a terminal? close on exec?), but nothing typed into a terminal.
_ALLOWED_BY_COMMAND: dict[str, tuple[tuple[int, int], tuple[int, ...]]] = {
    "fcntl": ((72, 25), (0, 1, 2, 3, 4, 1030)),
    "ioctl": ((16, 29), (0x5401, 0x5413, 0x541B, 0x5450, 0x5451)),
}

# Column of the tables above, and the kernel's AUDIT_ARCH word.
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _ARCHITECTURE, _COMMAND = 0, 4, 24  # offsets in struct seccomp_data; of arguments, the low word
_ALLOW, _KILL, _NOT_IMPLEMENTED = 0x7FFF0000, 0x80000000, 0x00050000 | 38


def seccomp_filter(machine: str | None = None) -> bytes:
    """The filter as BPF instructions of 8 bytes, for this machine or the named architecture.

    Raises ValueError on an architecture whose system calls are not listed.
    """
    machine = machine or platform.machine()
    if machine not in _ARCHITECTURES:
        raise ValueError(f"no list of system calls for {machine}; there are: {', '.join(_ARCHITECTURES)}")
    column, word = _ARCHITECTURES[machine]
    program = [
        _instruction(_LOAD_WORD, _ARCHITECTURE),
        _instruction(_JUMP_IF_EQUAL, word, skip_if_true=1),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD_WORD, _NUMBER),
    ]
    for numbers in _ALLOWED.values():
        if numbers[column] is not None:
            program += _allow_if_equal(numbers[column])
    for pair, commands in _ALLOWED_BY_COMMAND.values():
        body = [_instruction(_LOAD_WORD, _COMMAND)]
        for command in commands:
            body += _allow_if_equal(command)
        body.append(_instruction(_RETURN, _NOT_IMPLEMENTED))
        program += [_instruction(_JUMP_IF_EQUAL, pair[column], skip_if_false=len(body)), *body]
    program.append(_instruction(_RETURN, _NOT_IMPLEMENTED))
    return b"".join(program)


def _allow_if_equal(value: int | None) -> list[bytes]:
    assert value is not None
    return [_instruction(_JUMP_IF_EQUAL, value, skip_if_false=1), _instruction(_RETURN, _ALLOW)]


def _instruction(code: int, operand: int, *, skip_if_true: int = 0, skip_if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, skip_if_true, skip_if_false, operand)
