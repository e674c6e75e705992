"""Pickles, followed and never run: the stack is kept as the unpickler would, but nothing is imported or called."""

import io
import os
import pickletools
import re
from collections.abc import Callable
from typing import Any

import msgspec

from trainguard.checkpoints.effort import Effort
from trainguard.checkpoints.verdicts import incomplete, suspect

# Tensors and their names, not their bytes: an optimizer with 10,000 tensors takes 2 MB.
PICKLE_LIMIT = 32 << 20

# What no saved state names, and what a pickle that runs code needs: these modules and all in them, ...
DANGEROUS_MODULES = frozenset((
    "_posixsubprocess", "asyncio", "ctypes", "importlib", "marshal", "nt", "os", "pip", "posix", "pty", "runpy",
    "shutil", "socket", "subprocess", "sys", "webbrowser",
))  # fmt: skip
# ... and these alone, as a user's own package may be called so.
DANGEROUS_NAMES = frozenset((
    "bdb", "cProfile", "code", "codeop", "commands", "http.client", "imp", "pdb", "profile", "requests", "timeit",
    "urllib", "urllib.request",
))  # fmt: skip
DANGEROUS_BUILTINS = frozenset((
    "__import__", "apply", "breakpoint", "compile", "eval", "exec", "execfile", "globals", "input", "locals",
    "open", "vars",
))  # fmt: skip
BUILTINS = frozenset(("__builtin__", "__builtins__", "builtins"))
BLOCK = 4 << 20
_SHARD = re.compile(rb"__[0-9]+_[0-9]+\.distcp")
# The names as GLOBAL writes them, and as strings on the stack.
_DANGER = re.compile(
    rb"(?:c(?:%b)(?:\.\w+)*\n|[\x8cX\x8d](?:.|.{4}|.{8})(?:posix|nt|os|subprocess|runpy|pty|builtins|__builtin__)[\x94q\x8c])"
    % "|".join(sorted(DANGEROUS_MODULES)).encode(),
    re.DOTALL,
)


class ExhaustedError(Exception):
    """A pickle takes more operations than are left; it may be whole all the same."""


class Thing:
    """What an unpickler would have made by a call: the callable's name, its arguments, and the state set later."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: object = None) -> None:
        self.name = name
        self.arguments = arguments
        self.state: object = None


class Pickle(msgspec.Struct, frozen=True):
    """What one pickle says.

    `end` is the offset behind its STOP; `value` is what was left, of lists (also for tuples and sets), dicts
    with the keys that are strings, and Things. `things` are those whose names were asked for, `persistent` the
    identities of what lies outside.
    """

    end: int
    value: object
    things: list[Thing]
    persistent: list[object]


class _Machine:
    def __init__(self, wanted: str | None) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.wanted = wanted
        self.things: list[Thing] = []
        self.persistent: list[object] = []

    def pop(self) -> Any:
        # What lies below a mark is not within reach.
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise IndexError
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        at = self.marks.pop()
        items = self.stack[at:]
        del self.stack[at:]
        return items

    def name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise suspect("names what it imports in a hidden way")
        # A module can also be had as an attribute of another one.
        words = {module.partition(".")[0], *name.split(".")}
        is_dangerous = not words.isdisjoint(DANGEROUS_MODULES | BUILTINS) and module not in BUILTINS
        if module in BUILTINS:
            is_dangerous = name.partition(".")[0] in DANGEROUS_BUILTINS or "." in name
        if is_dangerous or module in DANGEROUS_NAMES:
            raise suspect(f"would run code when it is loaded: {f'{module}.{name}'[:80]!r}")
        self.stack.append(Thing(f"{module}.{name}"))

    def call(self, callable_: object, arguments: object) -> None:
        thing = Thing(callable_.name if isinstance(callable_, Thing) else "", arguments)
        if thing.name == self.wanted:
            self.things.append(thing)
        self.stack.append(thing)

    def set_items(self, target: object, items: list[Any]) -> None:
        if len(items) % 2:
            raise IndexError
        if isinstance(target, dict):
            target.update(
                pair for pair in zip(items[::2], items[1::2], strict=True) if isinstance(pair[0], str)
            )


def read_pickle(content: bytes, effort: Effort, start: int = 0, wanted: str | None = None) -> Pickle:
    """One pickle in `content` from `start` on, with the Things of the name that is wanted.

    Raises FaultError for one that is cut off, or that would run code; ExhaustedError.
    """
    machine = _Machine(wanted)
    try:
        end = _follow(machine, content, start, effort)
        value = machine.pop()
        if machine.stack or machine.marks:
            raise IndexError
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise incomplete("holds a pickle that is cut off or damaged") from error
    return Pickle(end, value, machine.things, machine.persistent)


def _follow(machine: _Machine, content: bytes, at: int, effort: Effort) -> int:
    """Do all operations up to STOP, and return the offset behind it. Raises what damage makes Python raise.

    The few operations that nearly all of a checkpoint's metadata consists of are done here, at a fifth of the
    time; the others by their row in the table.
    """
    stack, memo, marks = machine.stack, machine.memo, machine.marks
    put, push = memo.__setitem__, stack.append
    file = io.BytesIO(content)
    left = effort.operations
    try:
        while left > 0:
            left -= 1
            code = content[at]
            at += 1
            if code == 0x94:  # MEMOIZE
                put(len(memo), stack[-1])
            elif code == 0x68:  # BINGET
                push(memo[content[at]])
                at += 1
            elif code == 0x6A:  # LONG_BINGET
                push(memo[int.from_bytes(content[at : at + 4], "little")])
                at += 4
            elif code == 0x71:  # BINPUT
                put(content[at], stack[-1])
                at += 1
            elif code == 0x72:  # LONG_BINPUT
                if at + 4 > len(content):
                    raise IndexError
                put(int.from_bytes(content[at : at + 4], "little"), stack[-1])
                at += 4
            elif (plain := _PLAIN[code]) is not None:
                plain(machine, None)
            elif code == 0x4B:  # BININT1
                push(content[at])
                at += 1
            elif code == 0x28:  # MARK
                marks.append(len(stack))
            elif code == 0x8C:  # SHORT_BINUNICODE
                end = at + 1 + content[at]
                if end > len(content):
                    raise IndexError
                push(content[at + 1 : end].decode("utf-8", "surrogatepass"))
                at = end
            elif code == 0x58:  # BINUNICODE
                end = at + 4 + int.from_bytes(content[at : at + 4], "little")
                if end > len(content):
                    raise IndexError
                push(content[at + 4 : end].decode("utf-8", "surrogatepass"))
                at = end
            elif code == 0x4A:  # BININT
                if at + 4 > len(content):
                    raise IndexError
                push(int.from_bytes(content[at : at + 4], "little", signed=True))
                at += 4
            elif code == 0x4D:  # BININT2
                push(content[at] | content[at + 1] << 8)
                at += 2
            elif code == 0x2E:  # STOP
                return at
            else:
                opcode = _OPCODES[code]
                argument = None
                if opcode.arg is not None:
                    file.seek(at)
                    argument = opcode.arg.reader(file)
                    at = file.tell()
                _OPERATIONS[opcode.name](machine, argument)
        raise ExhaustedError
    finally:
        effort.operations = left


def skim_pickle(descriptor: int, start: int, size: int, effort: Effort) -> set[bytes]:
    """The shards that a pickle too large to follow names: it is only searched. Raises FaultError, OSError."""
    if os.pread(descriptor, 1, start + size - 1) != b".":
        raise incomplete("holds a pickle that is cut off or damaged")
    shards: set[bytes] = set()
    for at in range(start, start + size, BLOCK):
        # Blocks overlap, so that no name is cut in two.
        block = effort.read(descriptor, min(BLOCK + 256, start + size - at), at)
        if found := _DANGER.search(block):
            raise suspect(f"would run code when it is loaded: {found[0][-40:]!r}")
        shards.update(_SHARD.findall(block))
    return shards


def _push(machine: _Machine, argument: Any) -> None:
    machine.stack.append(argument)


def _nothing(machine: _Machine, argument: Any) -> None:
    """Protocol and frame: nothing changes."""


def _mark(machine: _Machine, argument: Any) -> None:
    machine.marks.append(len(machine.stack))


def _pop(machine: _Machine, argument: Any) -> None:
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.pop()


def _pop_mark(machine: _Machine, argument: Any) -> None:
    machine.pop_mark()


def _duplicate(machine: _Machine, argument: Any) -> None:
    machine.stack.append(machine.stack[-1])


def _make(value: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, argument: machine.stack.append(value())


def _tuple(size: int) -> Callable[[_Machine, Any], None]:
    def operation(machine: _Machine, argument: Any) -> None:
        items = [machine.pop() for _ in range(size)]
        machine.stack.append(items[::-1])

    return operation


def _list_of_marked(machine: _Machine, argument: Any) -> None:
    machine.stack.append(machine.pop_mark())


def _dict_of_marked(machine: _Machine, argument: Any) -> None:
    items = machine.pop_mark()
    machine.stack.append({})
    machine.set_items(machine.stack[-1], items)


def _append(machine: _Machine, argument: Any) -> None:
    item = machine.pop()
    if isinstance(machine.stack[-1], list):
        machine.stack[-1].append(item)


def _extend(machine: _Machine, argument: Any) -> None:
    items = machine.pop_mark()
    if isinstance(machine.stack[-1], list):
        machine.stack[-1].extend(items)


def _set_item(machine: _Machine, argument: Any) -> None:
    value = machine.pop()
    key = machine.pop()
    machine.set_items(machine.stack[-1], [key, value])


def _set_items(machine: _Machine, argument: Any) -> None:
    items = machine.pop_mark()
    machine.set_items(machine.stack[-1], items)


def _global(machine: _Machine, argument: Any) -> None:
    module, _, name = argument.partition(" ")
    machine.name(module, name)


def _stack_global(machine: _Machine, argument: Any) -> None:
    name = machine.pop()
    machine.name(machine.pop(), name)


def _reduce(machine: _Machine, argument: Any) -> None:
    arguments = machine.pop()
    machine.call(machine.pop(), arguments)


def _new_object_with_names(machine: _Machine, argument: Any) -> None:
    machine.pop()
    _reduce(machine, argument)


def _object(machine: _Machine, argument: Any) -> None:
    items = machine.pop_mark()
    machine.call(items[0], items[1:])


def _instance(machine: _Machine, argument: Any) -> None:
    items = machine.pop_mark()
    _global(machine, argument)
    machine.call(machine.pop(), items)


def _build(machine: _Machine, argument: Any) -> None:
    state = machine.pop()
    if isinstance(machine.stack[-1], Thing):
        machine.stack[-1].state = state


def _persistent(machine: _Machine, argument: Any) -> None:
    identity = machine.pop() if argument is None else argument
    machine.persistent.append(identity)
    machine.stack.append(Thing("persistent", identity))


def _put(machine: _Machine, argument: Any) -> None:
    machine.memo[argument] = machine.stack[-1]


def _memoize(machine: _Machine, argument: Any) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _get(machine: _Machine, argument: Any) -> None:
    machine.stack.append(machine.memo[argument])


def _registered(machine: _Machine, argument: Any) -> None:
    raise suspect("names what it imports by a number")


_CONSTANTS = (
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8", "NONE",
)  # fmt: skip
_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(_CONSTANTS, _push),
    **dict.fromkeys(("PROTO", "FRAME", "READONLY_BUFFER"), _nothing),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _registered),
    **dict.fromkeys(("TUPLE", "LIST", "FROZENSET"), _list_of_marked),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), _extend),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_TUPLE", "EMPTY_SET"), _make(list)),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _reduce),
    **dict.fromkeys(("PERSID", "BINPERSID"), _persistent),
    "NEWTRUE": _make(lambda: True),
    "NEWFALSE": _make(lambda: False),
    "EMPTY_DICT": _make(dict),
    "NEXT_BUFFER": _make(lambda: None),
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": _duplicate,
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "DICT": _dict_of_marked,
    "APPEND": _append,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "NEWOBJ_EX": _new_object_with_names,
    "OBJ": _object,
    "INST": _instance,
    "BUILD": _build,
    "MEMOIZE": _memoize,
}
_OPCODES = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
# The operations without an argument, by their code.
_PLAIN: list[Callable[[_Machine, Any], None] | None] = [None] * 256
for _code, _opcode in _OPCODES.items():
    if _opcode.arg is None and _opcode.name != "STOP":
        _PLAIN[_code] = _OPERATIONS[_opcode.name]
