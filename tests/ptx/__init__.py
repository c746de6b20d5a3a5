"""Runs Triton kernels' *compiled* code (PTX) on the CPU: no GPU, no driver, no interpreter.

    emulator = Emulator(90)          # compute capability 9.0
    emulator.install(module, ...)    # replaces the kernels of modules
    with emulator.poisoned():        # fresh memory holds NaN and counts as unwritten
        module.forward(...)          # on tensors of the CPU
    emulator.findings                # what the checks found

A launch specialises its arguments as Triton does for a GPU and compiles to PTX; each basic block
becomes Python over NumPy arrays, one element a GPU thread, many programs at once, with a mask where
threads part; it runs on the tensors' own memory. Checked are, as by compute-sanitizer,

- memory: every access lies, aligned, in elements of a tensor that was passed;
- initialisation: memory from torch.empty is not read before a kernel has written it;
- races: between threads of a program that no barrier orders, between programs of a launch, and
  between lanes that store different values to one place in one instruction;
- barriers and shuffles: all lanes of a warp take part, nothing deadlocks.

Not covered: what ptxas makes of the PTX, timing, and the last bit of the hardware's approximations
(exp2 and divisions are rounded correctly here, a fused multiply-add almost always).
"""
