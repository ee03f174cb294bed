"""Examples that each verb's --help shows. No torch here."""

_RECIPE = "configs/recipes/digits_resnet18.yaml"
EXAMPLES: dict[str, tuple[str, ...]] = {
    "phalanx init": ("phalanx init photographs -o flowers.yaml",),
    "phalanx doctor": ("phalanx doctor", "phalanx doctor --slurm gpu --json"),
    "phalanx train": (
        f"phalanx train {_RECIPE} name=first --nproc 2",
        f"phalanx train {_RECIPE} configs/cluster/local.yaml dist.strategy=fsdp optim.lr=0.1",
    ),
    "phalanx resume": ("phalanx resume runs/first --nproc 4", "phalanx resume runs/first optim.lr=0.01 --fork lower"),
    "phalanx submit": (f"phalanx submit {_RECIPE} configs/cluster/slurm_one_node.yaml --dry-run",),
    "phalanx status": ("phalanx status", "phalanx status runs/first --json", "phalanx status --sort best --watch"),
    "phalanx compare": ("phalanx compare runs/first runs/second --plot losses.png --metric val/top1",),
    "phalanx report": ("phalanx report runs/first", "phalanx report runs/first runs/second -o both.html"),
    "phalanx logs": ("phalanx logs runs/first --rank 1 --lines 50",),
    "phalanx cancel": ("phalanx cancel runs/first",),
    "phalanx evaluate": ("phalanx evaluate runs/first --best", "phalanx evaluate runs/first --also runs/second --json"),
    "phalanx predict": ("phalanx predict runs/first 'photographs/*.jpg' -o found --best",),
    "phalanx export": ("phalanx export runs/first --best -o digits.onnx", "phalanx export weights.safetensors -o digits.pt2"),
    "phalanx data": (f"phalanx data {_RECIPE} -o sheet.png",),
    "phalanx checkpoint": ("phalanx checkpoint ls runs/first", "phalanx checkpoint verify runs/first"),
    "phalanx checkpoint ls": ("phalanx checkpoint ls runs/first --json",),
    "phalanx checkpoint verify": ("phalanx checkpoint verify runs/first --step 100",),
    "phalanx checkpoint consolidate": ("phalanx checkpoint consolidate runs/first --best -o weights.safetensors",),
    "phalanx checkpoint diff": ("phalanx checkpoint diff runs/first@100 runs/second@100 --tolerance 1e-6",),
    "phalanx verify-exact": (f"phalanx verify-exact {_RECIPE} dist.reduce=exact --steps 4",),
    "phalanx find-lr": (f"phalanx find-lr {_RECIPE} --plot rates.png",),
    "phalanx cross-validate": (f"phalanx cross-validate {_RECIPE} --folds 5",),
    "phalanx models": ("phalanx models --kind segmentation", "phalanx models resnet50"),
    "phalanx config": (f"phalanx config {_RECIPE} dist.strategy=fsdp", "phalanx config --keys"),
    "phalanx completion": ("phalanx completion bash > ~/.local/share/bash-completion/completions/phalanx",),
}
