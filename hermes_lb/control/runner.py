"""aiohttp's server, but for its answer to a request that it can't read: that has the form of all
errors here, and tells nothing of what the listener is made with.

The two methods are the places that aiohttp (3.14) leaves for it.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web

from hermes_lb.control.api import error_response
from hermes_lb.control.guard import HEADERS

if TYPE_CHECKING:
    from aiohttp.web import BaseRequest, StreamResponse


class Runner(web.AppRunner):
    """Runs the application."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()

        async def answer(request: BaseRequest) -> StreamResponse:
            try:
                return await made.request_handler(request)
            except web.HTTPException as error:  # an `Expect` that aiohttp does not know
                return error_response(error.status, error.reason)

        return _Server(
            answer,
            request_factory=made.request_factory,
            loop=asyncio.get_running_loop(),
            **made._kwargs,
        )


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> StreamResponse:
        super().handle_error(request, status, exc, message)  # it logs
        # aiohttp's first line says what is wrong, the others repeat what was sent.
        said = (message or HTTPStatus(status).phrase).partition("\n")[0].rstrip(" :")
        response = error_response(status, said)
        response.headers.update(HEADERS)
        response.force_close()
        return response
