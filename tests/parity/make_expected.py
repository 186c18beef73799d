"""Outputs of the reference implementations, at the commits that foreign_code.py names.

    python tests/parity/make_expected.py LIGHTNINGDIT SIT REPA TIMM     (four checkouts)

The weights are those of parity_cases.py, so that outputs alone are kept; no code is copied.
"""

import sys
from pathlib import Path

import torch
from foreign_code import COMMITS, imported, prepare
from parity_cases import CASES, inputs, weights
from safetensors.torch import save_file


@torch.no_grad()
def output(made: torch.nn.Module, arguments: dict) -> torch.Tensor:
    """What the network says with our weights; REPA's second result is left out."""
    drawn = weights({name: tuple(value.shape) for name, value in made.state_dict().items()})
    rest = made.load_state_dict(drawn, strict=False)
    if rest.unexpected_keys or any("pos" not in key and "rope" not in key for key in rest[0]):
        raise SystemExit(f"weights do not fit: {rest}")
    found = made.eval()(*inputs(arguments))
    return (found[0] if isinstance(found, tuple) else found).contiguous()


def main(lightningdit: str, sit: str, repa: str, timm: str) -> None:
    """Write the outputs of every case."""
    prepare(Path(timm))
    homes = {
        "lightningdit": (Path(lightningdit), "models.lightningdit", "LightningDiT"),
        "sit": (Path(sit), "models", "SiT"),
        "repa": (Path(repa), "models.sit", "SiT"),
    }
    expected = {}
    for family, (folder, module, name) in homes.items():
        network = getattr(imported(folder, module), name)
        for case, arguments in CASES[family].items():
            expected[f"{family}.{case}"] = output(network(**arguments), arguments)
    kept = Path(__file__).with_name("expected.safetensors")
    save_file(expected, kept, metadata=COMMITS)
    kept.chmod(0o644)


if __name__ == "__main__":
    main(*sys.argv[1:])
