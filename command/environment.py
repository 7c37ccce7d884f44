"""Where a run took place, as the header of its record."""

import importlib.metadata
import platform

PACKAGES = ("manual-backprop", "jax", "jaxlib", "numpy")


def header(command: str, choices: dict) -> dict:
    """Versions, device and the choices that a reader needs to run the same again."""
    import jax

    device = jax.devices()[0]
    versions = {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}
    return {
        "kind": "header",
        "versions": versions,
        "platform": device.platform,
        "device": device.device_kind,
        "environment": {"system": platform.system(), "machine": platform.machine()},
        "command": command,
    } | choices


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
