"""Events, answers and jobs as messages."""

from __future__ import annotations

import base64

from google.longrunning import operations_pb2
from google.protobuf.json_format import ParseDict
from google.rpc.code_pb2 import CANCELLED, DEADLINE_EXCEEDED, INTERNAL, RESOURCE_EXHAUSTED

from unified_latents.service.engine.messages import (
    Accepted,
    Event,
    Preview,
    Progress,
    Ready,
    Result,
)
from unified_latents.service.http import calls, schemas
from unified_latents.service.http.negotiation import MEDIA_TYPES
from unified_latents.service.http.problems import invalid
from unified_latents.service.jobs.calls import Call
from unified_latents.service.jobs.job import FINISHED, Job
from unified_latents.service.rpc.proto import ul_pb2

PREFIX = "operations/"
_CODES = {
    "cancelled": CANCELLED,
    "deadline_exceeded": DEADLINE_EXCEEDED,
    "out_of_memory": RESOURCE_EXHAUSTED,
}


def tell(call: Call, ready: Ready, identity: str, event: Event) -> list[ul_pb2.Event]:
    """What a stream says of an event: of the result, one item a sample."""
    match event:
        case Accepted():
            accepted = ul_pb2.Accepted(request_id=identity, steps=event.steps, eta=event.eta)
            return [ul_pb2.Event(accepted=accepted)]
        case Progress():
            progress = ul_pb2.Progress(
                done=event.done, steps=event.steps, stage=event.stage, eta=event.eta
            )
            return [ul_pb2.Event(progress=progress)]
        case Preview():
            kind, picture = calls.look(event)
            data, media_type = base64.b64decode(picture), MEDIA_TYPES[kind]
            preview = ul_pb2.Preview(sample=event.sample, media_type=media_type, data=data)
            return [ul_pb2.Event(preview=preview)]
        case Result():
            return [ul_pb2.Event(item=_item(item)) for item in calls.images(call, ready, event)]
        case _:
            return []


def encoded(call: Call, ready: Ready, done: Result) -> ul_pb2.EncodeResponse:
    """The answer of Encode."""
    body = bytes(calls.render(call, ready, done).body)
    answer = schemas.EncodeResponse.model_validate_json(body)
    bitrate = answer.bitrate
    return ul_pb2.EncodeResponse(
        latent=base64.b64decode(answer.latent),
        media_type=answer.media_type,
        kind=answer.kind,
        shape=answer.shape,
        latent_space=answer.latent_space,
        fit=answer.fit.model_dump_json(),
        bitrate=None if bitrate is None else ul_pb2.Bitrate(**bitrate.model_dump()),
        receipt=_receipt(answer.receipt),
    )


def _item(item: schemas.Item) -> ul_pb2.Item:
    data, receipt = base64.b64decode(item.b64), _receipt(item.receipt)
    return ul_pb2.Item(data=data, media_type=item.media_type, receipt=receipt)


def _receipt(receipt: schemas.Receipt) -> ul_pb2.Receipt:
    """Field by field of the same name."""
    return ParseDict(receipt.model_dump(mode="json", exclude_none=True), ul_pb2.Receipt())


def job_of(name: str) -> str:
    """The id of the job that an operation stands for."""
    if not name.startswith(PREFIX):
        raise invalid("name", f"must begin with {PREFIX}")
    return name.removeprefix(PREFIX)


def operation(job: Job) -> operations_pb2.Operation:
    """A job as an operation."""
    made = operations_pb2.Operation(name=f"{PREFIX}{job.id}", done=job.state in FINISHED)
    metadata = ul_pb2.JobMetadata(
        kind=job.spec.kind,
        model=job.spec.model,
        state=job.state,
        cancelling=job.cancelling,
        done=job.progress.done,
        steps=job.progress.steps,
        attempts=job.attempts,
    )
    made.metadata.Pack(metadata)
    if job.outcome is not None:
        answer = ul_pb2.JobAnswer(
            path=f"/jobs/{job.id}/result",
            media_type=job.outcome.media_type,
            size=job.outcome.size,
            sha256=job.outcome.sha256,
            headers=job.outcome.headers,
        )
        made.response.Pack(answer)
    elif made.done:
        code = job.reason.code if job.reason else job.state
        made.error.code = _CODES.get(code, INTERNAL)
        made.error.message = f"{code}: {job.reason.detail}" if job.reason else code
    return made
