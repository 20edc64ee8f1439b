"""How every `python -m serving.x` ends: one line on stderr and the error's own exit code, never a traceback
for something that the person at the keyboard can mend.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from lake.errors import MulleError


def exit_code(main: Callable[[], int]) -> int:
    """Run `main`; a `MulleError` becomes `error: ...` on stderr and its exit code, Ctrl-C becomes 130."""
    try:
        return main()
    except MulleError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
