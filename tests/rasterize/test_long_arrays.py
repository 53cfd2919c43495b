"""Products of a Gaussian's number are 64-bit, as with four channels the number of a value passes 2**31 early."""

from __future__ import annotations

from tests.triton_compilations import assert_prints

OFFSETS = """
import re
from triton._C.libtriton import ir
from triton.compiler import ASTSource
from triton.compiler.compiler import make_backend

from splatkit_ns.densification import _noise_triton as noise
from splatkit_ns.rasterize import (
    _absolute_gradients_triton as absolute,
    _blending_triton as blended,
    _compositing_triton as compositing,
    _projection_2dgs_triton as projection_2dgs,
    _projection_triton as projection,
)

TARGET = GPUTarget("cuda", 90, 32)
BACKEND = make_backend(TARGET)
WHOLE_NUMBERS = (
    "number", "cameras", "width", "height", "tiles_x", "tiles_y", "antialiased", "depth_stride", "seed", "channels",
    "num_tiles",
)  # fmt: skip
INTEGERS = ("offsets_ptr", "ids_ptr", "places_ptr", "lasts_ptr", "radii_ptr")
SHORT = ("views_ptr", "Ks_ptr", "lenses_ptr", "backgrounds_ptr", "offsets_ptr", "ids_ptr", "places_ptr", "numbers_ptr")


def code(kernel, constants):
    signature = {}
    for name in kernel.arg_names:
        if name.endswith("_ptr"):
            others = {"seen_ptr": "*u8", "numbers_ptr": "*fp64"}
            signature[name] = "*i32" if name in INTEGERS else others.get(name, "*fp32")
        elif name in WHOLE_NUMBERS:
            signature[name] = "i32"
        else:
            signature[name] = "constexpr" if name in constants else "fp32"
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(k),): v for k, v in constants.items()})
    options = BACKEND.parse_options({})
    context = ir.context()
    ir.load_dialects(context)
    BACKEND.load_dialects(context)
    functions = BACKEND.get_codegen_implementation(options)
    return str(source.make_ir(TARGET, options, functions, BACKEND.get_module_map(), context))


def narrow(text):
    names = dict(re.findall(r"(%\\S+) = tt.splat (%\\w+_ptr|%ptr) ", text))
    found = set()
    for base, offset, types in re.findall(r"tt.addptr (%\\S+), (%\\S+) : (.*)", text):
        base = names.get(base, base)
        is_array = base.endswith("ptr") and base[1:] not in SHORT
        if is_array and not offset.startswith("%c") and "i64" not in types.split(",", 1)[1]:
            found.add(base)
    return found


blending = {"X": 4, "BACKGROUND": True, "T": 16, "SEGMENT": 128}
gradients = {**blending, "ABS": False}
for kernel, constants in (
    (blended.forward, blending),
    (compositing._backward, gradients),
    (absolute._absolute, {"BACKGROUND": True, "T": 16}),
    (projection._forward, {"LENS": 0, "AXES": True, "B": 128}),
    (projection._backward, {"LENS": 0, "CAMERAS": False, "B": 128}),
    (projection_2dgs._forward, {"B": 128}),
    (projection_2dgs._backward, {"B": 128}),
    (noise._add_noise, {"B": 128}),
):
    text = code(kernel, constants)
    assert text.count("tt.addptr") > 10
    assert not narrow(text), (kernel.__name__, narrow(text))
print("long")
"""


def test_products_of_numbers_of_gaussians_are_long() -> None:
    assert_prints(OFFSETS, "long\n")
