"""Runs the Metal kernels without Metal: `emulator` executes them, `lint` checks what execution can't see."""
