"""How many visitors a page has at once: each has a kernel, which keeps what it searches in memory.

Voila loads this in the server's process; it imports nothing of the study.
"""

from __future__ import annotations

from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.web import HTTPError
from traitlets import Int


class VisitorKernels(AsyncMappingKernelManager):
    """Starts kernels up to a number; who comes then is told to come later."""

    visitors = Int(1, config=True, help="how many kernels there may be at once")
    _starting = 0

    async def start_kernel(self, *args, **options):
        """Start a visitor's kernel.

        Raises:
            HTTPError: 503, the page has all its visitors.
        """
        if len(self) + self._starting >= self.visitors:
            raise HTTPError(503, reason=f"All {self.visitors} places are taken, try again later")
        self._starting += 1
        try:
            return await super().start_kernel(*args, **options)
        finally:
            self._starting -= 1
