"""Metal kernels without Metal: `emulator` runs them on the CPU, `lint` checks their address spaces."""
