"""Two sessions in one program: worker processes for real work, the caller's own loop for a test double.

python examples/two_sessions.py [ADDRESS]
"""

from __future__ import annotations

import asyncio
import os
import sys

import actorlite as al


@al.remote
def where() -> int:
    return os.getpid()


async def main(address: str) -> None:
    async with al.init(address) as workers, al.init("inproc://") as here:
        # With several sessions open a call has to say which one it means.
        with workers.use():
            apart = await where()
        with here.use():
            inside = await where()
        print("other process:", apart != os.getpid())
        print("this process:", inside == os.getpid())

        # The same per call. The one that `use()` names is only the default.
        with workers.use():
            print("chosen by option:", await where.options(session=here)() == os.getpid())

    # One session alone is found wherever the call is made: in threads, request handlers and fixtures too.
    async with al.init("inproc://"):
        print("from a thread:", await asyncio.to_thread(lambda: where.remote().result()) == os.getpid())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "local"))
