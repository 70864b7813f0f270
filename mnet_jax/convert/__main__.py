"""`python -m mnet_jax.convert FROM TO`: weights of timm or torchvision to a file of ours, or the other way round."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mnet_jax import config, flags, runtime, trained
from mnet_jax.convert import pytorch
from mnet_jax.errors import UserError
from mnet_jax.models import weights


def main(arguments: Sequence[str] | None = None) -> None:
    """Converts one file, and says in a line or two what it took for granted."""
    parser = argparse.ArgumentParser("python -m mnet_jax.convert", description=__doc__)
    parser.add_argument("source", metavar="FROM", help="a safetensors file, or a folder with model.safetensors")
    parser.add_argument("target", metavar="TO", type=Path, help="the safetensors file to write")
    parser.add_argument(
        "--library",
        choices=tuple(pytorch.LIBRARIES),
        default="",
        help="whose file FROM is (default: by its names), or, where FROM is ours, whose TO shall be",
    )
    args = parser.parse_args(arguments)
    flags.check_file("TO", args.target, (".safetensors",))
    print(_export(args) if _is_ours(Path(args.source)) else _import(args))


def _is_ours(path: Path) -> bool:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return weights.HEADER in (file.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return False  # the import says what is wrong with it


def _export(args: argparse.Namespace) -> str:
    if not args.library:
        raise UserError(f"{args.source} is a file of mnet_jax; allowed: --library with {', '.join(pytorch.LIBRARIES)}")
    ours = trained.load(args.source)
    tensors = pytorch.to_state_dict(ours.network, ours.cfg.model, args.library)
    pytorch.write(args.target, tensors)
    return f"{args.target}: {len(tensors)} tensors of {ours.cfg.model.name} as {args.library} names them"


def _import(args: argparse.Namespace) -> str:
    imported = pytorch.from_file(args.source, args.library)
    imported.save(args.target)
    model, default = imported.cfg.model, config.default().model
    fields = ("name", "stem", "blocks", "last", "num_classes", "padding")
    changed = [
        f"model.{name}={getattr(model, name)}" for name in fields if getattr(model, name) != getattr(default, name)
    ]
    return (
        f"{args.target}: {' '.join(changed)} model.norm.eps={model.norm.eps:g}\n"
        f"images of {imported.input_shape[0]} pixels a side, normalized by mean {imported.mean}, std {imported.std}"
    )


if __name__ == "__main__":
    with runtime.exit_status():
        main()
