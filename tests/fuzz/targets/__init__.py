"""Every target, by name."""

from tests.fuzz.targets import annotations, checkpoints, configs, faulty, images, runs, tables, weights

TARGETS = {
    target.name: target
    for module in (configs, runs, checkpoints, annotations, tables, images, weights)
    for target in module.TARGETS
}
# Doors that break the law on purpose.
FAULTY = {target.name: target for target in faulty.TARGETS}
