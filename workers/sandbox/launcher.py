"""What the new interpreter does before and after the program: shut itself in, run it, and say that it ended.

Its text is handed to the interpreter with `-c`, followed by a call of `launch`: nothing of this package can be seen
inside. So it imports the standard library only, and little of that, because each program pays for it.
"""

import ctypes
import os
import resource
import sys

# Written once the walls stand. Without it, what went wrong is not the program's doing.
STARTED = b"started\n"
TOKEN_BYTES = 16
LANDLOCK = "landlock"
NAMESPACES = "user namespaces"

_TOKEN_FD = 3
_SIGKILL = 9  # the signal module takes as long to import as all the rest here
_LIBC = ctypes.CDLL(None, use_errno=True)

# linux/prctl.h, linux/sched.h, sys/mount.h
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 1, 22, 38, 2
_NEW_NAMESPACES = 0x00020000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x40000000  # mount, uts, ipc, user, net
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2
# Flags of a mount that a user namespace may not clear: read-only, nosuid, nodev, noexec, noatime, nodiratime.
_LOCKED_FLAGS = 1 | 2 | 4 | 8 | 1024 | 2048

# linux/landlock.h. Its three system calls have the same numbers on every architecture.
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_FS_EXECUTE, _FS_WRITE_FILE, _FS_READ_FILE, _FS_READ_DIR, _FS_REMOVE_FILE, _FS_MAKE_REG = 1, 2, 4, 8, 32, 256
_FS_REFER, _FS_TRUNCATE = 1 << 13, 1 << 14
_FS_OF_FIRST_VERSION = (1 << 13) - 1


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def launch(
    *,
    layer: str,
    parent: int,
    scratch: str,
    readable: list[str],
    writable_devices: list[str],
    packages: list[str],
    limits: dict[str, int],
    seccomp_filter: bytes,
    program_size: int,
) -> None:
    """Run the first `program_size` bytes of standard input, and answer with the token that follows them there."""
    text = _read_program(program_size)
    if layer == NAMESPACES:
        scratch = _enter_namespaces(scratch, readable + writable_devices)
    os.chdir(scratch)
    _drop_capabilities()
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if layer == LANDLOCK:
        _restrict_files(scratch, readable, writable_devices)
    if parent:
        # After the namespaces: a change of credentials would clear it.
        _call("prctl", _PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            sys.exit("the process that wanted this program is gone")
    for name, limit in limits.items():
        _limit(getattr(resource, name), limit)
    filter_program = _FilterProgram(len(seccomp_filter) // 8, seccomp_filter)
    _call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(filter_program), 0, 0)
    _run(text, packages)


def _limit(kind: int, limit: int) -> None:
    """Lower a limit; one that is lower already stays."""
    # A second of grace, so that the signal that tells of the CPU limit comes before the one that only kills.
    hard, ceiling = limit + (kind == resource.RLIMIT_CPU), resource.getrlimit(kind)[1]
    if ceiling != resource.RLIM_INFINITY:
        hard = min(hard, ceiling)
    resource.setrlimit(kind, (min(limit, hard), hard))


def _read_program(size: int) -> bytes:
    """The program. The token stays unread until it has ended, and its standard input is empty."""
    pieces = []
    while size > 0 and (piece := os.read(0, size)):
        pieces.append(piece)
        size -= len(piece)
    os.dup2(0, _TOKEN_FD)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return b"".join(pieces)


def _run(text: bytes, packages: list[str]) -> None:
    write, read, leave = os.write, os.read, os._exit
    write(1, STARTED)
    sys.path += packages
    sys.argv = ["program"]
    # Not `__main__`: HumanEval's own harness does not run what stands under `if __name__ == "__main__"` either.
    module = type(sys)("program")
    sys.modules["program"] = module
    code = compile(text.decode(), "program", "exec")
    exec(code, module.__dict__)  # noqa: S102 - what all this is for
    write(1, read(_TOKEN_FD, TOKEN_BYTES))
    leave(0)


def _restrict_files(scratch: str, readable: list[str], writable_devices: list[str]) -> None:
    """Landlock: files below `readable` can be read, files in `scratch` be made, and no other file be opened."""
    version = _call("syscall", _LANDLOCK_CREATE_RULESET, None, 0, 1)
    handled = _FS_OF_FIRST_VERSION | (_FS_REFER if version >= 2 else 0) | (_FS_TRUNCATE if version >= 3 else 0)
    ruleset = _call("syscall", _LANDLOCK_CREATE_RULESET, handled.to_bytes(8, "little"), 8, 0)
    file_rights = _FS_READ_FILE | _FS_EXECUTE
    write_rights = _FS_READ_FILE | _FS_WRITE_FILE | _FS_TRUNCATE
    rules = [(path, file_rights | (_FS_READ_DIR if os.path.isdir(path) else 0)) for path in readable]
    rules += [(path, write_rights) for path in writable_devices]
    rules += [(scratch, write_rights | _FS_READ_DIR | _FS_REMOVE_FILE | _FS_MAKE_REG)]
    for path, rights in rules:
        place = os.open(path, os.O_PATH)
        rule = (rights & handled).to_bytes(8, "little") + place.to_bytes(4, "little")
        _call("syscall", _LANDLOCK_ADD_RULE, ruleset, 1, rule, 0)
        os.close(place)
    _call("syscall", _LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _enter_namespaces(scratch: str, visible: list[str]) -> str:
    """No network, and a root directory that holds `visible`, read-only, and `scratch`, whose new path this gives."""
    uid, gid, root = os.getuid(), os.getgid(), f"{scratch}.root"
    os.mkdir(root)
    _call("unshare", _NEW_NAMESPACES)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV)
    os.mkdir(f"{root}/scratch")
    for path in visible:
        if os.path.isdir(path):
            os.makedirs(root + path, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(root + path), exist_ok=True)
            os.close(os.open(root + path, os.O_CREAT))
        _mount(path, root + path, None, _MS_BIND | _MS_REC)
    for path in _mounts_below(root):
        flags = os.statvfs(path).f_flag & _LOCKED_FLAGS
        _mount(None, path, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | flags)
    _mount(scratch, f"{root}/scratch", None, _MS_BIND)
    os.chdir(root)
    # The old root ends up stacked on the new one, and is taken off.
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _MNT_DETACH)
    return "/scratch"


def _mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    _call("mount", *encoded, flags, None)


def _mounts_below(root: str) -> list[str]:
    """Mount points at and below `root`; the kernel writes blanks in them as octal escapes."""
    with open("/proc/self/mountinfo", "rb") as file:
        points = [line.split()[4].decode("unicode_escape").encode("latin-1") for line in file]
    return [point for point in map(os.fsdecode, points) if point == root or point.startswith(f"{root}/")]


def _drop_capabilities() -> None:
    """Even root is an ordinary user from here on."""
    version_3_of_this_thread = (0x20080522).to_bytes(4, "little") + bytes(4)
    _call("capset", version_3_of_this_thread, bytes(24))


def _call(name: str, *arguments: object) -> int:
    """A C library function that gives a negative number and sets errno where it fails."""
    words = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result: int = getattr(_LIBC, name)(*words)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result
