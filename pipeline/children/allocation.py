"""Ends the process when it asks for an absurd amount of memory; otherwise a library would hide the failure.

`int(2.5 ** 10 ** 11)` asks for 16 GB at once and touches none of it; a library catches the error and goes on.
This is a filter in the kernel (seccomp) on two system calls. Without such a filter the allocation only fails.
"""

import ctypes
import platform
import struct

# The kernel's numbers for the machine, mmap and mremap.
_NUMBERS = {"x86_64": (0xC000003E, 9, 25), "aarch64": (0xC00000B7, 222, 216)}
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
_prctl = ctypes.CDLL(None).prctl  # loaded now, because an audit hook may refuse it later
_prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]


def kill_beyond(n_bytes: int) -> bool:
    """From now on SIGSYS ends the process if it asks for so much memory at once. Returns whether the filter is set."""
    if platform.machine() not in _NUMBERS:
        return False
    machine, mmap, mremap = _NUMBERS[platform.machine()]
    # An instruction has a code, how many instructions to skip if true and if false, and a number. A system call has its
    # number at byte 0, the machine at 4, and its arguments from 16 on, eight bytes each, the lower half first.
    steps = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 0, 11, machine),
        (_LOAD, 0, 0, 0),
        (_EQUAL, 1, 0, mmap),
        (_EQUAL, 4, 8, mremap),
        (_LOAD, 0, 0, 28),  # mmap's length
        (_AT_LEAST, 7, 0, 1),
        (_LOAD, 0, 0, 24),
        (_AT_LEAST, 5, 4, n_bytes),
        (_LOAD, 0, 0, 36),  # mremap's new length
        (_AT_LEAST, 3, 0, 1),
        (_LOAD, 0, 0, 32),
        (_AT_LEAST, 1, 0, n_bytes),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _KILL),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(code)))
    allowed = _prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
    return bool(allowed and _prctl(_SECCOMP, _FILTER, ctypes.addressof(program), 0, 0) == 0)
