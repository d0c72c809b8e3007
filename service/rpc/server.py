"""The gRPC server of a service, in HTTP's process and event loop."""

from __future__ import annotations

import asyncio

import grpc
from google.longrunning import operations_pb2_grpc, operations_proto_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from unified_latents.service.http.core import Service
from unified_latents.service.rpc.health import Health, Reflection
from unified_latents.service.rpc.methods import Methods
from unified_latents.service.rpc.operations import Operations
from unified_latents.service.rpc.proto import ul_pb2, ul_pb2_grpc

_MAX_METADATA = 32 * 2**10


class RpcServer:
    """`ul.v1`, health and reflection; without TLS, as HTTP is: that is for a proxy."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._server: grpc.aio.Server | None = None
        self._following: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; the port, which a 0 leaves to the system. `RuntimeError` where it is taken."""
        settings = self._service.settings
        self._server = grpc.aio.server(
            options=(
                ("grpc.so_reuseport", 0),  # or two services would share a port unawares
                ("grpc.max_receive_message_length", settings.max_body),
                ("grpc.max_metadata_size", _MAX_METADATA),
            )
        )
        health = self._add(self._server)
        host = f"[{host}]" if ":" in host else host
        bound = self._server.add_insecure_port(f"{host}:{port}")
        await self._server.start()
        self._following = asyncio.create_task(health.follow())
        return bound

    async def stop(self, grace: float) -> None:
        """Take no calls, and end those that are left after `grace` seconds."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        if self._server is not None:
            await self._server.stop(grace)

    def _add(self, server: grpc.aio.Server) -> Health:
        names = [
            service.full_name
            for file in (ul_pb2, operations_proto_pb2, health_pb2, reflection_pb2)
            for service in file.DESCRIPTOR.services_by_name.values()
        ]
        health = Health(self._service, names)
        ul_pb2_grpc.add_UnifiedLatentsServicer_to_server(Methods(self._service), server)
        operations_pb2_grpc.add_OperationsServicer_to_server(Operations(self._service), server)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            Reflection(self._service, names), server
        )
        return health
