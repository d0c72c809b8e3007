"""grpc.health.v1 over the service's readiness, and reflection for those who have a key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any

from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio as reflection

from unified_latents.service.http.access.guard import ANY
from unified_latents.service.http.core import Service
from unified_latents.service.rpc.asking import Context, asked

_ROUND = 0.5
"""Seconds after which whoever watches learns of a change."""


class Health(health.aio.HealthServicer):
    """Serving while GET /readyz is a 200; open to everybody, as that is."""

    def __init__(self, service: Service, names: Iterable[str]) -> None:
        super().__init__()
        self._service = service
        self._names = ("", *names)

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """As of now."""
        await self.refresh()
        return await super().Check(request, context)

    async def refresh(self) -> None:
        """Tell those who watch what is true now."""
        name = "SERVING" if self._service.serving else "NOT_SERVING"
        status = health_pb2.HealthCheckResponse.ServingStatus.Value(name)
        for each in self._names:
            await self.set(each, status)

    async def follow(self) -> None:
        """Refresh for ever."""
        while True:
            await self.refresh()
            await asyncio.sleep(_ROUND)


class Reflection(reflection.ReflectionServicer):
    """What methods there are, for any key."""

    def __init__(self, service: Service, names: Iterable[str]) -> None:
        super().__init__(names)
        self._service = service

    async def ServerReflectionInfo(  # type: ignore[override]  # the stub takes it for a coroutine
        self,
        request_iterator: AsyncIterable[reflection_pb2.ServerReflectionRequest],
        context: Context,
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        """Answer as long as somebody asks."""
        answers: Any = super().ServerReflectionInfo(request_iterator, context)
        async with asked(self._service, context, "ServerReflectionInfo", ANY):
            async for answer in answers:
                yield answer
