"""How many visitors a page has at once: each has a kernel, which keeps what it searches in memory.

Voila loads this in the server's process; it imports nothing of the study.
"""

from __future__ import annotations

from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.ioloop import IOLoop
from tornado.web import HTTPError
from traitlets import Int

# Seconds for a page to connect to its kernel at first, and again after a connection was lost.
TO_COME, TO_RETURN = 180, 30


class VisitorKernels(AsyncMappingKernelManager):
    """Starts kernels up to a number; who comes then is told to come later.

    A kernel ends soon after its page has gone. Voila's own message of a page that closes is refused
    by the server, for want of the cookie against forged requests.
    """

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
            kernel = await super().start_kernel(*args, **options)
        finally:
            self._starting -= 1
        IOLoop.current().call_later(TO_COME, self._end_if_left, kernel)
        return kernel

    def notify_disconnect(self, kernel_id):
        """Take note that a page has gone, or has lost its connection."""
        super().notify_disconnect(kernel_id)
        IOLoop.current().call_later(TO_RETURN, self._end_if_left, kernel_id)

    async def _end_if_left(self, kernel_id: str) -> None:
        if kernel_id in self and not self._kernel_connections.get(kernel_id):
            await self.shutdown_kernel(kernel_id)
