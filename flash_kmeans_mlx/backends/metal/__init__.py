"""The Metal backend: kernels of `kernels/metal/` through `mx.fast.metal_kernel`."""
