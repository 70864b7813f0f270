"""A traced network as a TFLite file, by LiteRT's converter from StableHLO.

The converter's Python entry is not documented; the extra pins its version, and a test reads the operations that it
writes.
"""

from collections import Counter
from collections.abc import Callable
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
    """A function from images to outputs that runs the file in LiteRT's interpreter, on one thread."""
    interpreter = imported("ai_edge_litert.interpreter", "tflite")
    loaded = interpreter.Interpreter(model_content=file, num_threads=1)
    run = loaded.get_signature_runner()
    return lambda images_BHWC: run(images=images_BHWC)["outputs"]
