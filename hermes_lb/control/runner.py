"""aiohttp's server, but requests that it can't parse get our form of errors, which does not reveal
the software.

The two methods are hooks of aiohttp (3.14).
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web

from hermes_lb.control.errors import error_response
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
            except web.HTTPException as error:  # an unknown `Expect`
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
        # The first line of aiohttp's message names the error, the others repeat the input.
        said = (message or HTTPStatus(status).phrase).partition("\n")[0].rstrip(" :")
        response = error_response(status, said)
        response.headers.update(HEADERS)
        response.force_close()
        return response
