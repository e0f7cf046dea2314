"""The service: one ASGI application over a `TextEncoder`, for uvicorn and for Ray Serve.

`albert-act-fast serve` runs it; docs/serve.md says how it answers. Needs the extra `serve`.
"""

from __future__ import annotations

_PACKAGES = ("fastapi", "orjson", "prometheus_client", "uvicorn")


def require_extra() -> None:
    """
    Raises:
        ImportError: a package of the extra is missing; names it and how to get it.
    """
    from importlib.util import find_spec

    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"the service needs {', '.join(missing)}: pip install 'albert_act_fast[serve]'"
        )


def __getattr__(name: str):
    # What only reads settings, as `--help` does, loads neither FastAPI nor PyTorch.
    if name == "create_app":
        require_extra()
        from albert_act_fast.serve.app import create_app

        return create_app
    if name in ("ModelOptions", "ServeSettings"):
        from albert_act_fast.serve import settings

        return getattr(settings, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["ModelOptions", "ServeSettings", "create_app", "require_extra"]
