// A gRPC client whose code ts-proto made from the proto.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { type ClientReadableStream, Metadata, type ServiceError, credentials, status } from "@grpc/grpc-js";
import { type Adapter, AdapterServiceClient, AdapterState, ListAdaptersRequest, LoadAdapterRequest, UnloadAdapterRequest, type WatchAdaptersResponse } from "proto/chorale/v1/adapters";
import { type DeepPartial, GenerateRequest, type GenerateResponse, GenerateStreamRequest, type GenerateStreamResponse, InferenceServiceClient } from "proto/chorale/v1/inference";

const address = process.env.CHORALE_GRPC!;
const expect = JSON.parse(readFileSync(process.env.CHORALE_EXPECT!, "utf8"));
const { prompt, voices, text_prompt: textPrompt, text_tokens: textTokens } = expect;
const chat = (voice: string): string => expect.chat[voice].text;
const ok = (name: string) => console.log("ok", name);

const bearer = (key: string) => {
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${key}`);
  return metadata;
};
const user = bearer(process.env.CHORALE_KEY!);
const admin = bearer(process.env.CHORALE_ADMIN_KEY!);

// doc: generate
const client = new InferenceServiceClient(address, credentials.createInsecure());
const generate = (request: DeepPartial<GenerateRequest>, metadata: Metadata = user, options = {}) =>
  new Promise<GenerateResponse>((resolve, reject) =>
    client.generate(GenerateRequest.fromPartial(request), metadata, options, (error, answer) => (error ? reject(error) : resolve(answer))),
  );
const asked = { chat: { messages: [{ role: "user", content: prompt }] } };
const both = await generate({
  prompts: [{ text: textPrompt }, asked],
  adapters: ["", "pirate"], // one per prompt, empty is the base model
  sampling: { temperature: 0, maxTokens: 48 },
});
for (const generation of both.generations) console.log(generation.adapter || "base", generation.text);
// doc: end
assert.equal(both.generations[1].text, chat("pirate"));
const base = voices[0];
const adapters: string[] = voices.map((v: string) => (v === base ? "" : v));
const greedy = { temperature: 0, maxTokens: 96 };

const texts = await generate({
  prompts: voices.map(() => ({ text: textPrompt })),
  adapters,
  sampling: { temperature: 0, maxTokens: textTokens, ignoreEos: true },
  requestId: "from-node",
});
assert.equal(texts.requestId, "from-node");
assert.deepEqual(texts.generations.map((g) => [g.adapter, g.text]), voices.map((v: string, i: number) => [adapters[i], expect.text[v].text]));
assert.ok(texts.generations.slice(1).every((g) => g.adapterDigest.startsWith("sha256:") && g.adapterVersion === 1));
ok("lists of prompts and adapters");

const brief = { temperature: 0, maxTokens: expect.short_tokens };
const chats = await generate({ prompts: voices.map(() => asked), adapters, sampling: brief });
assert.deepEqual(
  chats.generations.map((g) => [g.text, g.usage!.promptTokens, g.usage!.completionTokens]),
  voices.map((v: string) => [expect.short[v].text, expect.short[v].prompt_tokens, expect.short[v].completion_tokens]),
);
ok("chat");

// doc: stream
const said = ["", ""];
const stream = client.generateStream(GenerateStreamRequest.fromPartial({ request: { prompts: [asked, asked], adapters: ["json", "sql"], sampling: greedy } }), user);
for await (const piece of stream as AsyncIterable<GenerateStreamResponse>) {
  said[piece.promptIndex] += piece.text;
  if (piece.finish) console.log(piece.adapter, said[piece.promptIndex]);
}
// doc: end
assert.deepEqual(said, [chat("json"), chat("sql")]);
ok("stream");

const sampled = { prompts: [asked], adapters: [""], sampling: { temperature: 1.5, n: 3, seed: 5, maxTokens: 8 } };
const first = (await generate(sampled)).generations.map((g) => g.text);
assert.deepEqual((await generate(sampled)).generations.map((g) => g.text), first);
assert.ok(first.length === 3 && new Set(first).size > 1);
ok("n and seed");

const stop = chat("pirate").slice(8, 14);
const [cut] = (
  await generate({
    prompts: [asked],
    adapters: ["pirate"],
    sampling: { temperature: 0, maxTokens: 96, stop: [stop] },
    logprobs: { enabled: true, top: 2, promptStart: 0 },
  })
).generations;
assert.deepEqual([cut.text, cut.finish!.text], [chat("pirate").split(stop)[0], stop]);
assert.equal(cut.logprobs.length, cut.tokenIds.length);
assert.equal(cut.promptLogprobs.length, cut.usage!.promptTokens);
assert.ok(cut.logprobs.every((p) => p.token!.logprob <= 0 && p.top.length === 2 && p.top[0].tokenId === p.token!.tokenId));
ok("logprobs and stop");

const answers = await Promise.all(adapters.map((a) => generate({ prompts: [asked], adapters: [a], sampling: brief })));
assert.deepEqual(answers.map((a) => a.generations[0].text), voices.map((v: string) => expect.short[v].text));
ok("together");

// The reason stands in grpc-status-details-bin, a google.rpc.Status; of it only
// what these tests ask is read.
const fails = async (code: status, reason: string, call: () => Promise<unknown>, ...words: string[]) =>
  assert.rejects(call, (error: ServiceError) => {
    assert.equal(error.code, code, error.message);
    const details = Buffer.from(error.metadata.get("grpc-status-details-bin")[0] as Buffer).toString("latin1");
    for (const word of [reason, ...words]) assert.ok(details.includes(word), `${word} in ${details}`);
    return true;
  });
const unknown = { prompts: [asked], adapters: ["nobody"] };
await fails(status.NOT_FOUND, "ADAPTER_NOT_FOUND", () => generate(unknown), "google.rpc.ErrorInfo", "chorale");
ok("unknown adapter");
const wrong = { prompts: [asked], sampling: { temperature: -1, n: 1000 } };
await fails(status.INVALID_ARGUMENT, "INVALID_REQUEST", () => generate(wrong), "google.rpc.BadRequest", "sampling.temperature", "sampling.n");
ok("invalid fields");

const registry = new AdapterServiceClient(address, credentials.createInsecure());
const manage = <Answer>(method: string, request: object, metadata: Metadata = admin) =>
  new Promise<Answer>((resolve, reject) =>
    (registry as any)[method](request, metadata, (error: ServiceError | null, answer: Answer) => (error ? reject(error) : resolve(answer))),
  );
const load = LoadAdapterRequest.fromPartial({ name: "late-node", source: process.env.CHORALE_SOURCE! });
await fails(status.UNAUTHENTICATED, "UNAUTHENTICATED", () => generate(unknown, new Metadata()));
await fails(status.PERMISSION_DENIED, "ADMIN_KEY_REQUIRED", () => manage("loadAdapter", load, user));
ok("keys");

const told: string[] = [];
const changes: ClientReadableStream<WatchAdaptersResponse> = registry.watchAdapters({ fromRevision: 0 }, admin);
changes.on("data", (change: WatchAdaptersResponse) => {
  for (const a of change.adapters) told.push(`${a.name} ${AdapterState[a.state]}`);
  for (const name of change.removed) told.push(`${name} gone`);
});
changes.on("error", (error: ServiceError) => assert.equal(error.code, status.CANCELLED));
const { adapter } = await manage<{ adapter: Adapter }>("loadAdapter", load);
assert.equal(adapter.state, AdapterState.ADAPTER_STATE_LOADED);
const listed = (await manage<{ adapters: Adapter[] }>("listAdapters", ListAdaptersRequest.fromPartial({}))).adapters.map((a) => a.name);
assert.deepEqual(["late-node", ...voices.slice(1)].filter((v) => !listed.includes(v)), []);
const late = { prompts: [asked], adapters: ["late-node"], sampling: greedy };
const [answer] = (await generate(late)).generations;
assert.deepEqual([answer.text, answer.adapterDigest], [expect.late, adapter.digest]);
await manage("unloadAdapter", UnloadAdapterRequest.fromPartial({ name: "late-node" }));
await fails(status.NOT_FOUND, "ADAPTER_NOT_FOUND", () => generate(late));
for (let i = 0; i < 1000 && !told.includes("late-node gone"); i++) await new Promise((done) => setTimeout(done, 20));
changes.cancel();
assert.ok(told.includes("late-node ADAPTER_STATE_LOADED") && told.includes("late-node gone"), `${told}`);
assert.deepEqual(voices.slice(1).filter((v: string) => !told.includes(`${v} ADAPTER_STATE_LOADED`)), []);
ok("load, watch, list, unload");

const endless = { prompts: [asked], adapters: ["sql"], sampling: { maxTokens: 1500, ignoreEos: true } };
// The server keeps the deadline as well, and resets the stream; where that comes
// before Node's own timer, grpc-js says CANCELLED.
await assert.rejects(generate(endless, user, { deadline: Date.now() + 1000 }), (error: ServiceError) =>
  [status.DEADLINE_EXCEEDED, status.CANCELLED].includes(error.code),
);
ok("deadline");

const running = client.generateStream(GenerateStreamRequest.fromPartial({ request: endless }), user);
const ended = new Promise<ServiceError>((resolve) => running.on("error", resolve));
await new Promise((resolve) => running.once("data", resolve));
running.cancel();
assert.equal((await ended).code, status.CANCELLED);
ok("cancel");
