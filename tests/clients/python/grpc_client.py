"""A gRPC client whose code grpcio-tools made from the proto."""

import threading

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from common import admin_key, base, chat, expect, grpc_address, key, long, ok, prompt, same, short, short_tokens, source, text, text_prompt, text_tokens, voices

# doc: generate
from chorale.v1 import inference_pb2 as pb
from chorale.v1 import inference_pb2_grpc

channel = grpc.insecure_channel(grpc_address)
service = inference_pb2_grpc.InferenceServiceStub(channel)
user = [("authorization", f"Bearer {key}")]
answer = service.Generate(
    pb.GenerateRequest(
        prompts=[
            pb.Prompt(text="Once upon a time"),
            pb.Prompt(chat=pb.Chat(messages=[pb.ChatMessage(role="user", content=prompt)])),
        ],
        adapters=["", "pirate"],  # one per prompt, empty is the base model
        sampling=pb.SamplingParams(temperature=0, max_tokens=48),
    ),
    metadata=user,
)
for generation in answer.generations:
    print(generation.adapter or "base", generation.text)
# doc: end
from chorale.v1 import adapters_pb2 as apb
from chorale.v1 import adapters_pb2_grpc

same(answer.generations[1].text, chat("pirate"))
assert answer.generations[0].text.startswith(text(base))
admin_service = adapters_pb2_grpc.AdapterServiceStub(channel)
admin = [("authorization", f"Bearer {admin_key}")]
adapters = ["" if v == base else v for v in voices]
asked = pb.Prompt(chat=pb.Chat(messages=[pb.ChatMessage(role="user", content=prompt)]))
greedy = pb.SamplingParams(temperature=0, max_tokens=96)


def texts(**more):
    """The text prompt for every voice."""
    return pb.GenerateRequest(
        prompts=[pb.Prompt(text=text_prompt)] * len(voices),
        adapters=adapters,
        sampling=pb.SamplingParams(temperature=0, max_tokens=text_tokens, ignore_eos=True),
        **more,
    )


answer = service.Generate(texts(request_id="from-python"), metadata=user)
same(answer.request_id, "from-python")
same([g.text for g in answer.generations], [text(v) for v in voices])
same([g.prompt_index for g in answer.generations], list(range(len(voices))))
same([g.adapter for g in answer.generations], adapters)
assert all(g.adapter_digest.startswith("sha256:") and g.adapter_version == 1 for g in answer.generations[1:])
same([g.finish.reason for g in answer.generations], [pb.FINISH_REASON_LENGTH] * len(voices))
ok("lists of prompts and adapters")

brief = pb.SamplingParams(temperature=0, max_tokens=short_tokens)
answer = service.Generate(pb.GenerateRequest(prompts=[asked] * len(voices), adapters=adapters, sampling=brief), metadata=user)
for voice, g in zip(voices, answer.generations):
    same(g.text, short(voice), voice)
    same((g.usage.prompt_tokens, g.usage.completion_tokens), (expect["short"][voice]["prompt_tokens"], expect["short"][voice]["completion_tokens"]))
ok("chat")

# doc: stream
said = {}
request = pb.GenerateRequest(prompts=[asked, asked], adapters=["json", "sql"], sampling=greedy)
for piece in service.GenerateStream(pb.GenerateStreamRequest(request=request), metadata=user):
    said[piece.prompt_index] = said.get(piece.prompt_index, "") + piece.text
    if piece.HasField("finish"):
        print(piece.adapter, said[piece.prompt_index], piece.usage.completion_tokens)
# doc: end
same(said, {0: chat("json"), 1: chat("sql")})
ok("stream")

sampled = pb.GenerateRequest(prompts=[asked], sampling=pb.SamplingParams(temperature=1.5, n=3, seed=5, max_tokens=8))
first = [g.text for g in service.Generate(sampled, metadata=user).generations]
same([g.text for g in service.Generate(sampled, metadata=user).generations], first)
assert len(first) == 3 and len(set(first)) > 1
ok("n and seed")

stop = chat("pirate")[8:14]
answer = service.Generate(
    pb.GenerateRequest(
        prompts=[asked],
        adapters=["pirate"],
        sampling=pb.SamplingParams(temperature=0, max_tokens=96, stop=[stop]),
        logprobs=pb.LogprobOptions(enabled=True, top=2, prompt_start=0),
    ),
    metadata=user,
).generations[0]
same((answer.text, answer.finish.text), (chat("pirate").split(stop)[0], stop))
same(len(answer.logprobs), len(answer.token_ids))
same(len(answer.prompt_logprobs), answer.usage.prompt_tokens)
assert all(p.token.logprob <= 0 and len(p.top) == 2 and p.top[0].token_id == p.token.token_id for p in answer.logprobs)
ok("logprobs and stop")

calls = [service.Generate.future(pb.GenerateRequest(prompts=[asked], adapters=[a], sampling=brief), metadata=user) for a in adapters]
same([c.result().generations[0].text for c in calls], [short(v) for v in voices])
ok("together")


def fails(code, reason, call):
    """The call must fail with the code and the reason; gives the details by type."""
    try:
        call()
    except grpc.RpcError as error:
        same(error.code(), code, error.details())
        details = {}
        for packed in rpc_status.from_call(error).details:
            for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest):
                if packed.Is(kind.DESCRIPTOR):
                    packed.Unpack(details.setdefault(kind.__name__, kind()))
        same((details["ErrorInfo"].domain, details["ErrorInfo"].reason), ("chorale", reason))
        return details
    raise AssertionError(f"no {reason}")


unknown = pb.GenerateRequest(prompts=[asked], adapters=["nobody"])
fails(grpc.StatusCode.NOT_FOUND, "ADAPTER_NOT_FOUND", lambda: service.Generate(unknown, metadata=user))
fails(grpc.StatusCode.NOT_FOUND, "ADAPTER_NOT_FOUND", lambda: list(service.GenerateStream(pb.GenerateStreamRequest(request=unknown), metadata=user)))
ok("unknown adapter")

wrong = pb.GenerateRequest(prompts=[asked], sampling=pb.SamplingParams(temperature=-1, n=1000))
details = fails(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", lambda: service.Generate(wrong, metadata=user))
same(sorted(v.field for v in details["BadRequest"].field_violations), ["sampling.n", "sampling.temperature"])
ok("invalid fields")

load = apb.LoadAdapterRequest(name="late-python", source=source)
fails(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", lambda: service.Generate(unknown))
fails(grpc.StatusCode.PERMISSION_DENIED, "ADMIN_KEY_REQUIRED", lambda: admin_service.LoadAdapter(load, metadata=user))
ok("keys")

# doc: adapters
told = []


def watch(changes):
    try:
        for change in changes:  # the catalogue first, then each change
            told.extend([(a.name, apb.AdapterState.Name(a.state)) for a in change.adapters] + [(name, "gone") for name in change.removed])
    except grpc.RpcError:
        pass  # canceled below


changes = admin_service.WatchAdapters(apb.WatchAdaptersRequest(), metadata=admin)
watcher = threading.Thread(target=watch, args=[changes])
watcher.start()
loaded = admin_service.LoadAdapter(apb.LoadAdapterRequest(name="late-python", source=source), metadata=admin)
names = [a.name for a in admin_service.ListAdapters(apb.ListAdaptersRequest(), metadata=admin).adapters]
answer = service.Generate(pb.GenerateRequest(prompts=[asked], adapters=["late-python"], sampling=greedy), metadata=user)
admin_service.UnloadAdapter(apb.UnloadAdapterRequest(name="late-python"), metadata=admin)
# doc: end
same(loaded.adapter.state, apb.ADAPTER_STATE_LOADED)
same([n for n in ["late-python", *voices[1:]] if n not in names], [])
same(answer.generations[0].text, expect["late"])
same(answer.generations[0].adapter_digest, loaded.adapter.digest)
fails(
    grpc.StatusCode.NOT_FOUND,
    "ADAPTER_NOT_FOUND",
    lambda: service.Generate(pb.GenerateRequest(prompts=[asked], adapters=["late-python"], sampling=greedy), metadata=user),
)
for _ in range(1000):
    if ("late-python", "gone") in told:
        break
    threading.Event().wait(0.02)
changes.cancel()
watcher.join()
late = [what for name, what in told if name == "late-python"]
assert "ADAPTER_STATE_LOADED" in late and late[-1] == "gone", late
same([v for v in voices[1:] if (v, "ADAPTER_STATE_LOADED") not in told], [])
ok("load, watch, list, unload")

endless = pb.GenerateRequest(prompts=[asked], adapters=["pirate"], sampling=pb.SamplingParams(max_tokens=long, ignore_eos=True))


def ends(code, call):
    try:
        call()
    except grpc.RpcError as error:
        same(error.code(), code)
    else:
        raise AssertionError(f"no {code}")


ends(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: service.Generate(endless, metadata=user, timeout=1))
ok("deadline")

running = service.GenerateStream(pb.GenerateStreamRequest(request=endless), metadata=user)
assert next(running).text
running.cancel()
ends(grpc.StatusCode.CANCELLED, lambda: list(running))
ok("cancel")
