"""The methods of `ul.v1.UnifiedLatents`."""

from __future__ import annotations

from contextlib import aclosing
from functools import partial

from google.longrunning import operations_pb2

from unified_latents.service.engine.messages import Error
from unified_latents.service.engine.seam import EngineError
from unified_latents.service.http.core import Service
from unified_latents.service.http.deferral.defer import jobs_in, submit
from unified_latents.service.http.deferral.results import outcome_of, pieces
from unified_latents.service.http.problems import FieldError, Problem
from unified_latents.service.http.stream.mailbox import follow
from unified_latents.service.jobs.calls import Call
from unified_latents.service.rpc import replies, requests
from unified_latents.service.rpc.asking import Asked, Context, asked
from unified_latents.service.rpc.proto import ul_pb2, ul_pb2_grpc


class Methods(ul_pb2_grpc.UnifiedLatentsServicer):
    """HTTP's calls, prepared, admitted and run by the same service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def Generate(self, request: ul_pb2.GenerateRequest, context: Context) -> None:
        """Samples from a label, as events."""
        async with asked(self._service, context, "Generate", "generate") as who:
            call = await requests.generate_call(self._service, request, who.timeout)
            await self._stream(who, call, context)

    async def Encode(
        self, request: ul_pb2.EncodeRequest, context: Context
    ) -> ul_pb2.EncodeResponse:
        """A picture or clip to its latent."""
        async with asked(self._service, context, "Encode", "encode") as who:
            call = await requests.encode_call(self._service, request, who.timeout)
            ready = self._service.ready()  # the model of now, as POST /encode has it
            done = await self._service.result(who.caller, call.message)
            return await self._service.in_thread(lambda: replies.encoded(call, ready, done))

    async def Decode(self, request: ul_pb2.DecodeRequest, context: Context) -> None:
        """Latents to pictures or clips, as events."""
        async with asked(self._service, context, "Decode", "decode") as who:
            call = await requests.decode_call(self._service, request, who.timeout)
            await self._stream(who, call, context)

    async def Submit(
        self, request: ul_pb2.SubmitRequest, context: Context
    ) -> operations_pb2.Operation:
        """One of the three as a job."""
        async with asked(self._service, context, "Submit", "jobs") as who:
            order = await requests.order(self._service, request)
            made = await submit(self._service, who.caller, order)
            return replies.operation(made.job)

    async def ReadAnswer(self, request: ul_pb2.ReadAnswerRequest, context: Context) -> None:
        """A job's answer, a megabyte at a time."""
        async with asked(self._service, context, "ReadAnswer", "jobs") as who:
            jobs = jobs_in(self._service)
            job = await jobs.queue.get(replies.job_of(request.name), who.caller.name)
            outcome = outcome_of(jobs.queue, job)
            if request.offset > outcome.size:
                raise _beyond(outcome.size)
            read = pieces(jobs.objects, job, outcome, request.offset, outcome.size)
            async for data in read:
                await context.write(ul_pb2.AnswerPart(data=data))

    async def _stream(self, who: Asked, call: Call, context: Context) -> None:
        """Tell a call's events; leaving early cancels it."""
        service = self._service
        ready = service.ready()
        first, events = await service.open(who.caller, call.message)
        async with aclosing(follow(first, events, service.settings.heartbeat)) as told:
            async for event in told:
                if event is None:
                    continue
                if isinstance(event, Error):
                    raise EngineError(event.code, event.detail)
                tell = partial(replies.tell, call, ready, who.identity, event)
                for message in await service.in_thread(tell):
                    await context.write(message)


def _beyond(size: int) -> Problem:
    message = "lies behind the answer"
    fault = FieldError(field="offset", message=message, limit=size)
    return Problem(416, "range_not_satisfiable", f"offset: {message}", [fault])
