"""A stand-in for `mx.fast.metal_kernel` that runs the kernel on the CPU.

    monkeypatch.setattr(mx.fast, "metal_kernel", EmulatedKernel)
    with emulation(order=1) as run:
        ...  # code that makes kernels and calls them
    run.launches  # what was launched

MLX writes the Metal source (`source`), g++ compiles it against the headers of `msl/` (`compiler`), and the
threads of a threadgroup run as fibers (`runner`). Outputs, threadgroup memory and matrices hold NaN until
they are written; thread variables hold a pattern. Not modelled: speed, registers, rounding of the matrix
unit, fast math, swizzles, quads.

Metal may fuse products with sums and may flush subnormal floats, and may do neither. The emulator does
neither unless it is told to: with `contract` and with `flush`. MLX's own operations run on the CPU, and
flush nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from metal import compiler, runner
from metal.counts import Traffic, Work
from metal.runner import Buffer, SanitizerError
from metal.source import EmulationError, Source, generated, to_cpp

__all__ = [
    "EmulatedKernel",
    "Emulation",
    "EmulationError",
    "Launch",
    "SanitizerError",
    "Traffic",
    "Work",
    "emulation",
]

_metal_kernel = mx.fast.metal_kernel
_NUMPY = {mx.bfloat16: np.uint16}
for _name in (
    "bool_",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
):
    _NUMPY[getattr(mx, _name)] = getattr(np, _name)


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel."""

    name: str
    source: Source
    grid: tuple[int, ...]
    threadgroup: tuple[int, ...]
    template: tuple[tuple[str, Any], ...]
    threadgroup_bytes: int
    buffers: tuple[Traffic, ...]  # empty unless it is counted
    work: Work  # zeros likewise


@dataclass
class Emulation:
    """Options of an emulation, and its launches."""

    order: int = 0  # of the threads: 0 ascending, 1 descending, 2 shuffled
    threads: int = 2  # of the CPU; each runs whole threadgroups
    sanitizer: str | None = None  # "address" (with undefined behaviour) or "thread"
    count: bool = False
    dry: bool = False  # nothing is compiled and run: only sources are made, outputs stay NaN
    contract: bool = False  # products are fused with sums, unless the source forbids it
    flush: bool = False  # subnormal floats count as zero
    launches: list[Launch] = field(default_factory=list)


_current: ContextVar[Emulation | None] = ContextVar("emulation", default=None)


@contextmanager
def emulation(
    order: int = 0,
    threads: int = 2,
    sanitizer: str | None = None,
    count: bool = False,
    dry: bool = False,
    contract: bool | None = None,
    flush: bool | None = None,
) -> Iterator[Emulation]:
    """Sets how emulated kernels run inside; mx.compile is off there, since its tracers hold no data.

    `contract` and `flush` are those of the emulation around this one if they are None.
    """
    if sanitizer is not None and sanitizer not in compiler.SANITIZERS:
        raise ValueError(
            f"sanitizer must be None or one of {sorted(compiler.SANITIZERS)}, got {sanitizer!r}"
        )
    if sanitizer and count:
        raise ValueError("a launch can't be counted under a sanitizer")
    around = _current.get()
    outermost = around is None
    around = around or Emulation()
    run = Emulation(
        order,
        threads,
        sanitizer,
        count,
        dry,
        around.contract if contract is None else contract,
        around.flush if flush is None else flush,
    )
    token = _current.set(run)
    if outermost:
        mx.disable_compile()
    try:
        yield run
    finally:
        _current.reset(token)
        if outermost:
            mx.enable_compile()


def _buffer(x: mx.array) -> Buffer:
    return np.ascontiguousarray(np.asarray(x.view(mx.uint16) if x.dtype == mx.bfloat16 else x))


def _output(shape: Sequence[int], dtype: mx.Dtype, init_value: float | None) -> Buffer:
    if init_value is not None:
        return _buffer(mx.full(shape, init_value, dtype)).copy()
    out = np.empty(shape, _NUMPY[dtype])
    out.reshape(-1).view(np.uint8).fill(0xFF)
    return out


class EmulatedKernel:
    """Made and called like the result of `mx.fast.metal_kernel`. Inputs reach the kernel contiguous, always."""

    def __init__(
        self,
        name: str,
        input_names: Sequence[str],
        output_names: Sequence[str],
        source: str,
        header: str = "",
        ensure_row_contiguous: bool = True,
        atomic_outputs: bool = False,
        compile_options: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self.input_names = list(input_names)
        self.output_names = list(output_names)
        options: dict[str, Any] = (
            {} if compile_options is None else {"compile_options": compile_options}
        )
        self._kernel: Any = _metal_kernel(
            name=name,
            input_names=self.input_names,
            output_names=self.output_names,
            source=source,
            header=header,
            ensure_row_contiguous=ensure_row_contiguous,
            atomic_outputs=atomic_outputs,
            **options,
        )
        self._sources: dict[Any, tuple[Source, str, list[str]]] = {}

    def __call__(
        self,
        *,
        inputs: Sequence[Any],
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[mx.Dtype],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        template: Sequence[tuple[str, Any]] | None = None,
        init_value: float | None = None,
        verbose: bool = False,
        stream: Any = None,
    ) -> list[mx.array]:
        if isinstance(stream, (mx.Stream, mx.Device, mx.DeviceType)) and _is_cpu(stream):
            raise ValueError("[metal_kernel] Only supports the GPU.")
        arrays = [x if isinstance(x, mx.array) else mx.array(x) for x in inputs]
        outputs = [
            _output(s, d, init_value) for s, d in zip(output_shapes, output_dtypes, strict=False)
        ]
        call: dict[str, Any] = {
            "output_shapes": [tuple(s) for s in output_shapes],
            "output_dtypes": list(output_dtypes),
            "grid": tuple(grid),
            "threadgroup": tuple(threadgroup),
            "template": list(template or []),
        }
        source, cpp, slots = self._translate(arrays, call)
        if verbose:
            print(source.msl)
        self._run(
            source,
            cpp,
            slots,
            [_buffer(x) for x in arrays],
            outputs,
            call,
            _current.get() or Emulation(),
            0,
        )
        results = [mx.array(out) for out in outputs]
        return [
            r.view(d) if d == mx.bfloat16 else r
            for r, d in zip(results, output_dtypes, strict=True)
        ]

    def source(self, inputs: Sequence[Any], **call: Any) -> Source:
        """The Metal source of a call with these keywords; nothing is run."""
        arrays = [x if isinstance(x, mx.array) else mx.array(x) for x in inputs]
        return generated(self._kernel, arrays, **call)

    def run_last_threadgroup(
        self,
        inputs: Sequence[Buffer],
        outputs: Sequence[Buffer],
        *,
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        template: Sequence[tuple[str, Any]] | None = None,
    ) -> None:
        """Runs only the last threadgroup, in place, on buffers that may be larger than memory.

        Pages of `np.zeros` that nobody touches cost nothing, so offsets beyond 2^32 elements can be tested.
        """
        lazy = [mx.zeros(x.shape, getattr(mx, str(x.dtype))) for x in inputs]  # never evaluated
        call: dict[str, Any] = {
            "output_shapes": [x.shape for x in outputs],
            "output_dtypes": [getattr(mx, str(x.dtype)) for x in outputs],
            "grid": grid,
            "threadgroup": threadgroup,
            "template": list(template or []),
        }
        last = 2**63
        self._run(*self._translate(lazy, call), inputs, outputs, call, Emulation(threads=1), last)

    def _translate(
        self, arrays: Sequence[mx.array], call: dict[str, Any]
    ) -> tuple[Source, str, list[str]]:
        """Metal source, C++ and the names of the buffers in their order; once per shapes, types and template."""
        template = tuple((name, str(value)) for name, value in call["template"])
        shapes = tuple((x.shape, str(x.dtype)) for x in arrays)
        results = tuple(zip(call["output_shapes"], map(str, call["output_dtypes"]), strict=False))
        key = (shapes, template, results, call["grid"], call["threadgroup"])
        if key not in self._sources:
            source = generated(self._kernel, arrays, **call)
            self._sources[key] = (source, *to_cpp(source, self.name))
        return self._sources[key]

    def _run(
        self,
        source: Source,
        cpp: str,
        slots: list[str],
        inputs: Sequence[Buffer],
        outputs: Sequence[Buffer],
        call: dict[str, Any],
        options: Emulation,
        first: int,
    ) -> None:
        named = dict(zip([*self.input_names, *self.output_names], [*inputs, *outputs], strict=True))
        for name, x in zip(self.input_names, inputs, strict=True):
            named[f"{name}_shape"] = np.array(x.shape, np.int32)
            named[f"{name}_strides"] = np.array(
                [stride // x.itemsize for stride in x.strides], np.int64
            )
            named[f"{name}_ndim"] = np.array(x.ndim, np.int32)
        buffers = [named[name] for name in slots]
        grid, threadgroup = call["grid"], call["threadgroup"]
        try:
            runner.check_launch(grid, threadgroup)
            if options.dry:
                result = runner.Outcome(0, [], Work())
            elif options.sanitizer:
                result = runner.run_sanitized(
                    cpp, options.sanitizer, buffers, grid, threadgroup, order=options.order
                )
            else:
                result = runner.run_library(
                    cpp,
                    buffers,
                    grid,
                    threadgroup,
                    order=options.order,
                    threads=options.threads,
                    count=options.count,
                    contract=options.contract,
                    flush=options.flush,
                    first=first,
                )
        except SanitizerError as error:
            raise SanitizerError(self._explain(source, str(error)), error.report) from None
        except EmulationError as error:
            raise EmulationError(self._explain(source, str(error))) from None
        data = {*self.input_names, *self.output_names}
        traffic = tuple(
            Traffic(name, buffer.nbytes, *counts)
            for name, buffer, counts in zip(slots, buffers, result.buffers, strict=False)
            if name in data
        )
        template = tuple(call["template"])
        options.launches.append(
            Launch(
                self.name,
                source,
                grid,
                threadgroup,
                template,
                result.threadgroup_bytes,
                traffic,
                result.work,
            )
        )

    def _explain(self, source: Source, message: str) -> str:
        """The message with the kernel's name and the text of the lines that it names."""
        lines = source.msl.split("\n")
        named = sorted({int(n) for n in re.findall(rf"\b{re.escape(self.name)}:(\d+)", message)})
        quoted = [f"{self.name}:{n}: {lines[n - 1].strip()}" for n in named if n <= len(lines)]
        return "\n  ".join([f"kernel {self.name!r}: {message}", *quoted])


def _is_cpu(stream: Any) -> bool:
    device = getattr(stream, "device", stream)
    return getattr(device, "type", device) == mx.DeviceType.cpu
