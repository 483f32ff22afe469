"""An asyncio-native distributed runtime."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actorlite.interface import *  # noqa: F403
else:
    # Importing any module of ours runs this file first, also in the node daemon and the zygote, which only carry
    # messages: what users of the interface need is imported when they use the first name of it.

    def __getattr__(name):
        from importlib import import_module
        from importlib.machinery import PathFinder

        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if PathFinder.find_spec(f"{__name__}.{name}", globals()["__path__"]) is not None:
            return import_module(f"{__name__}.{name}")
        interface = import_module("actorlite.interface")
        public = {each: getattr(interface, each) for each in ("__all__", *interface.__all__)}
        if name not in public:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        for each, value in public.items():
            globals().setdefault(each, value)  # somebody may have set one of them, a test for instance
        return public[name]

    def __dir__():
        from importlib import import_module

        return sorted({*globals(), *import_module("actorlite.interface").__all__})


del TYPE_CHECKING
