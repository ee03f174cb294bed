"""`benchmarks/overfit.py`, reduced: one small network of each family overfits four images; docs/overfit.md has every one."""

from typing import Any

import pytest

from benchmarks.overfit import markdown, networks, overfit

SMALL: dict[str, dict[str, Any]] = {
    "fcn8s": {"backbone": "vgg11_bn", "options": {"hidden": 256}},
    "segnet": {"backbone": "vgg11_bn", "rate": 3e-3},
    "unet": {"options": {"width": 16, "batch_norm": True}, "rate": 4e-3},
    "pspnet": {"backbone": "resnet18"},
    "deeplabv3plus": {"backbone": "resnet18"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_network_overfits_four_images(name: str) -> None:
    """To a tenth of the first loss; the frequencies of the classes alone would leave 41 % of it."""
    figures = overfit(name, images=4, share=0.1, **SMALL[name])
    assert figures["ok"] and figures["last"] < 0.1 * figures["first"], figures


def test_the_page_tells_what_fails_and_what_is_not_there_yet() -> None:
    figures = {"first": 2.0, "last": 0.05, "steps": 9, "seconds": 1.0, "parameters": 10**6, "side": 64}
    page = "\n".join(markdown({"unet": figures | {"ok": True}, "fcn8s": figures | {"ok": False, "last": 1.5}}))
    assert "**1 of 2 networks do**" in page and "| fcn8s | 1.0 M | 64 | 2.000 | 1.5000 | 9 | **no** |" in page
    assert "**Not run yet: fcn32s, fcn16s, fcn," in page and "Not run yet" not in "\n".join(
        markdown(dict.fromkeys(networks(), figures | {"ok": True}))
    )
