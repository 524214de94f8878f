"""Hostile programs are contained and fail, correct ones pass, and nothing stays behind: in every layer that works."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import itertools
import os
import secrets
import select
import socket
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from workers.sandbox import Limits, Verdict, layers
from workers.sandbox.choosing import layer_fault
from workers.sandbox.execution import run_in
from workers.sandbox.layers import LAYERS

ROOT = Path(__file__).parents[2]
# The memory limit stands in the command line of every process of a sandbox, so an odd one marks this test's own.
MARKS = itertools.count(2**29 + os.getpid() * 1000)


@functools.cache
def fault(layer: str) -> str | None:
    return layer_fault(layer)


def machine_has(layer: str) -> bool:
    """Whether this machine has what a layer is made of, found out without the layer's code."""
    if layer == "landlock":
        landlock_create_ruleset = 444
        return int(ctypes.CDLL(None).syscall(landlock_create_ruleset, None, ctypes.c_size_t(0), 1)) > 0
    wrapper = {
        "bubblewrap": ["bwrap", "--unshare-net", "--ro-bind", "/", "/"],
        "user namespaces": ["unshare", "--map-root-user", "--net", "--mount"],
    }
    try:
        return subprocess.run([*wrapper[layer], "true"], stderr=subprocess.DEVNULL, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> str:
    reason = fault(request.param)
    if reason is not None and machine_has(request.param):
        pytest.fail(f"{request.param} should work here, but: {reason}")
    if reason is not None:
        pytest.skip(f"{request.param}: {reason}")
    return str(request.param)


@pytest.fixture(autouse=True)
def limits(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Limits]:
    """Small limits, and a check afterwards that no file and no process is left."""
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    limits = Limits(cpu_seconds=1, wall_seconds=15, memory_bytes=next(MARKS), output_bytes=2**18, scratch_bytes=2**21)
    yield limits
    assert list(temporary.iterdir()) == []
    assert wait_until_gone(limits) == []


def wait_until_gone(limits: Limits) -> list[int]:
    """The processes that still run after a while; being killed takes the kernel a moment."""
    deadline = time.monotonic() + 5
    while (left := processes_of(limits)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


def processes_of(limits: Limits) -> list[int]:
    mark = f"'RLIMIT_AS': {limits.memory_bytes}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """Another process of the same user, which programs try to harm."""
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def judge(layer: str, program: str, limits: Limits) -> Verdict:
    verdict = run_in(layer, program, limits)
    assert len(verdict.error_tail) <= 2000
    return verdict


# Programs that take: how each ends, and what is in its last words.
GREEDY = {
    "fork bomb": ("import os\nwhile True: os.fork()", "exit status 1", "OSError"),
    "endless fork bomb": ("import os\nwhile True:\n try: os.fork()\n except OSError: pass", "CPU time", ""),
    "thread bomb": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,)).start()",
        "exit status 1",
        "can't start new thread",
    ),
    "other program": ("import subprocess\nsubprocess.run(['/bin/sleep', '60'])", "exit status 1", "OSError"),
    "replaced program": ("import os\nos.execv('/bin/true', ['true'])", "exit status 1", "OSError"),
    "daemon": (
        "import os, time\nif os.fork() == 0:\n os.setsid()\n if os.fork() == 0: time.sleep(60)\n os._exit(0)",
        "exit status 1",
        "OSError",
    ),
    "zombie child": ("import os, time\nif os.fork() == 0: os._exit(0)\ntime.sleep(60)", "exit status 1", "OSError"),
    "memory bomb": ("x = []\nwhile True: x.append(bytearray(2**20))", "exit status 1", "MemoryError"),
    "memory map": ("import mmap\nmmap.mmap(-1, 2**31)", "exit status 1", "Cannot allocate memory"),
    "higher limit": ("import resource as r\nr.setrlimit(r.RLIMIT_CPU, (60, 60))", "exit status 1", "Error"),
    "printing without end": ("while True: print('x' * 1000)", "too much output", ""),
    "errors without end": ("import sys\nwhile True: sys.stderr.write('x' * 1000)", "too much output", "xxx"),
    "huge file": ("open('file', 'wb').write(b'x' * 2**24)", "exit status 1", "File too large"),
    "many files": (
        "import itertools\nfor i in itertools.count(): open(str(i), 'wb').write(b'x' * 2**16)",
        "too many files",
        "",
    ),
    "many empty files": ("import itertools\nfor i in itertools.count(): open(str(i), 'w')", "too many files", ""),
    "open files": ("import os\nx = [os.open('/dev/null', 0) for _ in range(1000)]", "exit status 1", "Too many open"),
    "directories": ("import os\nos.mkdir('folder')", "exit status 1", "OSError"),
    "shared memory": ("import os\nos.memfd_create('memory')", "exit status 1", "OSError"),
}


@pytest.mark.parametrize("name", GREEDY)
def test_a_program_that_takes_too_much_is_stopped(layer: str, limits: Limits, name: str) -> None:
    program, reason, last_words = GREEDY[name]
    verdict = judge(layer, program, limits)
    assert (verdict.passed, verdict.reason) == (False, reason), verdict
    assert last_words in verdict.error_tail


def test_a_program_that_sleeps_is_stopped_at_the_wall_limit(layer: str, limits: Limits) -> None:
    programs = ["import time\ntime.sleep(600)", "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(600)"]
    with ThreadPoolExecutor(len(programs)) as pool:
        verdicts = pool.map(lambda program: judge(layer, program, replace(limits, wall_seconds=2.0)), programs)
        assert [verdict.reason for verdict in verdicts] == ["wall time"] * 2


def test_a_program_that_ignores_the_signal_of_the_cpu_limit_is_killed(layer: str, limits: Limits) -> None:
    if layer != next(name for name in LAYERS if fault(name) is None):
        pytest.skip("the kernel's own limit, tried in one layer")
    program = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert judge(layer, program, limits).reason == "signal 9"


def test_what_a_program_prints_is_not_kept_in_our_memory(layer: str, limits: Limits) -> None:
    tracemalloc.start()
    try:
        judge(layer, "while True: print('x' * 10**6)", replace(limits, output_bytes=2**24))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**21


LEAVING = {
    "sys.exit": "import sys\nsys.exit(0)",
    "os._exit": "import os\nos._exit(0)",
    "SystemExit": "raise SystemExit",
    "exit while printing": "import os\nprint('x' * 16, end='', flush=True)\nos._exit(0)",
    "exit in a handler": "import os, signal\nsignal.signal(signal.SIGALRM, lambda *_: os._exit(0))\n"
    "signal.setitimer(signal.ITIMER_REAL, 0.01)\nwhile True: pass",
}


@pytest.mark.parametrize("name", LEAVING)
def test_leaving_early_is_no_success(layer: str, limits: Limits, name: str) -> None:
    assert judge(layer, LEAVING[name] + "\nassert False\n", limits).reason == "left before its end"


@pytest.mark.parametrize(
    "program",
    ["import os\nos.close(1)", "import os\nos.closerange(0, 64)", "import os\nos.dup2(os.open('/dev/null', 1), 1)"],
)
def test_closing_standard_output_is_no_success(layer: str, limits: Limits, program: str) -> None:
    assert not judge(layer, program, limits).passed


def test_the_token_is_nowhere_that_a_program_looks(layer: str, limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    token = secrets.token_bytes(16)
    monkeypatch.setattr(secrets, "token_bytes", lambda _: token)
    program = f"""
import gc, hashlib, os, re, sys
def is_token(text):
    return hashlib.sha256(text).hexdigest() == {hashlib.sha256(token).hexdigest()!r}
def pieces(value):
    if isinstance(value, str):
        value = value.encode(errors="surrogateescape")
    if isinstance(value, (bytes, bytearray)):
        yield from (bytes(value[i:i + 16]) for i in range(len(value) - 15))
        yield from map(bytes.fromhex, re.findall("[0-9a-f]{{32}}", value.decode("latin-1")))
def seen():
    yield from [*sys.argv, *sys.orig_argv, *os.environ.values(), sys.stdin.read(), os.read(0, 100)]
    frame = sys._getframe()
    while frame:
        yield from [*frame.f_locals.values(), *frame.f_globals.values(), *frame.f_code.co_consts]
        frame = frame.f_back
    for thing in gc.get_objects():
        if isinstance(thing, (list, tuple, set)):
            yield from thing
        elif isinstance(thing, dict):
            yield from list(thing.values())
for value in seen():
    if isinstance(value, (str, bytes, bytearray)) and len(value) < 10**5:
        for piece in pieces(value):
            if is_token(piece):
                os.write(1, piece)
                os._exit(0)
os._exit(0)
"""
    verdict = judge(layer, program, replace(limits, cpu_seconds=10))
    assert (verdict.passed, verdict.reason) == (False, "left before its end")


@pytest.fixture
def private_files(tmp_path: Path) -> Iterator[list[Path]]:
    """A file of the user's in her temporary folder, and one in her home."""
    with tempfile.NamedTemporaryFile(dir=Path.home(), prefix=".sandbox-test-") as in_home:
        in_home.write(b"secret")
        in_home.flush()
        (tmp_path / "file").write_text("secret")
        yield [tmp_path / "file", Path(in_home.name)]


def succeeding(layer: str, deeds: list[str], limits: Limits) -> list[str]:
    """The statements that raise nothing inside."""
    program = f"""
import ctypes, fcntl, os, resource, shutil, sys
for deed in {deeds!r}:
    try:
        exec(deed)
    except (AssertionError, OSError):
        continue
    print(deed, file=sys.stderr)
"""
    verdict = judge(layer, program, limits)
    assert verdict.passed, verdict
    return verdict.error_tail.splitlines()


def test_deeds_that_succeed_are_told(layer: str, limits: Limits) -> None:
    deeds = ["os.listdir('.')", "assert False", "os.getpid()"]
    assert succeeding(layer, deeds, limits) == [deeds[0], deeds[2]]


def test_the_users_files_are_out_of_reach(layer: str, limits: Limits, private_files: list[Path]) -> None:
    before = [(path.stat(), sorted(os.listdir(path.parent))) for path in private_files]
    deeds = [
        deed
        for path in private_files
        for deed in (
            f"open({str(path)!r})",
            f"open({str(path)!r}, 'w')",
            f"open({str(path)!r}, 'r+')",
            f"open({str(path)!r}, 'a')",
            f"open({str(path) + '.new'!r}, 'w')",
            f"os.truncate({str(path)!r}, 0)",
            f"os.unlink({str(path)!r})",
            f"os.chmod({str(path)!r}, 0)",
            f"os.chown({str(path)!r}, 1, 1)",
            f"os.utime({str(path)!r}, (0, 0))",
            f"os.setxattr({str(path)!r}, 'user.x', b'x')",
            f"os.rename({str(path)!r}, 'mine')",
            f"os.link({str(path)!r}, 'mine')",
            f"os.symlink({str(path)!r}, 'mine')",
            f"os.mkdir({str(path) + '.new'!r})",
            f"assert {path.name!r} in os.listdir({str(path.parent)!r})",
        )
    ]
    assert succeeding(layer, deeds, limits) == []
    for path, (old, neighbours) in zip(private_files, before, strict=True):
        new = path.stat()
        assert path.read_text() == "secret"
        assert (new.st_mode, new.st_uid, new.st_mtime_ns) == (old.st_mode, old.st_uid, old.st_mtime_ns)
        assert sorted(os.listdir(path.parent)) == neighbours


def test_the_machine_is_out_of_reach(layer: str, limits: Limits) -> None:
    deeds = [
        "open('/etc/passwd')",
        f"open('/proc/{os.getpid()}/environ')",
        f"open('/proc/{os.getpid()}/mem')",
        f"os.readlink('/proc/{os.getpid()}/cwd')",
        "open('/proc/self/environ')",
        "assert os.listdir('/proc')",
        "assert os.listdir('/sys')",
        "assert os.listdir('/dev/shm')",
        "open('/usr/new', 'w')",
        "open(os.__file__, 'a')",
        "open('/new', 'w')",
        "open('../new', 'w')",
        "os.chroot('/')",
        # As root, too, a file without rights stays closed.
        "os.close(os.open('file', os.O_CREAT, 0)); open('file')",
        "os.rmdir(os.getcwd())",
        "os.rename(os.getcwd(), '../new')",
        "shutil.rmtree(os.getcwd())",
    ]
    assert succeeding(layer, deeds, limits) == []


def test_other_processes_are_out_of_reach(layer: str, limits: Limits, victim: subprocess.Popen[bytes]) -> None:
    pid = victim.pid
    deeds = [
        f"os.kill({pid}, 0)",
        f"os.kill({pid}, 9)",
        f"os.killpg(os.getpgid({pid}), 0)",
        f"os.pidfd_open({pid})",
        f"os.setpriority(os.PRIO_PROCESS, {pid}, 19)",
        f"os.sched_setaffinity({pid}, {{0}})",
        f"resource.prlimit({pid}, resource.RLIMIT_NOFILE, (0, 0))",
        f"fcntl.fcntl(0, fcntl.F_SETOWN, {pid})",
        f"assert ctypes.CDLL(None).ptrace(16, {pid}, None, None) == 0",
        f"assert ctypes.CDLL(None).process_vm_readv({pid}, None, 0, None, 0, 0) == 0",
    ]
    assert succeeding(layer, deeds, limits) == []
    assert victim.poll() is None
    assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0)


def test_no_socket_is_reached(layer: str, limits: Limits, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        tcp, path, abstract = (
            stack.enter_context(socket.socket(family)) for family in (socket.AF_INET, socket.AF_UNIX, socket.AF_UNIX)
        )
        udp = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        tcp.bind(("127.0.0.1", 0))
        udp.bind(("127.0.0.1", 0))
        path.bind(str(tmp_path / "socket"))
        abstract.bind(f"\0sandbox-test-{secrets.token_hex(8)}")
        for waiting in (tcp, path, abstract):
            waiting.listen()
        deeds = [
            f"import socket; socket.create_connection({tcp.getsockname()!r})",
            f"import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', {udp.getsockname()!r})",
            f"import socket; socket.socket(socket.AF_UNIX).connect({path.getsockname()!r})",
            f"import socket; socket.socket(socket.AF_UNIX).connect({abstract.getsockname()!r})",
            "import socket; socket.socketpair()",
        ]
        assert succeeding(layer, deeds, limits) == []
        assert select.select([tcp, udp, path, abstract], [], [], 0)[0] == []


RUN_ONE = """
import resource, sys
from workers.sandbox import Limits
from workers.sandbox.execution import run_in
layer, memory_bytes, program, *lower = sys.argv[1:]
for name in lower:
    resource.setrlimit(getattr(resource, name), (1000, 1000))
print(run_in(layer, program, Limits(memory_bytes=int(memory_bytes), wall_seconds=60)).reason)
"""


def start_runner(layer: str, program: str, limits: Limits, temporary: Path, *lower: str) -> subprocess.Popen[str]:
    """A process of its own, with some limits of the kernel at 1000, that runs a program in a sandbox."""
    arguments = [sys.executable, "-c", RUN_ONE, layer, str(limits.memory_bytes), program, *lower]
    environment = os.environ | {"TMPDIR": str(temporary)}
    return subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def test_a_program_cannot_kill_its_parent(layer: str, limits: Limits, tmp_path: Path) -> None:
    with start_runner(layer, "import os\nos.kill(os.getppid(), 9)", limits, tmp_path) as runner:
        assert runner.communicate()[0] == "exit status 1\n"
    assert runner.returncode == 0


def test_a_program_ends_with_the_process_that_wanted_it(layer: str, limits: Limits, tmp_path: Path) -> None:
    with start_runner(layer, "import time\nopen('ready', 'w')\ntime.sleep(60)", limits, tmp_path) as runner:
        deadline = time.monotonic() + 20
        while not list(tmp_path.glob("sandbox-*/scratch/ready")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert processes_of(limits) != []
        runner.kill()
    assert wait_until_gone(limits) == []


CORRECT = {
    "nothing": "",
    "prints": "print('text', end='')\nimport sys\nprint('error', file=sys.stderr)",
    "has no input": "import sys\nassert sys.stdin.read() == ''",
    "is not the main module": "assert __name__ == 'program'",
    "has files of its own": "import os\nassert os.listdir() == []\nwith open('a', 'w') as f: f.write('x' * 10**5)\n"
    "os.rename('a', 'b')\nassert len(open('b').read()) == 10**5\nos.unlink('b')",
    "closes its own file objects": "import sys\nsys.stdout.close(), sys.stderr.close(), sys.stdin.close()",
    "inherits no file but its token": "import os\nfor fd in range(4, 5000):\n try: os.fstat(fd)\n"
    " except OSError: continue\n assert not fd",
    "throws output away": "import os\nprint('text', file=open(os.devnull, 'w'))",
    "has no environment": "import os\nassert not {'HOME', 'PATH', 'USER', 'SANDBOX_TEST'} & set(os.environ)",
    "imports": "import numpy, random, datetime, collections, re, math, typing, asyncio\n"
    "assert (numpy.ones((9, 9)) @ numpy.ones((9, 9))).sum() == 729",
    "measures time": "import time, signal\ntime.sleep(0.001)\nsignal.alarm(5)\nassert time.perf_counter() > 0",
    "calls itself": "def f(n): return n and 1 + f(n - 1)\nassert f(900) == 900",
    "is long and not ASCII": "text = '" + "é漢" * 100_000 + "'\nassert len(text) == 200_000",
    "has dataclasses": "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    "@dataclass\nclass A:\n  x: int = 1\nassert A().x == 1",
    "leaves handlers behind": "import atexit, os\natexit.register(os._exit, 1)",
    "starts without future features": "def f(x: int): pass\nassert f.__annotations__ == {'x': int}",
}


@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_program_passes(layer: str, limits: Limits, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_TEST", "secret")
    assert judge(layer, CORRECT[name], replace(limits, cpu_seconds=5)) == Verdict(
        True, "passed", "error\n" if name == "prints" else ""
    )


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("assert 1 == 2", "AssertionError"),
        ("def f(:", "SyntaxError"),
        ("x = '\0'", "null bytes"),
        ("\ud800", "Unicode"),
    ],
)
def test_a_wrong_program_fails_and_says_why(layer: str, limits: Limits, program: str, error: str) -> None:
    verdict = judge(layer, program, limits)
    assert (verdict.passed, verdict.reason) == (False, "exit status 1")
    assert error in verdict.error_tail


def test_a_crash_is_a_failure(layer: str, limits: Limits) -> None:
    verdict = judge(layer, "import ctypes\nctypes.string_at(0)", limits)
    assert (verdict.passed, verdict.reason) == (False, "signal 11")


def test_sets_of_strings_have_the_same_order_in_every_run(limits: Limits) -> None:
    program = "import sys\nprint(set('qwertyuiop'), file=sys.stderr)"
    orders = {judge(name, program, limits).error_tail for name in LAYERS if fault(name) is None for _ in range(3)}
    assert len(orders) <= 1
    assert "" not in orders


def test_programs_run_side_by_side(layer: str, limits: Limits) -> None:
    programs = [f"assert {index} % 3" for index in range(24)]
    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(lambda program: run_in(layer, program, limits), programs))
    assert [verdict.passed for verdict in verdicts] == [bool(index % 3) for index in range(24)]


def test_a_limit_that_is_lower_already_stays(layer: str, limits: Limits, tmp_path: Path) -> None:
    program = "assert open('file', 'wb', buffering=0).write(b'x' * 1001) == 1001"
    assert judge(layer, program, limits).passed
    with start_runner(layer, program, limits, tmp_path, "RLIMIT_FSIZE") as runner:
        assert runner.communicate()[0] == "exit status 1\n"


def test_a_sandbox_that_does_not_start_says_nothing_about_the_program(
    layer: str, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "_DEVICES", ["/missing"])
    with pytest.raises(OSError, match=f"{layer} sandbox did not start a program: .*No such file"):
        run_in(layer, "", limits)
