"""A traced network as a TFLite file, by LiteRT's converter from StableHLO.

The converter's Python entry is not documented; the extra pins its version, and a test reads the operations that it
writes.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mnet_jax.deploy import imported, stablehlo
from mnet_jax.errors import UserError

SIGNATURE = "serving_default"


def export(traced: Any) -> bytes:
    """The TFLite file of a traced evaluation, with the input "images" [B, H, W, C] and the output "outputs".

    Raises:
      UserError: an operation that TFLite lacks; or the converter is not installed.
    """
    api = imported("litert_converter.mlir._mlir_libs.converter_api_ext", "tflite")
    ir = imported("litert_converter.mlir.ir", "tflite")
    passes = imported("litert_converter.mlir.passmanager", "tflite")
    text = stablehlo.lowered(traced, "cpu").mlir_module()
    with ir.Context() as context:
        api.prepare_mlir_context(context)
        module = ir.Module.parse(text)
        main = next(operation for operation in module.body.operations if operation.sym_name.value == "main")
        api.set_signature(main.operation, SIGNATURE, ["images"], ["outputs"])
        manager = passes.PassManager()
        api.run_convert_to_tfl_passes(module, manager, api.ConvertToTFLConfig())
        try:
            manager.run(module.operation)
            file = api.export_flatbuffer_to_bytes(module.operation)
        except ir.MLIRError as error:
            raise UserError(f"the network cannot be written as TFLite: {str(error).splitlines()[0]}") from error
    return file


def operations(file: bytes) -> Counter[str]:
    """How many operations of each type a TFLite file has."""
    interpreter = imported("ai_edge_litert.interpreter", "tflite")
    without_delegates = interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    loaded = interpreter.Interpreter(model_content=file, experimental_op_resolver_type=without_delegates)
    return Counter(operation["op_name"] for operation in loaded._get_ops_details())


def runner(file: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """A function from images to outputs that runs the file in LiteRT's interpreter, on one thread.

    Where input and output of the file are 8-bit integers, it rounds the images and scales the outputs.
    """
    interpreter = imported("ai_edge_litert.interpreter", "tflite")
    loaded = interpreter.Interpreter(model_content=file, num_threads=1)
    call = loaded.get_signature_runner()
    inputs, outputs = call.get_input_details()["images"], call.get_output_details()["outputs"]

    def run(images_BHWC: np.ndarray) -> np.ndarray:
        if inputs["dtype"] == np.int8:
            scale, zero = inputs["quantization"]
            images_BHWC = np.clip(np.round(images_BHWC / scale) + zero, -128, 127).astype(np.int8)
        result = call(images=images_BHWC)["outputs"]
        if outputs["dtype"] == np.int8:
            scale, zero = outputs["quantization"]
            result = (result.astype(np.float32) - zero) * np.float32(scale)
        return result

    return run


def quantized(file: bytes, images: Sequence[np.ndarray]) -> bytes:
    """The TFLite file in 8-bit integers: weights by channel, feature maps by their extremes over these images.

    The quantizer's own calibration averages the extremes over the images, which cuts off what only some of them reach;
    here they are joined (Jacob et al. 2018, section 3, with true minima and maxima).
    """
    quantizer = imported("litert_quantizer.quantizer", "tflite")
    recipe = imported("litert_quantizer.recipe", "tflite")
    work = quantizer.Quantizer(bytearray(file), recipe.static_wi8_ai8())
    ranges: dict[str, dict[str, Any]] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*experimental_preserve_all_tensors", category=UserWarning)
        for image in images:
            for name, found in work.calibrate({SIGNATURE: [{"images": image}]}).items():
                before = ranges.setdefault(name, found)
                low, high = np.minimum(before["min"], found["min"]), np.maximum(before["max"], found["max"])
                ranges[name] = {**found, "min": low, "max": high}
        result = work.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)
