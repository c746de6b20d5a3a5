"""Compiles every CPU kernel for 64-bit ARM, whatever processor is here; runs none.

numba translates a kernel to LLVM code as on such a machine, and LLVM compiles that for each of
`TRIPLES`. Prints one JSON object a kernel: its name, the intrinsics of processors that it calls, by
triple its lines of assembly and how often they set the control register, and helpers that are not
in it. It is a program of its own since the kernels look at the processor when they are imported.
"""

import json
import os
import re
import sys

if __name__ == "__main__":  # numba reads it when it is imported; whoever takes TRIPLES keeps theirs
    os.environ |= {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}

import llvmlite.binding as llvm
from numba.core import codegen

TRIPLES = ("aarch64-unknown-linux-gnu", "arm64-apple-macosx14")


def translate_only() -> None:
    """Keep numba from optimising for this processor, and from making machine code for it."""
    library = codegen.JITCodeLibrary
    library._optimize_functions = lambda self, module: None
    library._optimize_final_module = lambda self: None
    library._finalize_specific = lambda self: None
    library.get_pointer_to_function = lambda self, name: self._ensure_finalized() or 0
    codegen.JITCPUCodegen._add_module = lambda self, module: None
    codegen.JITCPUCodegen.set_env = lambda self, name, env: None


def optimised(code: str) -> llvm.ModuleRef:
    """LLVM code with its helpers inlined, for the first of the triples."""
    code = re.sub(r'^target (triple|datalayout) = ".*"\n', "", code, flags=re.MULTILINE)
    module = llvm.parse_assembly(code)
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    options.loop_vectorization = options.slp_vectorization = False
    builder = llvm.create_pass_builder(machine(TRIPLES[0], module), options)
    builder.getModulePassManager().run(module, builder)
    return module


def machine(triple: str, module: llvm.ModuleRef) -> llvm.TargetMachine:
    """The machine that a triple names, with a module made fit for it."""
    made = llvm.Target.from_triple(triple).create_target_machine(opt=0)
    module.triple, module.data_layout = triple, str(made.target_data)
    return made


def kernels() -> list:
    """Every kernel of every module, found where the modules keep them."""
    from mambalab.ops.cpu import conv, dropout, norm, runtime, scan, step

    kept = [
        value for module in (scan, conv, norm, dropout, step) for value in vars(module).values()
    ]
    kept += [value for d in kept if isinstance(d, dict) for value in d.values()]
    runtime._cacheable = False
    return [value for value in kept if isinstance(value, runtime.Kernel)]


def main() -> None:
    llvm.get_default_triple = lambda: TRIPLES[0]
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    translate_only()
    for kernel in kernels():
        compiled = kernel._compile()
        code = compiled._library.get_llvm_str()
        module = optimised(code)
        built = {triple: machine(triple, module).emit_assembly(module) for triple in TRIPLES}
        found = {
            "kernel": compiled.__name__,
            "intrinsics": sorted(set(re.findall(r"@(llvm\.(?:x86|aarch64|arm)[\w.]*)", code))),
            "lines": {triple: text.count("\n") for triple, text in built.items()},
            "flushes": {t: len(re.findall(r"msr\s+FPCR", x)) for t, x in built.items()},
            "absent": re.findall(r"^declare .*mambalab.*$", code, flags=re.MULTILINE),
        }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    sys.exit(main())
