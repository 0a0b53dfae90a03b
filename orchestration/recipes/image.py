"""The container image that recipes name: a Dockerfile, built in a checkout of the project."""

from __future__ import annotations

from cola.errors import SpecError
from orchestration.recipes.registry import ClusterRequest, Kind
from orchestration.remote.packaging import PACKAGES, SOURCES

BASE = "debian:12-slim"  # its Python is 3.11, the version that constraints.txt was written with
STEPS = "orchestration/templates/image.sh"
FOLDER = "/opt/cola/src"
VENV = "/opt/cola/venv"
# What the NVIDIA container toolkit reads; torch's wheels bring all of CUDA but the driver.
GPU_VARIABLES = ("NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility")


def text(request: ClusterRequest) -> str:
    """The Dockerfile: for GPUs, or for nodes without one.

    Raises:
        SpecError: the image's name is none.
    """
    if request.image.split() != [request.image]:
        raise SpecError(f"--image {request.image!r}: is no image's name; give REPOSITORY:TAG")
    device = "cuda" if request.cluster.gpus_per_node else "cpu"
    return "\n".join(dockerfile(device, request.image)) + "\n"


def dockerfile(device: str, image: str) -> list[str]:
    """Its lines. What changes least comes first, so that new sources rebuild the last layers."""
    files = " ".join(name for name in SOURCES if name not in PACKAGES)
    nodes = "with GPUs" if device == "cuda" else "without GPUs"
    options = "" if device == "cuda" else " --gpus-per-node 0"
    variables = [f"PATH={VENV}/bin:$PATH", *(GPU_VARIABLES if device == "cuda" else ())]
    return [
        f"# cola-scaling for nodes {nodes}. In a checkout of the project:",
        f"#     cola recipe --kind image{options} > Dockerfile",
        f"#     docker build --tag {image} .",
        "# Its last step is `cola doctor`: an image in which no study could run is not built.",
        f"FROM {BASE}",
        f"WORKDIR {FOLDER}",
        f"COPY {STEPS} {STEPS}",
        f"RUN bash {STEPS} system",
        f"COPY {files} ./",
        f"RUN bash {STEPS} packages {device}",
        *(f"COPY {package} {package}" for package in PACKAGES),
        f"RUN bash {STEPS} product && bash {STEPS} user",
        f"ENV {' '.join(variables)}",
        "USER cola",
        "WORKDIR /home/cola",
        "RUN cola doctor",
        'CMD ["cola", "--help"]',
    ]


KIND = Kind("image", "the Dockerfile of an image", text, alone=text)
