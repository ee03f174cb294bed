"""Networks: plain single-device modules. Nothing here knows of ranks."""
