"""How near ``attrscore plan`` comes to what the job then takes, each in a process of its own.

    python benchmarks/planning.py [--quick]

Wall seconds; nothing else should run beside it. Asserts nothing; ``README.md`` has the table.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from timing import begin, parser, table

MANY = ["method=[grad_cam,guided_grad_cam,integrated_gradients,saliency]", "layers=all_conv"]
JOBS = {
    "tiny CNN, 2D": ["dataset.cells=256"],
    "tiny CNN, 2D, four methods, two scorers": [
        "dataset.cells=256",
        *MANY,
        "scorer=[grad_camo,swap]",
    ],
    "tiny CNN, 3D": ["dataset=phantom_3d", "dataset.cells=64"],
    "ResNet-18, 2D, two methods, its stages": [
        "model=monai_resnet",
        "dataset.cells=64",
        "method=[grad_cam,saliency]",
        "layers=stages",
    ],
    "ResNet-18, 3D, its stages": [
        "model=monai_resnet",
        "dataset=phantom_3d",
        "dataset.cells=24",
        "layers=stages",
        "batch_size=8",
    ],
    "DenseNet-121, 2D": ["model=monai_densenet", "dataset.cells=64"],
    "DenseNet-121, 3D": ["model=monai_densenet", "dataset=phantom_3d", "dataset.cells=16"],
    "EfficientNet-B0, 2D": ["model=monai_efficientnet", "dataset.cells=64"],
    "EfficientNet-B0, 3D": ["model=monai_efficientnet", "dataset=phantom_3d", "dataset.cells=16"],
}


def attrscore(*arguments: str) -> str:
    command = [Path(sys.executable).with_name("attrscore"), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(arguments: Sequence[str] | None = None) -> None:
    given = parser(__doc__).parse_args(arguments)
    begin(given)
    rows = []
    for name, overrides in list(JOBS.items())[: 1 if given.quick else None]:
        with tempfile.TemporaryDirectory() as results:
            asked = [*overrides, f"results={results}", f"threads={given.threads}"]
            said = json.loads(attrscore("plan", *asked, "--json"))[0]["seconds"]
            attrscore(*asked, "figures=none")
            (job,) = Path(results).glob("jobs/*/job.json")
            took = json.loads(job.read_text())["runs"][0]["seconds"]
        rows.append([name, f"{said:.1f}", f"{took:.1f}", f"{said / took:.2f}"])
    table(["job", "estimated s", "took s", "ratio"], rows)


if __name__ == "__main__":
    main()
