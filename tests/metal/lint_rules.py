"""Rules of Metal that C++ lacks, on the tree that libclang makes of a source.

Every rule is a generator of findings (line, text). Sources are templates that nothing instantiates, so
types may be unknown; declarations are read as text where libclang does not know `thread`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

QUALIFIERS = {"thread", "device", "constant", "threadgroup"}
COMMENT = re.compile(rb"//[^\n]*|/\*.*?\*/", re.DOTALL)
UNROLLED = re.compile(rb"(UNROLL|unroll\(full\)\"?\)?)\s*$")
BARE_UNROLL = re.compile(rb"(?:\)|\belse|\bdo)\s*UNROLL\b")
# What rounding took: a - (sum - z), or fma(a, b, -product) and fma(-q, b, a).
RESIDUAL = re.compile(rb"\b\w+ - \(\w+ - \w+\)|\bfma\((-\w+, [\w.]+, [\w.]+|\w+, \w+, -\w+)\)")
CONTRACTION = re.compile(rb"#pragma METAL fp contract\((\w+)\)")
DECLARATOR = re.compile(rb"(?:operator\s*\(\s*\)|operator\W+?|\w+)\s*\(")

NO_BOUNDS = "whose loop has no constant bounds"

Finding = tuple[int, str]


class Rules:
    """The findings of all rules on one source.

    Args:
        unit: The cursor of the translation unit.
        name: The name of its file; what it includes is not checked.
        code: Its text.
    """

    def __init__(self, unit: Any, name: str, code: bytes) -> None:
        clang = import_module("clang.cindex")
        self.kinds: Any = clang.CursorKind
        self.types: Any = clang.TypeKind
        self.static = clang.StorageClass.STATIC
        self.unit, self.name = unit, name
        # Comments become spaces, so that offsets stay.
        self.code = COMMENT.sub(lambda m: re.sub(rb"[^\n]", b" ", m[0]), code)
        self.arrays = {
            cursor.spelling
            for cursor in self._walk(unit)
            if cursor.kind == self.kinds.FIELD_DECL and self._is_array(cursor.type)
        }

    def findings(self) -> Iterator[Finding]:
        yield from self._declarations(self.unit)
        yield from self._forms()
        yield from self._residuals()
        yield from self._indices(self.unit, {})

    def _walk(self, cursor: Any) -> Iterator[Any]:
        """All cursors below this one that are in the file."""
        for child in cursor.get_children():
            if child.location.file is None or child.location.file.name == self.name:
                yield child
                yield from self._walk(child)

    def _is_array(self, kind: Any) -> bool:
        """Whether it is an array or a reference to one."""
        if self._is(kind, "LVALUEREFERENCE"):
            kind = kind.get_pointee()
        return self._is(kind, "CONSTANTARRAY") or self._is(kind, "DEPENDENTSIZEDARRAY")

    def _is(self, kind: Any, name: str) -> bool:
        """Whether a type is of that kind; libclang's own lookup fails on bfloat."""
        return kind._kind_id == getattr(self.types, name).value

    def _spaces(self, cursor: Any) -> set[str]:
        """The address spaces that a declaration names; they may stand before its extent."""
        start, end = cursor.extent.start.offset, cursor.location.offset
        statement = re.split(rb"[;{}(,]", self.code[max(0, start - 200) : start])[-1]
        words = re.findall(r"\w+", (statement + b" " + self.code[start:end]).decode())
        return QUALIFIERS & set(words)

    def _declarations(self, parent: Any) -> Iterator[Finding]:
        """Pointers and member functions name an address space, constants live in `constant`."""
        kinds = self.kinds
        scopes = (kinds.TRANSLATION_UNIT, kinds.NAMESPACE, kinds.STRUCT_DECL, kinds.CLASS_TEMPLATE)
        methods = (kinds.CXX_METHOD, kinds.FUNCTION_TEMPLATE, kinds.CONVERSION_FUNCTION)
        for cursor in parent.get_children():
            if cursor.location.file is not None and cursor.location.file.name != self.name:
                continue
            line = cursor.location.line
            if cursor.kind in (kinds.PARM_DECL, kinds.VAR_DECL, kinds.FIELD_DECL):
                spaces = self._spaces(cursor)
                pointer = self._is(cursor.type, "POINTER")
                if (pointer or self._is(cursor.type, "LVALUEREFERENCE")) and not spaces:
                    yield (
                        line,
                        f"{cursor.spelling!r} points without an address space (thread, device, ...)",
                    )
                if pointer and self._is_array(cursor.type.get_pointee()):
                    yield line, f"{cursor.spelling!r} points to an array: take a reference to it"
                fixed = parent.kind in scopes or cursor.storage_class == self.static
                if cursor.kind == kinds.VAR_DECL and fixed and not spaces:
                    yield line, f"{cursor.spelling!r} is static and not `constant`"
            member = cursor.kind in methods and parent.kind in scopes[2:]
            if member and not cursor.is_static_method() and not self._names_this(cursor):
                yield line, f"{cursor.spelling!r} is a member without an address space"
            yield from self._declarations(cursor)

    def _names_this(self, method: Any) -> bool:
        """Whether an address space stands between the parameters and the body of a function."""
        found = DECLARATOR.match(self.code, method.location.offset)
        if found is None:
            return False
        at, depth = found.end(), 1
        while depth:
            depth += {b"(": 1, b")": -1}.get(self.code[at : at + 1], 0)
            at += 1
        tail = re.match(rb"[\w\s]*", self.code[at:])
        return tail is not None and bool(QUALIFIERS & set(tail[0].decode().split()))

    def _forms(self) -> Iterator[Finding]:
        """Forms that no kernel in public use has, so that nobody knows how Metal takes them."""
        kinds = self.kinds
        for cursor in self._walk(self.unit):
            line = cursor.location.line
            if cursor.kind == kinds.LAMBDA_EXPR:
                yield line, "a lambda: MSL has none"
            if cursor.kind == kinds.ENUM_DECL and (cursor.is_anonymous() or not cursor.spelling):
                yield line, "an unnamed enumeration: say `static constexpr constant`"
            if cursor.kind == kinds.CONDITIONAL_OPERATOR:
                _, *choices = cursor.get_children()
                if any(self._is_array(choice.type) for choice in map(self._inside, choices)):
                    yield line, "a choice between arrays: say `if constexpr`, or index one array"
        for found in BARE_UNROLL.finditer(self.code):
            line = self.code.count(b"\n", 0, found.end()) + 1
            yield line, "UNROLL as the only statement of a branch or loop: write braces"

    def _residuals(self) -> Iterator[Finding]:
        """Errors of rounding are computed only where no product is fused with a sum."""
        for found in RESIDUAL.finditer(self.code):
            modes = CONTRACTION.findall(self.code, 0, found.start())
            if modes[-1:] != [b"off"]:
                line = self.code.count(b"\n", 0, found.start()) + 1
                yield line, "an error of rounding without `#pragma METAL fp contract(off)`"

    def _inside(self, cursor: Any) -> Any:
        """The expression below the conversions and parentheses that libclang does not name."""
        while cursor.kind in (self.kinds.UNEXPOSED_EXPR, self.kinds.PAREN_EXPR):
            children = list(cursor.get_children())
            if len(children) != 1:
                break
            cursor = children[0]
        return cursor

    def _indices(self, parent: Any, loops: dict[Any, str]) -> Iterator[Finding]:
        """Arrays in registers are indexed by constants, or they are moved to memory.

        `loops` holds for each variable of a loop around `parent` why it isn't constant; "" if it is.
        """
        kinds = self.kinds
        for cursor in parent.get_children():
            if cursor.location.file is not None and cursor.location.file.name != self.name:
                continue
            inner = loops
            if cursor.kind == kinds.FOR_STMT:
                own = self._loop(cursor, loops)
                inner = loops | own
                if NO_BOUNDS in own.values():
                    yield cursor.location.line, "UNROLL of a loop without constant bounds"
            elif cursor.kind == kinds.ARRAY_SUBSCRIPT_EXPR:
                base, index = cursor.get_children()
                if self._in_registers(base):
                    for name, reason in self._variables(index, loops):
                        yield (
                            cursor.extent.start.line,
                            f"an array in registers is indexed by {name!r}, {reason}",
                        )
            yield from self._indices(cursor, inner)

    def _loop(self, loop: Any, loops: dict[Any, str]) -> dict[Any, str]:
        """The variables of a loop, and why they aren't constants."""
        *head, _ = loop.get_children()
        names = {
            cursor.hash: ""
            for part in head[:1]
            for cursor in part.walk_preorder()
            if cursor.kind == self.kinds.VAR_DECL
        }
        reason = ""
        if not UNROLLED.search(self.code[: loop.extent.start.offset][-80:]):
            reason = "whose loop has no UNROLL"
        elif any(True for part in head for _ in self._variables(part, loops | names)):
            reason = NO_BOUNDS
        return dict.fromkeys(names, reason)

    def _variables(self, expression: Any, loops: dict[Any, str]) -> Iterator[tuple[str, str]]:
        """Names in an expression that aren't constants, and why."""
        kinds = self.kinds
        for cursor in (expression, *self._walk(expression)):
            member = cursor.kind == kinds.MEMBER_REF_EXPR and not self._is_static(cursor)
            if member or cursor.kind == kinds.ARRAY_SUBSCRIPT_EXPR:
                yield self._text(cursor), "which is not constant"
                continue
            what = cursor.referenced if cursor.kind == kinds.DECL_REF_EXPR else None
            if what is None or what.kind not in (kinds.VAR_DECL, kinds.PARM_DECL):
                continue
            if what.hash in loops:
                if loops[what.hash]:
                    yield cursor.spelling, loops[what.hash]
            elif not self._is_constant(what, loops):
                yield cursor.spelling, "which is not constant"

    def _is_static(self, member: Any) -> bool:
        """Whether it is a static member: `S::NAME`, or one of the class that it is named in."""
        what = member.referenced
        return "::" in self._text(member) if what is None else what.kind == self.kinds.VAR_DECL

    def _text(self, cursor: Any) -> str:
        return self.code[cursor.extent.start.offset : cursor.extent.end.offset].decode()

    def _is_constant(self, variable: Any, loops: dict[Any, str]) -> bool:
        """Whether it is constexpr, or const with a value that is made of constants."""
        start, end = variable.extent.start.offset, variable.location.offset
        if b"constexpr" in self.code[max(0, start - 30) : end]:
            return True
        if variable.kind != self.kinds.VAR_DECL or not variable.type.is_const_qualified():
            return False
        *_, value = [None, *variable.get_children()]
        return value is not None and not any(True for _ in self._variables(value, loops))

    def _in_registers(self, base: Any) -> bool:
        """Whether what is indexed is an array, or the elements of a matrix, of this thread."""
        kinds = self.kinds
        base = self._inside(base)
        text = self._text(base)
        if base.kind == kinds.ARRAY_SUBSCRIPT_EXPR:
            return self._in_registers(next(iter(base.get_children())))
        if base.kind == kinds.CALL_EXPR:
            return text.endswith("thread_elements()")
        if base.kind == kinds.MEMBER_REF_EXPR:
            if base.referenced is not None:
                return self._is_array(base.referenced.type)
            # A member of an unknown type: if that is a parameter as such, of pointers to inputs.
            (owner,) = base.get_children()
            return text.split(".")[-1].strip() in self.arrays and "<" in owner.type.spelling
        if base.kind != kinds.DECL_REF_EXPR or base.referenced is None:
            return False
        what, spaces = base.referenced.type, self._spaces(base.referenced)
        pointer = self._is(what, "POINTER") and spaces == {"thread"}
        return pointer or (self._is_array(what) and spaces <= {"thread"})
