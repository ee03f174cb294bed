"""The recipes that come with the project: each says what it did, and describes a network that can be built."""

from pathlib import Path

import pytest
import torch

from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.models import registry
from phalanx.models.options import choices
from phalanx.train.setup.checks import check_model
from tests.support.running import ROOT

RECIPES = sorted((ROOT / "configs/recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_opens_with_its_command_and_what_came_of_it(recipe: Path) -> None:
    opening = [line for line in recipe.read_text().splitlines() if line.startswith("#")]
    commands = [line for line in opening if f"phalanx train {recipe.relative_to(ROOT)}" in line]
    commands += [line for line in opening if f"phalanx submit {recipe.relative_to(ROOT)}" in line]
    assert len(commands) == 1
    assert any("Not run here." in line for line in opening) or any("CPU cores" in line and "torch" in line for line in opening)


@pytest.mark.quick
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_loads_and_its_network_can_be_built(recipe: Path) -> None:
    config = load([str(recipe)], ["data.root=.", "name=recipe"])
    check_model(config)
    with torch.device("meta"):
        network = registry.get(config.model.name).build(
            **choices(config.model.model_dump(), config.data.image_size), num_classes=10
        )
    assert sum(parameter.numel() for parameter in network.parameters()) > 0


def test_numbers_of_the_network_are_numbers_wherever_they_are_written(tmp_path: Path) -> None:
    written = tmp_path / "more.yaml"
    written.write_text("model: {output_stride: 16, options: {width: 8, batch_norm: true, rates: [6, 12]}}\n")
    base = str(ROOT / "configs/recipes/shapes_unet.yaml")
    for model in (load([base, str(written)]).model, load([base], ["model.output_stride=16", "model.options.width=8"]).model):
        assert model.output_stride == 16 and model.options["width"] == 8 and model.options["batch_norm"] is True
    assert load([base, str(written)]).model.options["rates"] == [6, 12]
    with pytest.raises(UserError, match=r"model\.output_stride=12 is not allowed; wanted: one of 8, 16 or 32"):
        load([base], ["model.output_stride=12"])


def test_what_a_message_repeats_cannot_drive_the_terminal_nor_fill_it() -> None:
    said = str(UserError("data/\x1b[2J\ud800\u202e é 日本: \tbroken.\nCorrect it: " + "x" * 10_000 + " in data.root."))
    assert said.startswith("data/\\x1b[2J\\ud800\\u202e é 日本: \\tbroken.\nCorrect it: x") and said.endswith("x in data.root.")
    assert max(map(len, said.splitlines())) < 1_500
